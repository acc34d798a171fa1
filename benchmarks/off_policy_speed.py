"""Steps/s of DQN, Rainbow, SAC and TD3 beside Stable-Baselines3 and CleanRL, at the same settings on one core.

    python benchmarks/off_policy_speed.py path/to/cleanrl [--rounds 3] [--only td3]

The folder holds CleanRL's ``dqn.py``, ``dqn_atari.py``, ``rainbow_atari.py``, ``sac_continuous_action.py``,
``td3_continuous_action.py`` and ``buffers.py`` (of its ``cleanrl_utils``); Stable-Baselines3 has no Rainbow. All step
the same engine, one environment in one thread: the other two through ``OneEnv``. Each training is a process of its own
with one thread of torch; the programs take turns, and medians over the rounds are reported. Rates are those of a window
that begins when the agent acts by its network and learns.

Ours are trainings as ``stablegrad train`` makes them, with the diagnosis, lines of metrics and flushed denormals. The
windows of CartPole and HalfCheetah have as many looks and probings as a long run; that of Breakout has looks and no
probing, of which there is one every 4,000 steps. CleanRL's scripts run unchanged, but for stand-ins: for the
environment, for wrappers whose work its engine has done, for what gymnasium has renamed, and for the widths of the
network in ``dqn.py``, which are no options. The network for Atari is the Nature CNN with two layers of 512 units;
CleanRL's has one of them. CleanRL makes no several updates in a row, so CartPole's four updates every four steps are
one every step there.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import runpy
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro

from common import RESULTS, save
from stablegrad.environments import AtariOptions, Discrete, make_vector_env
from stablegrad.training.config import RunConfig, default_run
from stablegrad.training.interaction import train
from stablegrad.training.run_folder import RunFolder

LOG_EVERY = 250  # environment steps between two lines of our log, as in a run of 125,000 steps


@dataclass(frozen=True)
class Task:
    """One algorithm in one environment.

    Attributes:
        algorithm: its name.
        env: the environment's.
        changes: to our defaults.
        script: CleanRL's.
        first: environment steps before the window, a multiple of ``LOG_EVERY``.
        steps: environment steps of the window, likewise.
    """

    algorithm: str
    env: str
    changes: str
    script: str
    first: int
    steps: int

    @property
    def total(self) -> int:
        """Environment steps of a training."""
        return self.first + self.steps

    @property
    def run(self) -> RunConfig:
        """The settings of all three."""
        run = default_run(self.algorithm, self.env, f"baseline+learning_starts=250+{self.changes}")
        return dataclasses.replace(run, total_steps=self.total, log_every=LOG_EVERY, checkpoint_every=10**9, threads=1)


TASKS = (
    Task("dqn", "CartPole-v1", "buffer_size=50000", "dqn.py", 500, 2000),
    Task("dqn", "Breakout-v5", "buffer_size=10000+torso.depth=0", "dqn_atari.py", 250, 500),
    Task("rainbow", "Breakout-v5", "buffer_size=10000+torso.depth=0", "rainbow_atari.py", 250, 500),
    Task("sac", "HalfCheetah-v4", "buffer_size=100000", "sac_continuous_action.py", 250, 1000),
    Task("td3", "HalfCheetah-v4", "buffer_size=100000", "td3_continuous_action.py", 250, 1000),
)


class OneEnv(gymnasium.Env):
    """One environment of our engine as gymnasium's; the row that only carries a reset is taken inside ``reset``.

    Attributes:
        times: when each step began, of the only environment of a process.
    """

    times: list[float] = []  # noqa: RUF012

    def __init__(self, env_id: str, atari: AtariOptions | None):
        self._env = make_vector_env(env_id, 1, seeds=[1], atari=atari, num_threads=1)
        spec, space = self._env.spec, self._env.spec.action_space
        low, high = (0, 255) if spec.is_image else (-np.inf, np.inf)
        dtype = np.dtype(spec.observation_dtype).type
        self.observation_space = gymnasium.spaces.Box(low, high, spec.observation_shape, dtype)
        self.action_space = (
            gymnasium.spaces.Discrete(space.n)
            if isinstance(space, Discrete)
            else gymnasium.spaces.Box(-1.0, 1.0, (space.size,), np.float32)
        )
        self._started = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """The first observation of the next episode, after the last one has ended."""
        if self._started:
            return self._env.step(np.asarray(self.action_space.sample())[None]).observation[0], {}
        self._started = True
        return self._env.reset()[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One transition."""
        self.times.append(time.perf_counter())
        row = self._env.step(np.asarray(action)[None])
        return row.observation[0], float(row.reward[0]), bool(row.terminated[0]), bool(row.truncated[0]), {}

    def get_action_meanings(self) -> list[str]:
        """None that CleanRL's script needs to know: the engine presses FIRE."""
        return []


def window_rate(task: Task) -> float:
    """Steps/s in the window of a training in ``OneEnv``."""
    return (task.steps - 1) / (OneEnv.times[task.total - 1] - OneEnv.times[task.first])


def stablegrad(task: Task, scratch: Path) -> float:
    """Steps/s of a run of ours."""
    train(task.run, scratch / "run", quiet=True)
    rows = RunFolder(scratch / "run").read_metrics()
    first = next(row for row in rows if row["step"] >= task.first)
    return (rows[-1]["step"] - first["step"]) / (rows[-1]["wall_seconds"] - first["wall_seconds"])


def stable_baselines3(task: Task, scratch: Path) -> float:
    """Steps/s of its agent with our settings."""
    import stable_baselines3

    run, agent = task.run, task.run.agent
    options: dict[str, Any] = {
        "learning_rate": agent.optimizer.initial_learning_rate,
        "batch_size": agent.batch_size,
        "buffer_size": agent.buffer_size,
        "learning_starts": agent.learning_starts,
        "train_freq": agent.train_every,
        "gradient_steps": agent.gradient_steps,
        "tau": agent.tau,
        "gamma": agent.discount,
        "policy_kwargs": {"net_arch": [512] if run.spec.is_image else [agent.torso.width] * 2},
    }
    if task.algorithm == "dqn":
        options |= {
            "target_update_interval": agent.target_every,
            "exploration_initial_eps": agent.epsilon_start,
            "exploration_final_eps": agent.epsilon_end,
            "exploration_fraction": agent.exploration_fraction,
            "max_grad_norm": agent.max_grad_norm,
        }
    if run.spec.is_image:
        options |= {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    policy = "CnnPolicy" if run.spec.is_image else "MlpPolicy"
    kind = getattr(stable_baselines3, task.algorithm.upper())
    kind(policy, OneEnv(task.env, run.atari), seed=1, device="cpu", **options).learn(task.total)
    return window_rate(task)


def cleanrl(task: Task, scratch: Path, scripts: Path) -> float:
    """Steps/s of its script with our settings."""
    run, agent = task.run, task.run.agent
    rate = agent.optimizer.initial_learning_rate
    options = {
        "total-timesteps": task.total,
        "buffer-size": agent.buffer_size,
        "batch-size": agent.batch_size,
        "learning-starts": agent.learning_starts,
        "tau": agent.tau,
        "gamma": agent.discount,
    }
    if task.algorithm in ("dqn", "rainbow"):
        options |= {
            "learning-rate": rate,
            "train-frequency": agent.train_every // agent.gradient_steps,
            "target-network-frequency": agent.target_every,
            "start-e": agent.epsilon_start,
            "end-e": agent.epsilon_end,
            "exploration-fraction": agent.exploration_fraction,
        }
    elif task.algorithm == "td3":
        options |= {"learning-rate": rate, "policy-frequency": agent.policy_delay}
    else:
        options |= {"policy-lr": rate, "q-lr": rate, "policy-frequency": 1}
    os.chdir(scratch)
    stand_in(lambda: OneEnv(task.env, run.atari), scripts)
    if not run.spec.is_image:
        widen({120: agent.torso.width, 84: agent.torso.width})
    sys.argv = [task.script, "--no-cuda", *(f"--{name}={value}" for name, value in options.items())]
    script = scratch / task.script
    script.write_text(one_element_arrays(scripts / task.script))
    runpy.run_path(str(script), run_name="__main__")
    return window_rate(task)


def one_element_arrays(script: Path) -> str:
    """A script in which arrays of one element become numbers before they are stored, as NumPy demands since 2.4."""
    return re.sub(
        r"(self\.buffer_(?:actions|rewards|dones)\[idx\]) = (\w+)", r"\1 = np.asarray(\2).item()", script.read_text()
    )


def stand_in(make_env: Callable[[], gymnasium.Env], scripts: Path) -> None:
    """Give CleanRL's scripts what they import and is not here, or has another name today."""

    class SyncVectorEnv(gymnasium.vector.SyncVectorEnv):
        """With the autoreset and the names of gymnasium 0.29."""

        def __init__(self, makers: Sequence[Callable[[], gymnasium.Env]]):
            super().__init__(makers, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)

        def step(self, actions: Any) -> tuple[Any, ...]:
            *row, infos = super().step(actions)
            infos.pop("final_info", None)
            if "final_obs" in infos:
                infos["final_observation"] = infos.pop("final_obs")
            return (*row, infos)

    def same(env: gymnasium.Env, *_: Any, **__: Any) -> gymnasium.Env:
        return env

    gymnasium.make = lambda *_, **__: make_env()
    gymnasium.vector.SyncVectorEnv = SyncVectorEnv
    # The engine has done what these do.
    for name in ("ResizeObservation", "GrayScaleObservation", "FrameStack"):
        setattr(gymnasium.wrappers, name, same)
    wrappers = types.ModuleType("cleanrl_utils.atari_wrappers")
    for name in ("ClipRewardEnv", "EpisodicLifeEnv", "FireResetEnv", "MaxAndSkipEnv", "NoopResetEnv"):
        setattr(wrappers, name, same)
    spec = importlib.util.spec_from_file_location("cleanrl_utils.buffers", scripts / "buffers.py")
    assert spec is not None and spec.loader is not None
    buffers = importlib.util.module_from_spec(spec)
    for module in (types.ModuleType("cleanrl_utils"), wrappers, buffers):
        sys.modules[module.__name__] = module
    spec.loader.exec_module(buffers)


def widen(widths: dict[int, int]) -> None:
    """Have ``nn.Linear`` make layers of other widths than it is asked for."""
    from torch import nn

    class Linear(nn.Linear):
        def __init__(self, in_features: int, out_features: int):
            super().__init__(widths.get(in_features, in_features), widths.get(out_features, out_features))

    nn.Linear = Linear


def alone(measure: Callable[..., float], task: Task, *others: Any) -> float:
    """What a function measures in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, task, Path(scratch), *others).result()


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    scripts: tyro.conf.Positional[Path]
    """Folder of CleanRL's scripts."""
    rounds: int = 3
    """Trainings of each program; medians are reported."""
    only: str = ""
    """Measure this algorithm, and keep the results of the others."""


def main() -> None:
    arguments = tyro.cli(Arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    scripts = arguments.scripts.resolve()
    tasks = [task for task in TASKS if arguments.only in ("", task.algorithm)]
    if not tasks:
        sys.exit(f"no task of {arguments.only!r}; there are: {', '.join(sorted({task.algorithm for task in TASKS}))}")
    saved = RESULTS / "off_policy_speed.json"
    results: dict[str, Any] = json.loads(saved.read_text())["results"] if arguments.only else {}
    for task in tasks:
        programs = {"stablegrad": partial(alone, stablegrad, task), "cleanrl": partial(alone, cleanrl, task, scripts)}
        if task.algorithm != "rainbow":
            programs["stable_baselines3"] = partial(alone, stable_baselines3, task)
        rates: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(arguments.rounds):
            for name, measure in programs.items():
                rates[name].append(measure())
        medians = {name: statistics.median(values) for name, values in rates.items()}
        ratios = {name: medians["stablegrad"] / median for name, median in medians.items() if name != "stablegrad"}
        title = f"{task.algorithm.upper()} {task.env}"
        results[title] = {
            "changes": task.changes,
            "window": [task.first, task.total],
            "steps_per_second": rates,
            "medians": medians,
            "ratio_of_medians": ratios,
        }
        shown = ", ".join(f"{name} {median:.0f}" for name, median in medians.items())
        faster = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items())
        print(f"{title}, steps/s: {shown}; {faster}", flush=True)
    only = f" --only {arguments.only}" if arguments.only else ""
    save("off_policy_speed", f"python benchmarks/off_policy_speed.py path/to/cleanrl{only}", {"results": results})


if __name__ == "__main__":
    main()
