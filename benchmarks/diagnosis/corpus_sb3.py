"""Runs of the corpus with agents of Stable-Baselines3, watched by the callback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from torch import Tensor, nn

from stablegrad.diagnostics.capacity import measure_capacity
from stablegrad.integrations.sb3 import DiagnosisCallback
from stablegrad.integrations.sb3_policy import policy_kwargs

if TYPE_CHECKING:
    from benchmarks.diagnosis.corpus import Cell

#: Shares of the budget at which capacity is measured.
MEASURED_AT = (0.48, 0.96)
ROWS = 1024


def train_sb3(
    cell: Cell, changes: Mapping[str, Any], depth: int, width: int, rate: float, seed: int
) -> list[dict[str, Any]]:
    """The lines of a run's history, by environment steps and with ``train/return``, as runs of ours have them.

    Args:
        cell: "sb3-ppo" or "sb3-dqn" in an environment; its changes are the constructor's arguments.
        changes: options of the setting, by our names.
        depth: blocks of two layers; plain networks have 2 * depth + 2.
        width: units of a layer.
        rate: times the cell's learning rate.
        seed: of the agent.
    """
    torch.set_num_threads(1)
    kind = getattr(stable_baselines3, cell.algorithm.removeprefix("sb3-").upper())
    arguments = {**cell.changes, "learning_rate": rate * float(cell.changes["learning_rate"])}
    policy = _policy(kind, changes, depth, width)

    def make() -> Any:
        return kind("MlpPolicy", cell.env, policy_kwargs=policy, seed=seed, device="cpu", **arguments)

    look = max(cell.updates // 100, 2)
    diagnosis = DiagnosisCallback(every=look, probe_every=2 * look, warn=False)
    make().learn(cell.steps, callback=CallbackList([diagnosis, _Capacity(diagnosis, make, cell.steps)]))
    assert diagnosis.monitor is not None
    rows = diagnosis.monitor.fetch().to_dict()["rows"]
    scale = cell.steps / max(rows[-1]["step"], 1)
    return [
        {("train/return" if key == "episode_return/network" else key): value for key, value in row.items()}
        | {"step": round(row["step"] * scale)}
        for row in rows
    ]


def _policy(kind: type, changes: Mapping[str, Any], depth: int, width: int) -> dict[str, Any]:
    """As people write it where it is a plain stack, else with our torso."""
    optimizer = changes.get("optimizer.name", "adam")
    if "torso.norm" in changes:
        torso = changes.get("torso.kind", "mlp")
        return policy_kwargs(
            kind, torso=torso, norm=changes["torso.norm"], depth=depth, width=width, optimizer=optimizer
        )
    found = {"net_arch": [width] * (2 * depth + 2), "activation_fn": nn.ReLU}
    return found if optimizer == "adam" else found | {
        "optimizer_class": policy_kwargs(kind, optimizer=optimizer)["optimizer_class"]
    }  # fmt: skip


class _Values(nn.Module):
    """The values of an actor-critic policy as a network."""

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        """[rows, ...] to [rows, 1]."""
        return self.policy.predict_values(observation)


class _Capacity(BaseCallback):
    """Measures what the value network can still learn, at ``MEASURED_AT``."""

    def __init__(self, diagnosis: DiagnosisCallback, make: Any, steps: int):
        super().__init__()
        self.diagnosis, self.make, self.due = diagnosis, make, [share * steps for share in MEASURED_AT]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if not self.due or self.num_timesteps < self.due[0]:
            return
        self.due.pop(0)
        model = self.model
        buffer = getattr(model, "replay_buffer", None) or model.rollout_buffer
        filled = buffer.observations if buffer.full else buffer.observations[: buffer.pos]
        inputs = torch.as_tensor(np.asarray(filled).reshape(-1, *model.observation_space.shape)[-ROWS:])

        def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
            policy = model.policy
            return policy.optimizer_class(network.parameters(), lr=model.lr_schedule(1.0), **policy.optimizer_kwargs)

        found = measure_capacity(
            lambda: _network(self.make().policy), _network(model.policy).state_dict(), inputs, make_optimizer
        )
        assert self.diagnosis.monitor is not None
        self.diagnosis.monitor.log(**found.figures())


def _network(policy: Any) -> nn.Module:
    return policy.q_net if hasattr(policy, "q_net") else _Values(policy)
