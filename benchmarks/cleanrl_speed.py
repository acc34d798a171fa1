"""Steps/s on Breakout beside CleanRL's ``pqn_atari_envpool.py``, at the same settings on the same machine.

    python benchmarks/cleanrl_speed.py path/to/cleanrl/pqn_atari_envpool.py [--rounds 3]

128 environments x 32 steps, 32 minibatches of 128, 2 epochs, both on all cores, in turns; medians over the rounds. The
script is run unchanged, but for a stand-in for the package ``gym``, of which it uses two names, and for envpool's old
tuples, which today's envpool gives under another name. Our network is the one nearest to CleanRL's: Nature CNN and an
MLP torso of depth 0, which has one layer of 512 x 512 more. Steps are rows of environments for both, those that only
carry a reset included.

The last line says how far any program could go: the arithmetic of our rollout at the speed of one large matrix product,
and envpool alone, as if nothing else took time.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from common import save
from stablegrad.agents import PQN
from stablegrad.environments import environment_seeds, environment_spec, make_vector_env
from stablegrad.training.config import default_run
from stablegrad.training.run_folder import RunFolder

ROLLOUT = 128 * 32
STEPS = 6 * ROLLOUT

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

    script: tyro.conf.Positional[Path]
    """CleanRL's pqn_atari_envpool.py."""
    rounds: int = 3
    """Measurements of each program."""


def cleanrl(script: Path, scratch: Path) -> float:
    """Steps/s of the last five of six rollouts, from the times at which they were reported."""
    shim = scratch / "shim.py"
    shim.write_text(SHIM)
    options = "--env-id Breakout-v5 --num-envs 128 --num-steps 32 --num-minibatches 32 --update-epochs 2"
    options += f" --total-timesteps {STEPS}"
    command = [sys.executable, str(shim), str(script.resolve()), *options.split(), "--no-anneal-lr"]
    result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True)
    rates = [int(value) for value in re.findall(r"SPS: (\d+)", result.stdout)]
    seconds = [ROLLOUT * (number + 1) / rate for number, rate in enumerate(rates)]
    return 5 * ROLLOUT / (seconds[-1] - seconds[0])


def ours(precision: str, scratch: Path) -> float:
    """Steps/s of the last five of six rollouts."""
    run = default_run("pqn", "Breakout-v5", f"baseline+torso.depth=0+precision={precision}")
    run = dataclasses.replace(run, total_steps=STEPS - 64, log_every=1, checkpoint_every=10**9)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        RunFolder.create(Path(folder) / "run", run.to_json())
        subprocess.run(
            [sys.executable, "-m", "stablegrad", "resume", f"{folder}/run", "--quiet"], check=True, capture_output=True
        )
        rows = RunFolder(Path(folder) / "run").read_metrics()
    # A line a rollout.
    return 5 * ROLLOUT / (rows[5]["wall_seconds"] - rows[0]["wall_seconds"])


def limits() -> dict[str, float]:
    """What a rollout cannot do without: its multiplications and additions, and the emulators."""
    run = default_run("pqn", "Breakout-v5", "baseline+torso.depth=0")
    config, cpu = run.agent, torch.device("cpu")
    spec = environment_spec("Breakout-v5", atari=run.atari)
    seeds = environment_seeds(1, 0, config.num_envs)
    agent = PQN(config, spec, total_steps=STEPS, device=cpu, seed=1)
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
        "flops_a_step": flops / ROLLOUT,
        "flops_a_second_of_a_matrix_product": peak,
        "environment_steps_per_second": ROLLOUT / seconds,
        "steps_per_second": ROLLOUT / (flops / peak + seconds),
    }


def _product(side: int = 2048) -> float:
    """Multiplications and additions a second in a float32 product of two square matrices."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    started = time.perf_counter()
    torch.mm(a, b)
    return 2 * side**3 / (time.perf_counter() - started)


def main() -> None:
    arguments = tyro.cli(Arguments)
    rates: dict[str, list[float]] = {"cleanrl": [], "stablegrad fp32": [], "stablegrad bf16": []}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for _ in range(arguments.rounds):
            rates["cleanrl"].append(cleanrl(arguments.script, scratch))
            rates["stablegrad fp32"].append(ours("fp32", scratch))
            rates["stablegrad bf16"].append(ours("bf16", scratch))
            print({name: round(values[-1]) for name, values in rates.items()}, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: median / medians["cleanrl"] for name, median in medians.items()}
    print({name: f"{medians[name]:.0f} steps/s, {ratio:.2f} x CleanRL" for name, ratio in ratios.items()})
    limit = limits()
    print(f"arithmetic and emulators alone: {limit['steps_per_second'] / medians['cleanrl']:.2f} x CleanRL, {limit}")
    save(
        "cleanrl_speed",
        "python benchmarks/cleanrl_speed.py pqn_atari_envpool.py",
        {"steps_per_second": rates, "ratio_of_medians": ratios, "limits": limit},
    )


if __name__ == "__main__":
    main()
