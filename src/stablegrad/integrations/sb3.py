"""Stable-Baselines3: the monitor as a callback.

    from stablegrad.integrations.sb3 import DiagnosisCallback

    diagnosis = DiagnosisCallback()
    model.learn(100_000, callback=diagnosis)
    print(diagnosis.report())

Every network of the policy that has an optimizer is watched: the whole policy of PPO, A2C, TRPO and RecurrentPPO, the
Q-network of DQN and QR-DQN, actor and critic of SAC, TD3, DDPG, TQC and CrossQ. Targets are left out.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stablegrad.diagnostics import LEVELS, Finding, History, Monitor, Report, Thresholds, judge
from stablegrad.diagnostics.interventions import INTERVENTIONS, CannotApply
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.rules import logged_outcome, verdict_of
from stablegrad.diagnostics.sb3_code import AgentSettings
from stablegrad.diagnostics.trial import SEEDS, TOP, Change, Trial, verify_training
from stablegrad.errors import UsageError

try:
    from stable_baselines3.common.callbacks import BaseCallback
except ImportError as error:
    raise UsageError("Stable-Baselines3 is not installed: pip install 'stablegrad[sb3]'") from error


VERIFY = (
    "to have them tried: stablegrad.integrations.sb3.verify_agent(make_agent, report.prescriptions, total_timesteps=)"
)
#: Fraction of a training's time that drawing verdicts for warnings may take.
JUDGING = 0.005


class DiagnosisCallback(BaseCallback):
    """Watches an agent of Stable-Baselines3 while it learns.

    Several calls of ``learn()`` of one agent are watched as one training; with another agent the callback begins anew.

    Args:
        every: optimizer steps between two looks.
        probe_every: optimizer steps between two probings for ranks and churn, a multiple of ``every``; 0: never.
        thresholds: what the rules alarm at.
        warn: print one line when the verdict gets worse and was drawn twice in a row, and one when it is healthy again.
            It is drawn when there are new measurements, as often as 0.5% of the training's time allows; :meth:`report`
            always draws it.
        verbose: of Stable-Baselines3's callbacks; 1 also prints the report at the end.

    Attributes:
        monitor: the monitor, from the start of the training on.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        probe_every: int = 1000,
        thresholds: Thresholds | None = None,
        warn: bool = True,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        self.every, self.probe_every, self.thresholds, self.warn = every, probe_every, thresholds, warn
        self.monitor: Monitor | None = None
        self._watched: list[object] = []

    def report(self, *, beside: Monitor | History | None = None) -> Report:
        """The diagnosis so far; see :meth:`stablegrad.diagnostics.Monitor.report`."""
        if self.monitor is None:
            raise UsageError("the callback has seen no training yet; pass it to model.learn(..., callback=...)")
        return replace(self.monitor.report(beside=beside), agent=AgentSettings.of(self.model), verify=VERIFY)

    def _on_training_start(self) -> None:
        networks, optimizers = trained_networks(self.model.policy)
        watched = [*(networks.values() if isinstance(networks, dict) else [networks]), *optimizers]
        if len(watched) == len(self._watched) and all(a is b for a, b in zip(watched, self._watched, strict=True)):
            return
        self.close()
        self._watched = watched
        self.monitor = Monitor(
            networks, optimizers, every=self.every, probe_every=self.probe_every, thresholds=self.thresholds
        )
        self._check = self.monitor.guard.wrap(self._log_and_warn)
        self._verdict = self._warned = LEVELS[0]
        self._looks, self._judging, self._started = 0, 0.0, time.perf_counter()
        self._last = 0.0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # Off-policy agents come here after every step: nothing is done but for new measurements.
        if self.monitor is not None and self.monitor.looks != self._looks:
            self._looks = self.monitor.looks
            self._check(self.monitor)

    def _log_and_warn(self, monitor: Monitor) -> None:
        episodes = self.model.ep_info_buffer
        if episodes:
            monitor.log(episode_return=sum(episode["r"] for episode in episodes) / len(episodes))
        now = time.perf_counter()
        # The time of a verdict grows with the number of measurements; so a fixed fraction of all time is spent on them.
        if self.warn and self._judging + self._last <= JUDGING * (now - self._started):
            history = monitor.fetch()
            findings = judge(history, self.thresholds, outcome=logged_outcome(history), ended=False)
            self._last = time.perf_counter() - now
            self._judging += self._last
            self._warn(verdict_of(findings), findings)

    def _warn(self, verdict: str, findings: list[Finding]) -> None:
        """Say that the verdict got worse once it was drawn twice in a row, and that it is healthy again."""
        if LEVELS.index(verdict) > LEVELS.index(self._warned) and verdict in (self._verdict, LEVELS[-1]):
            print(f"stablegrad: {verdict}: {findings[0].reason}", file=sys.stderr)
            self._warned = verdict
        elif verdict == LEVELS[0] and self._warned != LEVELS[0]:
            print(f"stablegrad: healthy again, the warning ({self._warned}) is taken back", file=sys.stderr)
            self._warned = verdict
        self._verdict = verdict

    def _on_training_end(self) -> None:
        if self.monitor is not None and self.verbose and self.monitor.looks:
            print(self.monitor.report())

    def close(self) -> None:
        """Take the monitor off the networks; the report stays."""
        if self.monitor is not None:
            self.monitor.close()


def trained_networks(policy: Any) -> tuple[nn.Module | dict[str, nn.Module], list[Optimizer]]:
    """The networks of a policy that are trained, by name, and their optimizers.

    Raises:
        UsageError: the policy keeps its networks in another way than those of Stable-Baselines3.
    """
    networks = {name: getattr(policy, name, None) for name in ("actor", "critic")}
    found = {name: network for name, network in networks.items() if isinstance(network, nn.Module)}
    optimizers = [getattr(network, "optimizer", None) for network in found.values()]
    if len(found) == 2 and all(isinstance(one, Optimizer) for one in optimizers):
        return found, [one for one in optimizers if isinstance(one, Optimizer)]
    for name in ("q_net", "quantile_net"):
        if isinstance(getattr(policy, name, None), nn.Module):
            return getattr(policy, name), [policy.optimizer]
    if isinstance(getattr(policy, "optimizer", None), Optimizer):
        return policy, [policy.optimizer]
    raise UsageError(
        f"{type(policy).__name__} has neither actor and critic, nor q_net, nor an optimizer of its own; "
        "attach stablegrad.diagnostics.Monitor to its networks by hand"
    )


def apply_to_agent(agent: Any, name: str) -> None:
    """Apply an intervention to the networks of an agent that are trained, in place.

    Where that makes other networks of them, their targets are made anew.

    Args:
        agent: of Stable-Baselines3.
        name: the intervention's, such as "layer_norm".

    Raises:
        CannotApply: there is nothing to change in any of the networks, or the agent's constructor takes it.
        UsageError: no intervention has that name, or the agent keeps its networks in an unknown way.
    """
    intervention = INTERVENTIONS[name]
    if name in ("lower_learning_rate", "raise_learning_rate", "steady_rate"):
        raise CannotApply(f"{name}: {type(agent).__name__} sets its rate anew at every update; give it learning_rate")
    _change(agent, intervention.apply, renewed=intervention.structural or name == "orthogonal_init")


def verify_agent(
    make_agent: Callable[[int], Any],
    prescriptions: Sequence[Prescription],
    *,
    total_timesteps: int,
    seeds: Sequence[int] = range(SEEDS),
    top: int = TOP,
) -> list[Trial]:
    """Try prescriptions on an agent, each on the same seeds as the agent as it is.

    ::

        trials = verify_agent(
            lambda seed: PPO("MlpPolicy", "LunarLander-v3", seed=seed), diagnosis.report().prescriptions,
            total_timesteps=50_000,
        )

    Args:
        make_agent: makes the agent of a seed, of Stable-Baselines3 or sb3-contrib.
        prescriptions: what to try, the most promising first.
        total_timesteps: of each training; as few as show what is wrong.
        seeds: at least 2.
        top: how many of the prescriptions that can be applied by themselves are tried.

    Returns:
        as :func:`stablegrad.diagnostics.verify_training`; the score is the mean return of the last episodes, at most
        100, of the training.

    Raises:
        UsageError: fewer than 2 seeds.
        StablegradError: no episode ended in any of the trainings.
    """

    def train(change: Change, seed: int) -> float:
        agent = make_agent(seed)
        _change(agent, change, renewed=True)
        agent.learn(total_timesteps)
        episodes = agent.ep_info_buffer
        return sum(episode["r"] for episode in episodes) / len(episodes) if episodes else math.nan

    return verify_training(train, prescriptions, seeds=seeds, top=top)


def _change(agent: Any, change: Change, *, renewed: bool) -> None:
    """Apply a change to the networks of an agent that take it, and to its learning rate.

    Args:
        agent: of Stable-Baselines3, changed in place.
        change: called with each network that is trained and its optimizer.
        renewed: make target networks anew.

    Raises:
        CannotApply: none of the networks takes it.
    """
    policy = agent.policy
    networks, optimizers = trained_networks(policy)
    pairs = zip(networks.values() if isinstance(networks, dict) else [networks], optimizers, strict=True)
    refused: list[CannotApply] = []
    factor = 1.0
    for network, optimizer in pairs:
        rate = optimizer.param_groups[0]["lr"]
        try:
            changed = change(network, optimizer)
        except CannotApply as error:
            refused.append(error)
            continue
        for holder in (network, policy):
            if getattr(holder, "optimizer", None) is optimizer:
                holder.optimizer = changed
        factor = changed.param_groups[0]["lr"] / rate
    if len(refused) == len(optimizers):
        raise refused[0]
    for target in [one for one, _ in policy.named_children() if renewed and one.endswith("_target")]:
        anew = copy.deepcopy(getattr(policy, target.removesuffix("_target")))
        vars(anew).pop("optimizer", None)
        setattr(policy, target, anew.eval())
    if hasattr(agent, "_create_aliases"):
        agent._create_aliases()
    if factor != 1.0:
        # The agent sets its rate anew at every update.
        schedule = agent.lr_schedule
        agent.lr_schedule = lambda left: factor * schedule(left)
