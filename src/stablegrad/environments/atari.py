"""Atari preprocessing: every option of the field by name, with the values of arXiv 2506.15544 as defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stablegrad.errors import UsageError


@dataclass(frozen=True)
class AtariOptions:
    """How an Atari game is shown to the agent and how its rewards and endings are used in learning.

    Evaluation takes the same: episode statistics are of whole games and raw rewards in any case.

    Raises:
        UsageError: a value is out of range.
    """

    frame_stack: int = 4
    """Number of most recent pictures in one observation."""
    frame_skip: int = 4
    """Emulator frames for each agent step: the action is repeated, the last two frames are merged by their maximum."""
    sticky_actions: float = 0.0
    """Probability that the emulator repeats its last action instead of the chosen one, at every frame (0.25 in Machado
    et al. 2018; 0 in the paper)."""
    full_action_set: bool = False
    """Offer all 18 actions instead of only those that do something in the game."""
    noop_max: int = 30
    """A reset is followed by a random number of no-ops: 1 to this many, or one less where FIRE is pressed as well."""
    fire_reset: bool = True
    """Press FIRE after a reset in games that have that action, so that they start."""
    life_loss_terminal: bool = True
    """Losing a life ends the learning episode (terminated), though not the game. The reset after it presses FIRE
    where ``fire_reset`` is on, so an agent that is trained with it should be evaluated with it."""
    clip_rewards: bool = True
    """Learn from the sign of the reward. Episode statistics stay raw."""
    image_size: int = 84
    """Height and width of the pictures, in pixels."""
    grayscale: bool = True
    """One channel of brightness a picture instead of three of colour."""
    max_episode_steps: int = 27000
    """Time limit of a game in agent steps (27000 steps of 4 frames are 30 minutes)."""

    def __post_init__(self) -> None:
        for name in ("frame_stack", "frame_skip", "noop_max", "image_size", "max_episode_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"Atari option {name} must be a whole number of at least 1, got {value!r}")
        if not 0.0 <= self.sticky_actions < 1.0:
            raise UsageError(
                f"Atari option sticky_actions is a probability from 0 to below 1, got {self.sticky_actions!r}"
            )

    def engine_options(self) -> dict[str, Any]:
        """The same options under envpool's names."""
        return {
            "stack_num": self.frame_stack,
            "frame_skip": self.frame_skip,
            "repeat_action_probability": float(self.sticky_actions),
            "full_action_space": self.full_action_set,
            "noop_max": self.noop_max,
            "use_fire_reset": self.fire_reset,
            "episodic_life": self.life_loss_terminal,
            "reward_clip": self.clip_rewards,
            "img_height": self.image_size,
            "img_width": self.image_size,
            "gray_scale": self.grayscale,
            "max_episode_steps": self.max_episode_steps,
        }
