"""A replay of a million Atari frames: memory, time of a batch, and its part of a checkpoint.

    python benchmarks/replay.py [--transitions 1000000] [--rounds 300]

One thread; times of steps and batches are the process's own. Batches are 256 transitions of stacks of four 84 x 84
pictures, gathered into one buffer; as a bound, the time that a plain copy of as many bytes takes. Stable-Baselines3's
``ReplayBuffer(optimize_memory_usage=True)`` keeps every stack whole, so it is given a tenth of the transitions. 8 GB of
memory and 8 GB of disk are needed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from common import save
from stablegrad.agents.replay import Replay
from stablegrad.environments import EpisodeStatistics, StepResult
from stablegrad.training.experience import load_experience, save_experience
from stablegrad.training.tuning import keep_freed_memory

BATCH, STACK, PIXELS = 256, 4, 84
EPISODE = 200


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    transitions: int = 1_000_000
    """Capacity of the replay."""
    sb3_transitions: int = 100_000
    """Capacity of Stable-Baselines3's."""
    rounds: int = 300
    """Timed batches; medians are reported."""


class Stacks:
    """What Atari environments return: stacks of random pictures, with an episode of 200 steps after the other."""

    def __init__(self, num_envs: int):
        random = np.random.default_rng(0)
        self.num_envs, self.t, self.random = num_envs, 0, random
        self.pictures = random.integers(0, 256, (256, PIXELS, PIXELS), np.uint8)
        self.stack = self.first()
        zeros = np.zeros(num_envs)
        self.nothing = EpisodeStatistics(zeros > 0, zeros, zeros.astype(np.int64))

    def first(self) -> np.ndarray:
        """A stack of an episode's first picture."""
        return np.repeat(self.pictures[self.random.integers(0, 256, self.num_envs)][:, None], STACK, axis=1)

    def step(self) -> StepResult:
        """The next row."""
        self.t += 1
        valid = np.full(self.num_envs, self.t % (EPISODE + 1) != 0)
        if valid[0]:
            newest = self.pictures[self.random.integers(0, 256, self.num_envs)][:, None]
            self.stack = np.concatenate([self.stack[:, 1:], newest], axis=1)
        else:
            self.stack = self.first()
        terminated = np.full(self.num_envs, self.t % (EPISODE + 1) == EPISODE)
        return StepResult(
            self.stack, np.ones(self.num_envs, np.float32), terminated, terminated & False, valid, self.nothing
        )


def memory(field: str) -> int:
    """A line of /proc/self/status in bytes: "RssAnon" (now) or "VmHWM" (peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_growth(action: Callable[[], Any]) -> tuple[Any, float, int]:
    """Result of an action, its seconds, and how far memory rose above where it was before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory("VmRSS"), time.perf_counter()
    result = action()
    return result, time.perf_counter() - start, memory("VmHWM") - before


def median_ms(action: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return round(statistics.median(times) * 1e3, 3)


def fill(replay: Replay, stacks: Stacks, steps: int) -> float:
    """Seconds that adding took alone."""
    seconds = 0.0
    for _ in range(steps):
        result = stacks.step()
        action = stacks.random.integers(0, 4, stacks.num_envs)
        start = time.process_time()
        replay.add(action, result)
        seconds += time.process_time() - start
    return seconds


def make_replay(capacity: int, num_envs: int, n_step: int) -> Replay:
    shape = (STACK, PIXELS, PIXELS)
    return Replay(capacity, num_envs, shape, torch.uint8, discount=0.99, n_step=n_step, frame_stack=STACK, device="cpu")


def measure(capacity: int, num_envs: int, n_step: int, rounds: int, checkpoints: bool) -> dict[str, Any]:
    before = memory("RssAnon")
    replay, stacks = make_replay(capacity, num_envs, n_step), Stacks(num_envs)
    replay.begin(stacks.stack)
    steps = capacity // num_envs + 1000
    seconds = fill(replay, stacks, steps)
    generator = torch.Generator().manual_seed(0)
    replay.sample(BATCH, generator)
    buffer = torch.empty(BATCH * (STACK + 1 if n_step == 1 else 2 * STACK), PIXELS, PIXELS, dtype=torch.uint8)
    source = torch.zeros_like(buffer)
    result: dict[str, Any] = {
        "transitions": len(replay),
        "bytes": sum(array.nbytes for array in replay.arrays().values()),
        "memory_grown_bytes": memory("RssAnon") - before,
        "add_us": round(seconds / steps * 1e6, 1),
        "batch_ms": median_ms(lambda: replay.sample(BATCH, generator), rounds),
        "plain_copy_ms": median_ms(lambda: buffer.copy_(source), rounds),
    }
    if not checkpoints:
        return result
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "experience"
        parts: dict[str, Any] = {}

        def record(name: str, action: Callable[[], Any], size: int | None = None) -> None:
            manifest, taken, grown = peak_growth(action)
            size = manifest["files"][-1]["bytes"] if size is None else size
            parts[name] = {"seconds": round(taken, 2), "bytes": size, "memory_grown_bytes": grown}

        record("first_save", lambda: save_experience(directory, replay))
        fill(replay, stacks, 10_000 // num_envs)
        record("save_of_10000_rows_more", lambda: save_experience(directory, replay))
        expected = replay.sample(BATCH, torch.Generator().manual_seed(1)).observation.clone()
        manifest, size = replay.manifest, sum(file["bytes"] for file in (replay.manifest or {})["files"])
        assert manifest is not None
        # What it holds is overwritten, so that the pages of the storage count for nothing.
        for array in replay.arrays().values():
            array.zero_()
        record("load", lambda: load_experience(directory, manifest, replay), size)
        assert torch.equal(replay.sample(BATCH, torch.Generator().manual_seed(1)).observation, expected)
        result["checkpoint"] = parts
    return result


def measure_sb3(capacity: int, rounds: int) -> dict[str, Any]:
    space = spaces.Box(0, 255, (STACK, PIXELS, PIXELS), np.uint8)
    buffer = ReplayBuffer(
        capacity,
        space,
        spaces.Discrete(4),
        device="cpu",
        optimize_memory_usage=True,
        handle_timeout_termination=False,
    )
    stacks = Stacks(1)
    before, seconds = stacks.stack, 0.0
    for _ in range(capacity + 1000):
        result = stacks.step()
        start = time.process_time()
        buffer.add(before, result.observation, np.zeros(1), result.reward, result.terminated, [{}])
        seconds += time.process_time() - start
        before = result.observation
    size = sum(value.nbytes for value in vars(buffer).values() if isinstance(value, np.ndarray))
    return {
        "transitions": capacity,
        "bytes": size,
        "bytes_of_a_million": round(size / capacity * 1e6),
        "add_us": round(seconds / (capacity + 1000) * 1e6, 1),
        "batch_ms": median_ms(lambda: buffer.sample(BATCH), rounds),
    }


def main() -> None:
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(1)
    keep_freed_memory()  # as every run does
    results: dict[str, Any] = {}
    for num_envs, n_step in ((1, 1), (8, 1), (8, 3)):
        name = f"{num_envs} environment{'s' * (num_envs > 1)}, n_step {n_step}"
        results[name] = measure(arguments.transitions, num_envs, n_step, arguments.rounds, (num_envs, n_step) == (8, 1))
        print(name, results[name], flush=True)
    results["Stable-Baselines3, 1 environment"] = measure_sb3(arguments.sb3_transitions, arguments.rounds)
    print(results["Stable-Baselines3, 1 environment"])
    save("replay", "python benchmarks/replay.py", {"results": results})


if __name__ == "__main__":
    main()
