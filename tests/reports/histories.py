"""Histories like those that a monitor gathers, so that pages of diagnoses can be tested in no time."""

from __future__ import annotations

import math

import numpy as np

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.prescriptions import Prescription

LONG = "actor.features_extractor.backbone.residual_stages"

TORCH = """\
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.second(F.relu(self.first(self.norm(x))))
"""
SB3 = 'model = PPO("MlpPolicy", env, policy_kwargs={"net_arch": [256, 256], "activation_fn": nn.SiLU})'
CLI = "stablegrad train pqn --env LunarLander-v3 --preset stable --torso.norm layer"


def names(layers: int) -> tuple[list[str], list[str]]:
    """(layers, activations) of a network; from 100 layers on with long names."""
    if layers < 100:
        inner = [f"torso.blocks.{index // 2}.{('first', 'second')[index % 2]}" for index in range(layers - 2)]
    else:
        inner = [f"{LONG}.{index // 8}.blocks.{index % 8}.linear" for index in range(layers - 2)]
    found = ["encoder.0", *inner, "head"]
    return found, [f"{name}.relu" for name in found[:-1]]


def history(
    layers: int = 12,
    looks: int = 60,
    *,
    fading: float = 0.0,
    zero_from: tuple[int, float] | None = None,
    nonfinite_from: tuple[int, float] | None = None,
    probe_every: int = 5,
    seed: int = 0,
) -> History:
    """``fading`` decades of gradient are lost a layer by the end, more towards the input; units die with them.

    ``zero_from`` and ``nonfinite_from``, (layer index, share of the looks): from then on its gradient is zero, or no
    number, which the monitor leaves out.
    """
    generator = np.random.default_rng(seed)
    sites, activations = names(layers)
    found = History(order=[site for pair in zip(sites, [*activations, ""], strict=True) for site in pair if site])
    for look in range(looks):
        time = look / max(looks - 1, 1)
        step = 2 if look == 0 else 100 * look
        figures: dict[str, float] = {}
        for depth, site in enumerate(sites):
            loss_of_signal = fading * (layers - 1 - depth) * time**1.5
            norm = 10 ** (-1.5 - 0.6 * time - loss_of_signal + 0.12 * generator.normal() + 0.3 * math.sin(depth))
            weight = 10 + 0.3 * depth % 5 + 6 * time * (1 + 0.3 * math.cos(depth))
            figures |= {
                f"gradient_norm/{site}": norm,
                f"weight_norm/{site}": weight,
                f"update_ratio/{site}": 10 ** (-2.8 - 0.4 * time - 0.7 * loss_of_signal + 0.1 * generator.normal()),
                f"gradient_cosine/{site}": float(np.clip(0.35 - 0.3 * time + 0.15 * generator.normal(), -1, 1)),
            }
            if zero_from and depth == zero_from[0] and time >= zero_from[1]:
                figures |= {f"gradient_norm/{site}": 0.0, f"update_ratio/{site}": 0.0}
            if nonfinite_from and depth == nonfinite_from[0] and time >= nonfinite_from[1]:
                for metric in ("gradient_norm", "update_ratio", "gradient_cosine"):
                    del figures[f"{metric}/{site}"]
                figures[f"nonfinite/{site}"] = 1.0
        for depth, site in enumerate(activations):
            silence = min(0.98, fading * 0.9 * (0.3 + depth / layers) * 2 * time)
            dormant = float(np.clip(0.04 + silence + 0.02 * generator.normal(), 0, 1))
            figures |= {
                f"dormant/{site}": dormant,
                f"dead/{site}": 0.8 * dormant,
                f"gradient_dormant/{site}": float(np.clip(1.05 * dormant, 0, 1)),
            }
        figures |= {
            "error_signal/network": 0.5 * 10 ** (-0.5 * time + 0.05 * generator.normal()),
            "output_size/network": 1 + 9 * time,
            "output_spread/network": 0.5 + 3 * time * (0.02 if fading else 1),
            "input_mean/network": 0.1 * generator.normal(),
            "input_std/network": 1 + 0.05 * generator.normal(),
            "loss/network": 1.2 * 10 ** (-0.8 * time) + 0.05 * generator.random(),
            "episode_return/network": -180
            + 330 * (time if not fading else time * (1 - time) * 2)
            + 15 * generator.normal(),
        }
        if look % probe_every == 0:
            rank = 256 * (math.exp(-6 * time) if fading else 1 - 0.3 * time)
            figures |= {
                "srank/network": 0.7 * rank,
                "effective_rank/network": 0.5 * rank,
                "feature_rank/network": 0.9 * rank,
                "feature_count/network": 256.0,
                "churn/network": 0.12 + 0.5 * bool(fading) * time,
                "churn_encoder/network": 0.08 + 0.4 * bool(fading) * time,
                "churn_head/network": 0.03,
                "target_drift/network": 0.6 * math.exp(-2 * time),
                "hessian_trace/network": 120 * (1 + 4 * time),
                "hessian_top/network": -4 + 30 * time,
            }
        found.add(step, figures)
    return found


def prescriptions() -> list[Prescription]:
    """Two changes, the second without a form for Stable-Baselines3."""
    return [
        Prescription(
            name="residual",
            title="Residual blocks with LayerNorm before each",
            why="the gradient of 9 layers fades on its way",
            rules=("fading_gradient",),
            cost="a tenth more time a step",
            step_time=1.1,
            memory=1.02,
            code={"torch": TORCH, "sb3": SB3, "cli": CLI},
            live=False,
        ),
        Prescription(
            name="lower_learning_rate",
            title="A third of the learning rate",
            why="updates change 7% of the weights",
            rules=("large_update",),
            cost="nothing",
            step_time=1.0,
            memory=1.0,
            code={"torch": "optimizer.param_groups[0]['lr'] /= 3", "cli": f"{CLI} --lr 1e-4"},
            live=True,
        ),
    ]
