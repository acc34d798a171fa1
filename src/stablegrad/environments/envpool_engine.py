"""The envpool engine: one C++ thread pool for Atari, DeepMind Control, MuJoCo, Box2D, classic control and more.

What envpool 1.2 does, and what is made of it here:

* ``terminated`` is "done and not at the time limit", so that a death on the very row of the time limit comes out as a
  truncation. Atari tells the two apart (``info["terminated"]`` is the emulator's own game over, ``info["lives"]`` the
  lives left), and there it is put right. Other families do not tell; such a row stays truncated.
* Atari with ``episodic_life``: a lost life ends the episode, the game goes on after a reset in which up to ``noop_max``
  frames pass unseen. In those the game itself can end; more lives after such a reset than before it tell.
* Observations are fresh arrays at every step, so they are handed on without a copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, cast

import numpy as np

from stablegrad.environments.actions import ActionAdapter, action_space
from stablegrad.environments.atari import AtariOptions
from stablegrad.environments.contract import Discrete, EnvironmentSpec, StepResult
from stablegrad.environments.faults import faults_of
from stablegrad.environments.observations import ObservationLayout
from stablegrad.environments.rows import RowKeeper
from stablegrad.errors import EnvironmentFault, UsageError

NO_TIME_LIMIT = 2**31 - 1
"""envpool's ``max_episode_steps`` where there is none."""


class EnvpoolVectorEnv:
    """A ``VectorEnv`` run by envpool.

    Args:
        env_id: the name to show in messages and in the spec.
        name: envpool's own id.
        seeds: one seed for each sub-environment.
        atari: preprocessing; only for Atari games, None for the defaults there.
        num_threads: envpool's threads; 0 means as many as there are environments, but no more than processors.
        render: whether ``render`` will be called.

    Raises:
        UsageError: the environment has several players or actions that no agent can take, or Atari options are given
            for another family.
        EnvironmentFault: envpool could not make it, or it cannot be rendered on this machine.
    """

    def __init__(
        self,
        env_id: str,
        name: str,
        *,
        seeds: Sequence[int],
        atari: AtariOptions | None = None,
        num_threads: int = 0,
        render: bool = False,
    ) -> None:
        self.num_envs = len(seeds)
        self.spec, self._layout, self._actions = _describe(env_id, name, atari, self.num_envs)
        options = _engine_options(env_id, name, atari)
        if render:
            _require_opengl(env_id, name)
            options["render_mode"] = "rgb_array"
        with faults_of(env_id, "being made"), _quiet_precision_warnings():
            self._pool: Any = _envpool().make(
                name,
                env_type="gymnasium",
                num_envs=self.num_envs,
                seed=list(seeds),
                num_threads=num_threads or min(self.num_envs, _processors()),
                **options,
            )
            # Made on first use and cached; asked for here, where its warnings are silenced.
            _ = self._pool.observation_space, self._pool.action_space
        self._render = render
        self._rows = RowKeeper(env_id, self.num_envs)
        self._atari = is_atari(name)
        self._life_loss_terminal = self._atari and (atari or AtariOptions()).life_loss_terminal
        self._lives = np.zeros(self.num_envs, dtype=np.int64)
        self._midgame_reset = np.zeros(self.num_envs, dtype=bool)
        self._started = False

    def reset(self) -> np.ndarray:
        """Start all environments; see ``VectorEnv.reset``."""
        if self._started:
            # A second reset would go on with a half-played Atari game, and would not seed anything again.
            raise UsageError("reset() starts an environment once; make a new vector environment for fresh episodes")
        with faults_of(self.spec.env_id, "being reset"):
            observation, info = self._open_pool().reset()
        self._started = True
        if self._atari:
            self._lives = info["lives"]
        return self._rows.first(self._layout(observation, fresh=True))

    def step(self, action: np.ndarray) -> StepResult:
        """Step all environments; see ``VectorEnv.step``."""
        pool = self._open_pool()
        if not self._started:
            raise UsageError("call reset() once before the first step()")
        action = self._actions(action)
        with faults_of(self.spec.env_id, f"being stepped (step {self._rows.steps + 1})"):
            observation, reward, terminated, truncated, info = pool.step(action)
        if self._atari:
            raw_reward = info["reward"]
            terminated, game_over = self._atari_endings(terminated, truncated, info["lives"], info["terminated"] != 0)
        else:
            raw_reward = reward
            game_over = terminated | truncated
        observation = self._layout(observation, fresh=True)
        return self._rows.row(observation, reward, raw_reward, terminated, truncated, game_over)

    def _atari_endings(
        self, terminated: np.ndarray, truncated: np.ndarray, lives: np.ndarray, emulator_over: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tell death, lost life, time limit and unseen death apart.

        Returns:
            ``terminated`` with deaths on the row of the time limit put right, and ``game_over``; both bool [num_envs].
        """
        died = emulator_over
        if self._life_loss_terminal:
            died = died | ((lives < self._lives) & (lives > 0))
        terminated = terminated | (truncated & died)
        game_over = (terminated & emulator_over) | truncated
        ended_unseen = self._midgame_reset & (lives > self._lives)
        self._midgame_reset = terminated & ~game_over
        self._lives = lives
        return terminated, game_over | ended_unseen

    def render(self) -> np.ndarray | None:
        """Picture of environment 0; see ``VectorEnv.render``."""
        if not self._render:
            raise UsageError(f"environment {self.spec.env_id!r} was made without render=True")
        with faults_of(self.spec.env_id, "being rendered"):
            frame: np.ndarray = self._open_pool().render(0)[0]
        return frame

    def close(self) -> None:
        """Release the environments and their threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _open_pool(self) -> Any:
        if self._pool is None:
            raise UsageError(f"environment {self.spec.env_id!r} is closed")
        return self._pool


def _envpool() -> Any:
    """The package, imported where it is first needed: it takes a second, and classifiers do without."""
    import envpool

    return envpool


def _registered() -> Mapping[str, tuple[Any, ...]]:
    """What envpool knows of each of its ids; the module that holds it comes first."""
    return cast(Mapping[str, tuple[Any, ...]], _envpool().registration.registry.specs)


def envpool_ids() -> list[str]:
    """All ids that envpool registers."""
    return list(_registered())


def import_path(name: str) -> str:
    """The envpool module that holds an environment, which names its family ("envpool.mujoco.dmc")."""
    path: str = _registered()[name][0]
    return path


def is_atari(name: str) -> bool:
    """Whether an envpool id is an Atari game."""
    return import_path(name) == "envpool.atari"


@cache
def envpool_spec(env_id: str, name: str, atari: AtariOptions | None = None) -> EnvironmentSpec:
    """Describe an envpool environment without making it; once a process, as it takes a tenth of a second.

    Raises:
        UsageError: the environment has several players or actions that no agent can take, or Atari options are given
            for another family.
        EnvironmentFault: envpool cannot describe it.
    """
    return _describe(env_id, name, atari, num_envs=1)[0]


def action_kind(name: str) -> Literal["discrete", "continuous"] | None:
    """Kind of action of an environment; None where it cannot be trained on: several players, or refused actions."""
    with _quiet_precision_warnings():
        engine_spec = _envpool().make_spec(name)
        if engine_spec.config.max_num_players != 1:
            return None
        try:
            space = action_space(name, engine_spec.action_space)
        except UsageError:
            return None
    return "discrete" if isinstance(space, Discrete) else "continuous"


def _describe(
    env_id: str, name: str, atari: AtariOptions | None, num_envs: int
) -> tuple[EnvironmentSpec, ObservationLayout, ActionAdapter]:
    options = _engine_options(env_id, name, atari)
    with faults_of(env_id, "being described"), _quiet_precision_warnings():
        engine_spec = _envpool().make_spec(name, **options)
        players = engine_spec.config.max_num_players
        limit = engine_spec.config.max_episode_steps
        spaces = engine_spec.observation_space, engine_spec.action_space
    if players != 1:
        raise UsageError(f"environment {env_id!r} has {players} players; expected an environment for a single agent")
    layout = ObservationLayout(env_id, spaces[0])
    actions = ActionAdapter(env_id, spaces[1], num_envs)
    spec = EnvironmentSpec(
        env_id=env_id,
        observation_shape=layout.shape,
        observation_dtype=layout.dtype,
        action_space=actions.space,
        is_image=layout.is_image,
        max_episode_steps=int(limit) if limit < NO_TIME_LIMIT else None,
        engine="envpool",
        atari_game=name.rpartition("-")[0] if is_atari(name) else None,
    )
    return spec, layout, actions


def _engine_options(env_id: str, name: str, atari: AtariOptions | None) -> dict[str, Any]:
    if is_atari(name):
        return (atari or AtariOptions()).engine_options()
    if atari is not None:
        raise UsageError(f"Atari options are given for {env_id!r}, which is not one of envpool's Atari games")
    return {}


@contextmanager
def _quiet_precision_warnings() -> Iterator[None]:
    """Spaces with float64 bounds and float32 numbers make gymnasium warn; nothing is lost that anybody uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting.*", category=UserWarning)
        yield


def _processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _require_opengl(env_id: str, name: str) -> None:
    """Try a first picture of a MuJoCo environment in a process of its own: without OpenGL it ends the whole process."""
    if not import_path(name).startswith("envpool.mujoco"):
        return
    trial = (
        "import sys, envpool\n"
        "env = envpool.make(sys.argv[1], env_type='gymnasium', num_envs=1, render_mode='rgb_array')\n"
        "env.reset()\n"
        "env.render()\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # MuJoCo leaves its log in the current directory
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", trial, name], cwd=folder, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).split("\n")
        reason = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {done.returncode}")
        raise EnvironmentFault(
            f"environment {env_id!r} cannot be rendered on this machine: MuJoCo needs a working OpenGL ({reason})"
        )
