"""How values are learned: by regression, or by classifying returns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stablegrad.agents.categorical import cross_entropy, entropy, expectation, hl_gauss, project, two_hot

#: Losses of values by name: (value, target, reduction) -> loss.
REGRESSION = {"squared": F.mse_loss, "huber": F.smooth_l1_loss}
#: Cross-entropies of returns. C51's targets are distributions that follow from the network's own, one step later.
CLASSIFICATION = ("two_hot", "hl_gauss", "c51")
VALUE_LOSSES = (*REGRESSION, *CLASSIFICATION)
#: Standard deviation of HL-Gauss in units of the distance of two atoms (Farebrother et al., arXiv 2403.03950).
SIGMA = 0.75


class Values:
    """What a network's outputs say of values, what they should say, and how far they are from it.

    With atoms, an output is logits in one more dimension, [..., atoms]; without, it is the value. A *label* is what an
    output should be: a value, or probabilities of the atoms.

    Args:
        loss: one of ``VALUE_LOSSES``.
        atoms: [atoms] returns, evenly spaced and rising; None with a loss of regression.
    """

    def __init__(self, loss: str, atoms: Tensor | None):
        self.loss, self.atoms = loss, atoms
        self._spacing = 0.0 if atoms is None else float(atoms[1] - atoms[0])

    def of(self, outputs: Tensor) -> Tensor:
        """The values themselves: outputs [...] or [..., atoms] to [...]; those of regression as they are."""
        return outputs if self.atoms is None else expectation(outputs.float(), self.atoms)

    def labels(self, target: Tensor) -> Tensor:
        """Labels of values that are targets: [batch] to [batch] or [batch, atoms]."""
        if self.atoms is None:
            return target
        if self.loss == "hl_gauss":
            return hl_gauss(target, self.atoms, SIGMA * self._spacing)
        return two_hot(target, self.atoms)

    def backup(self, reward: Tensor, discount: Tensor, outputs: Tensor, bonus: Tensor | None = None) -> Tensor:
        r"""Labels one transition ahead of what follows: of :math:`r + \gamma (Q + b)`.

        With C51 all atoms are moved so, and their probabilities projected (Bellemare et al., arXiv 1707.06887).

        Args:
            reward: [batch], of one step or the discounted sum of several.
            discount: [batch], what multiplies the bootstrap: gamma to the number of steps, 0 after termination.
            outputs: [batch] or [batch, atoms], of the state and action that follow.
            bonus: [batch] b, added to the value that follows; None: nothing.

        Returns:
            [batch] or [batch, atoms].
        """
        if self.loss == "c51":
            assert self.atoms is not None
            values = self.atoms if bonus is None else self.atoms + bonus[:, None]
            moved = torch.addcmul(reward[:, None], discount[:, None], values)
            return project(moved, outputs.float().softmax(dim=1), self.atoms)
        following = self.of(outputs)
        if bonus is not None:
            following = following + bonus
        return self.labels(torch.addcmul(reward, discount, following))

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Losses of values: outputs [...] or [..., atoms] and labels of the same shape to [...]."""
        if self.atoms is None:
            return REGRESSION[self.loss](outputs, labels, reduction="none")
        return cross_entropy(outputs, labels)

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Priorities: absolute errors, or divergences from the labels (Hessel et al. 2018); shapes as of ``losses``."""
        if self.atoms is None:
            return (outputs - labels).abs()
        # At least 0 but for rounding.
        return (cross_entropy(outputs, labels) - entropy(labels)).clamp(min=0.0)


def outputs_at(outputs: Tensor, index: Tensor) -> Tensor:
    """One output of each row: [batch, n, ...] and int64 [batch] to [batch, ...]."""
    return outputs.take_along_dim(index.view(-1, *(1 for _ in outputs.shape[1:])), dim=1).squeeze(1)
