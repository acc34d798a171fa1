"""What a run does between two checkpoints, as its lifecycle sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from torch.optim import Optimizer

from stablegrad.agents.contract import Agent

if TYPE_CHECKING:
    from stablegrad.training.lifecycle import Lifecycle


class Loop(Protocol):
    """Trains: an agent in its environments, or a classifier on labels that change."""

    shown: str
    """What tells how well it is doing, beside the progress: "return", "accuracy"."""
    digits: int
    """Decimals of that."""

    @property
    def agent(self) -> Agent | None:
        """The agent that is diagnosed and may be rolled back; None: there is none."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """What is trained, by name."""

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """What trains them."""

    @property
    def layers(self) -> list[str]:
        """Names of all layers in forward order."""

    @property
    def updates(self) -> int:
        """Optimizer steps so far."""

    @property
    def step(self) -> int:
        """What metrics and checkpoints are counted by."""

    @property
    def total_steps(self) -> int:
        """Where ``step`` ends."""

    @property
    def position(self) -> str:
        """Where the run is, for messages: "step 1,000"."""

    def advance(self, run: Lifecycle) -> None:
        """Train to the next checkpoint, or to where ``run.stops`` asks to stop."""

    def finish(self, run: Lifecycle) -> Mapping[str, Any]:
        """What belongs to the summary of a finished run alone, such as its evaluation."""

    def summary(self, wall_seconds: float) -> dict[str, Any]:
        """What a summary says of the loop, after so many seconds."""

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks``."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``.

        Raises:
            KeyError: something is missing.
            ValueError: it is of another optimizer.
            StablegradError: it does not belong to this run.
        """
