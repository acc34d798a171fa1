"""What can be measured of a network in training, as pure functions: tensors in, tensors out, on the same device.

NaN says that there is no value, such as the direction of a gradient that is zero. What is measured at every look
(``gradients``, ``units``, ``policy``, ``values``) never makes the host wait for the device; ranks and curvature, which
decompose matrices, do.
"""

from stablegrad.diagnostics.metrics.curvature import (
    Estimate,
    extreme_eigenvalues,
    hessian_trace,
    hessian_vector_product,
    top_eigenvalue,
)
from stablegrad.diagnostics.metrics.gradients import (
    cosine,
    effective_learning_rate,
    layer_dots,
    layer_norms,
    normalised_step,
    signal_to_noise,
    update_ratio,
    weight_gain,
)
from stablegrad.diagnostics.metrics.per_sample import gradient_gram, per_sample_gradients, per_sample_gram
from stablegrad.diagnostics.metrics.policy import (
    action_churn,
    churn_split,
    expected_atoms,
    gaussian_churn,
    policy_churn,
    tanh_gaussian_churn,
)
from stablegrad.diagnostics.metrics.ranks import (
    check_samples,
    effective_rank,
    feature_rank,
    gradient_covariance_rank,
    ntk_rank,
    singular_values,
    srank,
)
from stablegrad.diagnostics.metrics.units import (
    dead_fraction,
    dormant_fraction,
    gradient_dormant_fraction,
    saturated_fraction,
    unit_mean_abs,
)
from stablegrad.diagnostics.metrics.values import explained_variance, target_drift, value_statistics

__all__ = [
    "Estimate",
    "action_churn",
    "check_samples",
    "churn_split",
    "cosine",
    "dead_fraction",
    "dormant_fraction",
    "effective_learning_rate",
    "effective_rank",
    "expected_atoms",
    "explained_variance",
    "extreme_eigenvalues",
    "feature_rank",
    "gaussian_churn",
    "gradient_covariance_rank",
    "gradient_dormant_fraction",
    "gradient_gram",
    "hessian_trace",
    "hessian_vector_product",
    "layer_dots",
    "layer_norms",
    "normalised_step",
    "ntk_rank",
    "per_sample_gradients",
    "per_sample_gram",
    "policy_churn",
    "saturated_fraction",
    "signal_to_noise",
    "singular_values",
    "srank",
    "tanh_gaussian_churn",
    "target_drift",
    "top_eigenvalue",
    "unit_mean_abs",
    "update_ratio",
    "value_statistics",
    "weight_gain",
]
