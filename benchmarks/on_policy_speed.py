"""Steps/s of PQN and PPO on Breakout beside CleanRL's scripts for envpool and Stable-Baselines3's PPO, same settings.

    python benchmarks/on_policy_speed.py path/to/cleanrl [--rounds 3]

The folder holds CleanRL's ``pqn_atari_envpool.py`` and ``ppo_atari_envpool.py``. All run on all cores, in turns;
medians over the rounds; bfloat16 only where the processor computes with it. PQN: 128 environments x 32 steps, 32
minibatches of 128, 2 epochs. PPO: 8 x 128, 4 minibatches of 256, 4 epochs. CleanRL's scripts run unchanged, but for a
stand-in for the package ``gym``, of which they use two names, and for envpool's old tuples, which today's envpool gives
under another name. Stable-Baselines3 steps the same engine, one environment in each process, as its users do. Our
network is the one nearest to theirs: Nature CNN and an MLP torso of depth 0, which has one layer of 512 x 512 more.
Steps are rows of environments, those that only carry a reset included.

The last line of PQN says how far any program could go: the arithmetic of our rollout at the speed of one large matrix
product, and envpool alone, as if nothing else took time.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from common import save
from off_policy_speed import OneEnv
from stablegrad.agents import PQN
from stablegrad.environments import environment_seeds, environment_spec, make_vector_env
from stablegrad.hardware import has_fast_bf16
from stablegrad.training.config import RunConfig, default_run
from stablegrad.training.run_folder import RunFolder

#: Rollouts of a measurement; the first is a warm-up.
ROLLOUTS = 6
SCRIPTS = {"pqn": "pqn_atari_envpool.py", "ppo": "ppo_atari_envpool.py"}

SHIM = '''
import sys, types, runpy
import envpool, gymnasium, numpy as np

gym = types.ModuleType("gym")

class Wrapper:
    def __init__(self, env): self.env = env
    def __getattr__(self, name): return getattr(self.env, name)
    def reset(self, **kwargs): return self.env.reset(**kwargs)
    def step(self, action): return self.env.step(action)

class OldTuples(Wrapper):
    """gym's four values from gymnasium's five."""
    def reset(self): return self.env.reset()[0]
    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated | truncated, info

gym.Wrapper, gym.spaces = Wrapper, gymnasium.spaces
sys.modules["gym"] = gym
make = envpool.make

def make_old(env_id, env_type, **options):
    env = OldTuples(make(env_id, env_type="gymnasium", **options))
    env.action_space, env.observation_space = env.env.action_space, env.env.observation_space
    return env

envpool.make = make_old
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
'''


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    scripts: tyro.conf.Positional[Path]
    """Folder of CleanRL's scripts."""
    rounds: int = 3
    """Measurements of each program."""


def settings(algorithm: str, precision: str = "fp32") -> RunConfig:
    """The settings of all programs."""
    run = default_run(
        algorithm, "Breakout-v5", f"baseline+torso.depth=0+optimizer.schedule=constant+precision={precision}"
    )
    # A run ends after a rollout of which a few rows may have carried a reset only.
    steps = ROLLOUTS * rollout_of(run) - rollout_of(run) // 64
    return dataclasses.replace(run, total_steps=steps, log_every=1, checkpoint_every=10**9)


def rollout_of(run: RunConfig) -> int:
    """Rows of a rollout."""
    return run.agent.num_envs * run.agent.num_steps


def cleanrl(algorithm: str, scripts: Path, scratch: Path) -> float:
    """Steps/s of all rollouts but the first, from the times at which they were reported."""
    shim = scratch / "shim.py"
    shim.write_text(SHIM)
    run = settings(algorithm)
    agent, rollout = run.agent, rollout_of(run)
    options = f"--env-id Breakout-v5 --num-envs {agent.num_envs} --num-steps {agent.num_steps}"
    options += f" --num-minibatches {agent.num_minibatches} --update-epochs {agent.num_epochs}"
    options += f" --total-timesteps {ROLLOUTS * rollout} --no-anneal-lr"
    command = [sys.executable, str(shim), str(scripts / SCRIPTS[algorithm]), *options.split()]
    result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True)
    rates = [int(value) for value in re.findall(r"SPS: (\d+)", result.stdout)][-ROLLOUTS:]
    seconds = [rollout * (number + 1) / rate for number, rate in enumerate(rates)]
    return (ROLLOUTS - 1) * rollout / (seconds[-1] - seconds[0])


def ours(algorithm: str, precision: str, scratch: Path) -> float:
    """Steps/s of all rollouts but the first."""
    run = settings(algorithm, precision)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        RunFolder.create(Path(folder) / "run", run.to_json())
        subprocess.run(
            [sys.executable, "-m", "stablegrad", "resume", f"{folder}/run", "--quiet"], check=True, capture_output=True
        )
        rows = RunFolder(Path(folder) / "run").read_metrics()
    # A line a rollout.
    return (ROLLOUTS - 1) * rollout_of(run) / (rows[ROLLOUTS - 1]["wall_seconds"] - rows[0]["wall_seconds"])


def stable_baselines3(scratch: Path) -> float:
    """Steps/s of its PPO of all rollouts but the first, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_stable_baselines3).result()


def _stable_baselines3() -> float:
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import SubprocVecEnv

    run = settings("ppo")
    agent, times = run.agent, []

    class Times(BaseCallback):
        def _on_rollout_start(self) -> None:
            times.append(time.perf_counter())

        def _on_step(self) -> bool:
            return True

    env = SubprocVecEnv([partial(OneEnv, "Breakout-v5", run.atari)] * agent.num_envs, start_method="forkserver")
    size = rollout_of(run) // agent.num_minibatches
    PPO(
        "CnnPolicy", env, n_steps=agent.num_steps, batch_size=size, n_epochs=agent.num_epochs, seed=1, device="cpu",
        learning_rate=agent.optimizer.initial_learning_rate, gamma=agent.discount, gae_lambda=agent.gae_lambda,
        clip_range=agent.clip, clip_range_vf=agent.clip, ent_coef=agent.entropy_coefficient,
        vf_coef=agent.value_coefficient / 2, max_grad_norm=agent.max_grad_norm, policy_kwargs={"net_arch": [512]},
    ).learn((ROLLOUTS + 1) * rollout_of(run), callback=Times())  # fmt: skip
    env.close()
    # From the start of the second rollout to that of the last: as many updates as rollouts.
    return (ROLLOUTS - 1) * rollout_of(run) / (times[ROLLOUTS] - times[1])


def limits() -> dict[str, float]:
    """What a rollout cannot do without: its multiplications and additions, and the emulators."""
    run = settings("pqn")
    rollout = rollout_of(run)
    config, cpu = run.agent, torch.device("cpu")
    spec = environment_spec("Breakout-v5", atari=run.atari)
    seeds = environment_seeds(1, 0, config.num_envs)
    agent = PQN(config, spec, total_steps=ROLLOUTS * rollout_of(run), device=cpu, seed=1)
    env = make_vector_env("Breakout-v5", config.num_envs, seeds=seeds, atari=run.atari)
    agent.begin(env.reset())
    seconds = 0.0
    with FlopCounterMode(display=False) as counter:
        for _ in range(config.num_steps):
            action = agent.act(0)
            started = time.perf_counter()
            result = env.step(action)
            seconds += time.perf_counter() - started
            agent.observe(result)
        agent.learn(0)
    env.close()
    flops = counter.get_total_flops()
    peak = max(_product() for _ in range(10))
    return {
        "flops_a_step": flops / rollout,
        "flops_a_second_of_a_matrix_product": peak,
        "environment_steps_per_second": rollout / seconds,
        "steps_per_second": rollout / (flops / peak + seconds),
    }


def _product(side: int = 2048) -> float:
    """Multiplications and additions a second in a float32 product of two square matrices."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    started = time.perf_counter()
    torch.mm(a, b)
    return 2 * side**3 / (time.perf_counter() - started)


def main() -> None:
    arguments = tyro.cli(Arguments)
    scripts = arguments.scripts.resolve()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for algorithm in SCRIPTS:
            programs: dict[str, Callable[[], float]] = {
                "cleanrl": partial(cleanrl, algorithm, scripts, scratch),
                "stablegrad fp32": partial(ours, algorithm, "fp32", scratch),
            }
            if has_fast_bf16(torch.device("cpu")):
                programs["stablegrad bf16"] = partial(ours, algorithm, "bf16", scratch)
            if algorithm == "ppo":
                programs["stable_baselines3"] = partial(stable_baselines3, scratch)
            rates: dict[str, list[float]] = {name: [] for name in programs}
            for _ in range(arguments.rounds):
                for name, measure in programs.items():
                    rates[name].append(measure())
                print(algorithm, {name: round(values[-1]) for name, values in rates.items()}, flush=True)
            medians = {name: statistics.median(values) for name, values in rates.items()}
            ratios = {name: medians["stablegrad fp32"] / median for name, median in medians.items()}
            shown = ", ".join(f"{name} {median:.0f}" for name, median in medians.items())
            faster = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items() if name != "stablegrad fp32")
            print(f"{algorithm} Breakout-v5, steps/s: {shown}; fp32 {faster}", flush=True)
            results[algorithm] = {"steps_per_second": rates, "medians": medians, "ratio_of_fp32_to": ratios}
    limit = limits()
    print(f"pqn, arithmetic and emulators alone: {limit}")
    results["pqn"]["limits"] = limit
    save("on_policy_speed", "python benchmarks/on_policy_speed.py path/to/cleanrl", {"results": results})


if __name__ == "__main__":
    main()
