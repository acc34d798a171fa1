"""The gymnasium engine: any registered id, and whatever a user's own factory returns.

Single environments are stepped one after the other by gymnasium's ``SyncVectorEnv``. All vector environments must reset
themselves on the step after the last one (``AutoresetMode.NEXT_STEP``), because only then is the true last observation
of an episode seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from stablegrad.environments.actions import ActionAdapter, action_space
from stablegrad.environments.checked import CheckedEnv, declared_spaces
from stablegrad.environments.contract import EnvironmentSpec, StepResult
from stablegrad.environments.faults import faults_of
from stablegrad.environments.observations import ObservationLayout
from stablegrad.environments.rows import RowKeeper
from stablegrad.errors import EnvironmentFault, UsageError


class GymnasiumVectorEnv:
    """A ``VectorEnv`` around a gymnasium vector environment.

    Args:
        spec: what the environment is, from ``gymnasium_spec``.
        vector: the environments; resets them with ``seeds`` and closes them.
        seeds: one seed for each sub-environment. A vector environment that is neither ``SyncVectorEnv`` nor
            ``AsyncVectorEnv`` takes one number by gymnasium's interface, and gets the first.
        render: whether ``render`` will be called.
    """

    def __init__(
        self, spec: EnvironmentSpec, vector: gymnasium.vector.VectorEnv, seeds: Sequence[int], render: bool
    ) -> None:
        self.num_envs = len(seeds)
        self.spec = spec
        self._vector: gymnasium.vector.VectorEnv | None = vector
        self._seeds: list[int | None] = list(seeds)
        self._render = render
        self._layout = ObservationLayout(spec.env_id, vector.single_observation_space)
        self._actions = ActionAdapter(spec.env_id, vector.single_action_space, self.num_envs)
        self._rows = RowKeeper(spec.env_id, self.num_envs)
        self._started = False

    def reset(self) -> np.ndarray:
        """Start all environments; see ``VectorEnv.reset``."""
        if self._started:
            raise UsageError("reset() starts an environment once; make a new vector environment for fresh episodes")
        vector = self._open_vector()
        with faults_of(self.spec.env_id, "being reset"):
            if isinstance(vector, SyncVectorEnv | AsyncVectorEnv):
                observation, _ = vector.reset(seed=self._seeds)
            else:
                observation, _ = vector.reset(seed=self._seeds[0])
        self._started = True
        return self._rows.first(self._lay_out(observation))

    def step(self, action: np.ndarray) -> StepResult:
        """Step all environments; see ``VectorEnv.step``."""
        vector = self._open_vector()
        if not self._started:
            raise UsageError("call reset() once before the first step()")
        action = self._actions(action)
        with faults_of(self.spec.env_id, f"being stepped (step {self._rows.steps + 1})"):
            observation, reward, terminated, truncated, _ = vector.step(action)
            reward = np.asarray(reward, dtype=np.float64)
            terminated = np.asarray(terminated, dtype=bool)
            truncated = np.asarray(truncated, dtype=bool)
        game_over = (terminated | truncated) & ~self._rows.resetting
        return self._rows.row(self._lay_out(observation), reward, reward, terminated, truncated, game_over)

    def _lay_out(self, observation: Any) -> np.ndarray:
        """The contract's layout, in fresh arrays: a vector environment may write into the same ones at every step."""
        with faults_of(self.spec.env_id, "its observation was laid out"):
            return self._layout(observation, fresh=False)

    def render(self) -> np.ndarray | None:
        """Picture of environment 0; see ``VectorEnv.render``."""
        if not self._render:
            raise UsageError(f"environment {self.spec.env_id!r} was made without render=True")
        vector = self._open_vector()
        with faults_of(self.spec.env_id, "being rendered"):
            frame = vector.envs[0].render() if isinstance(vector, SyncVectorEnv) else vector.render()
            if isinstance(frame, list | tuple):  # one picture for each environment
                frame = frame[0]
        if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8):
            shown = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise EnvironmentFault(
                f"environment {self.spec.env_id!r} rendered {shown}; expected a uint8 array of shape (H, W, 3)"
            )
        return frame

    def close(self) -> None:
        """Release the environments."""
        if self._vector is not None:
            with faults_of(self.spec.env_id, "being closed"):
                self._vector.close()
            self._vector = None

    def _open_vector(self) -> gymnasium.vector.VectorEnv:
        if self._vector is None:
            raise UsageError(f"environment {self.spec.env_id!r} is closed")
        return self._vector


def gymnasium_spec(env_id: str, engine: str, env: gymnasium.Env | gymnasium.vector.VectorEnv) -> EnvironmentSpec:
    """Describe a gymnasium environment, or the sub-environments of a vector environment.

    Args:
        env_id: the name it was asked for by.
        engine: "gymnasium" or "factory".
        env: the environment.

    Raises:
        UsageError: it lacks a space, its observation space has a part without a fixed size, or no agent can take its
            actions.
    """
    its_observation_space, its_action_space = declared_spaces(env_id, env)
    layout = ObservationLayout(env_id, its_observation_space)
    return EnvironmentSpec(
        env_id=env_id,
        observation_shape=layout.shape,
        observation_dtype=layout.dtype,
        action_space=action_space(env_id, its_action_space),
        is_image=layout.is_image,
        max_episode_steps=getattr(env.spec, "max_episode_steps", None),
        engine="factory" if engine == "factory" else "gymnasium",
        atari_game=None,
    )


def make_single(env_id: str, name: str, render: bool) -> gymnasium.Env:
    """Make one environment of gymnasium's registry.

    Raises:
        EnvironmentFault: it could not be made, for instance because a package that it needs is missing.
    """
    with faults_of(env_id, "being made"):
        return gymnasium.make(name, render_mode="rgb_array" if render else None, disable_env_checker=True)


def in_sequence(env_id: str, envs: Sequence[gymnasium.Env]) -> SyncVectorEnv:
    """Put single environments into one vector environment with next-step autoreset.

    Raises:
        UsageError: an environment occurs twice.
        EnvironmentFault: their spaces differ.
    """
    if len({id(env) for env in envs}) < len(envs):
        raise UsageError(f"factory {env_id!r} returned the same environment twice; expected a new one at every call")
    with faults_of(env_id, "being put into a vector"):
        return SyncVectorEnv(
            [lambda env=env: CheckedEnv(env_id, env) for env in envs],  # type: ignore[misc]
            copy=False,
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )


def require_next_step_autoreset(env_id: str, vector: gymnasium.vector.VectorEnv) -> None:
    """Refuse a vector environment that hides the last observation of an episode.

    Raises:
        UsageError: its metadata does not declare ``AutoresetMode.NEXT_STEP``.
    """
    mode = vector.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        declared = mode.name if isinstance(mode, AutoresetMode) else repr(mode)
        raise UsageError(
            f"vector environment of {env_id!r} declares metadata['autoreset_mode'] {declared};"
            " expected AutoresetMode.NEXT_STEP, which shows the true last observation of an episode"
        )
