"""SIGReg: a penalty on features that are not distributed as a standard Gaussian.

arXiv 2602.19373 for deep RL; the constants are those of its code (IsoGaussian-DRL, af40c7d), which has no weights of
rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLICES, POINTS, LARGEST = 16, 8, 5.0


def random_directions(size: int, generator: torch.Generator) -> Tensor:
    """16 unit vectors, uniform on the sphere, [16, size] float32 on the generator's device."""
    directions = torch.randn(SLICES, size, generator=generator, device=generator.device)
    return directions / directions.norm(dim=1, keepdim=True)


def sigreg(features: Tensor, directions: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Distance of features from a standard Gaussian, by the characteristic functions of one-dimensional slices.

    With the slices :math:`s = \langle x, a \rangle` of features x by directions a, the mean over directions and eight t
    from -5 to 5 of

    .. math:: \left|\mathbb{E}\, e^{i t s} - e^{-t^2 / 2}\right|^2
              = (\mathbb{E} \cos t s - e^{-t^2 / 2})^2 + (\mathbb{E} \sin t s)^2 .

    Args:
        features: [batch, size], computed with in float32 at least.
        directions: [slices, size], unit vectors.
        weight: [batch] 1 for rows that count and 0 for others; None: all count.

    Returns:
        0-d, from 0 to 4.
    """
    features = features.to(torch.promote_types(features.dtype, directions.dtype))
    t = torch.linspace(-LARGEST, LARGEST, POINTS, dtype=features.dtype, device=features.device)
    angles = (features @ directions.T.to(features.dtype))[:, :, None] * t
    if weight is None:
        real, imaginary = angles.cos().mean(dim=0), angles.sin().mean(dim=0)
    else:
        share = weight.to(features.dtype) / weight.sum().clamp(min=1.0)
        real, imaginary = (torch.tensordot(share, part, 1) for part in (angles.cos(), angles.sin()))
    return ((real - (-0.5 * t.square()).exp()).square() + imaginary.square()).mean()
