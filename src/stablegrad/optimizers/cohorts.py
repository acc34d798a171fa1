"""Parameters of one age, stepped together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stablegrad.optimizers.denormals import floor_of_gradients, flush_
from stablegrad.optimizers.partition import Partition, matrix_shape, partition
from stablegrad.optimizers.schedule import Kind
from stablegrad.optimizers.stacks import FactorBank, MatrixStack, Side, State, VectorStack, chunk_size, join

# The root mean square above which a parameter's update is scaled down (Adam's is about 1).
LARGEST_UPDATE = 1.1


class Cohort:
    """Parameters of one device and one state dtype that have taken the same number of steps.

    Everything that a step needs is laid out once: which parameters share a stack, and the views through which gradients
    enter the momentum and updates leave for the parameters. A step then is a few dozen calls, and one more for every
    matrix that is wider than a block and, on the CPU, for every piece that keeps it busy; none waits for a GPU.

    Args:
        params: the parameters.
        states: their states; their tensors become slices of the cohort's.
        block_size: the longest block.
        dtype: of the products of a step.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        states: Sequence[State],
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, param in enumerate(params):
            alike.setdefault(matrix_shape(param.shape) if param.dim() >= 2 else (), []).append(i)
        vectors = alike.pop((), [])
        parts = {shape: partition(shape, block_size) for shape in alike}
        sides, self.banks = self._bank_factors(states, alike, parts, dtype)
        self.matrices = [
            MatrixStack([params[i] for i in members], [states[i] for i in members], parts[shape], *sides[shape])
            for shape, members in alike.items()
        ]
        scratch_size = max((stack.scratch_size for stack in self.matrices), default=0)
        scratch = torch.empty(scratch_size, dtype=dtype, device=params[0].device)
        for stack in self.matrices:
            stack.plan(scratch)
        self.vectors = [VectorStack([params[i] for i in vectors], [states[i] for i in vectors])] if vectors else []
        self.stacks: list[MatrixStack | VectorStack] = [*self.matrices, *self.vectors]
        self.params = [param for stack in self.stacks for param in stack.params]
        self.states = [states[i] for members in (*alike.values(), vectors) for i in members]
        self.held = [state["momentum"] for state in self.states]
        self.momenta = [view for stack in self.stacks for view in stack.views(stack.momentum)]
        self.updates = [view for stack in self.stacks for view in stack.views(stack.update)]
        decaying = [i for i, param in enumerate(self.params) if param.dim() >= 2]
        self.decaying = [self.params[i] for i in decaying]
        self.decaying_index = torch.tensor(decaying, dtype=torch.int64, device=params[0].device)
        self.sizes = self.held[0].new_tensor([param.numel() for param in self.params])
        self.norms = torch.cat([stack.norms() for stack in self.stacks])
        self.step_counts = join(self.states, "step")
        self.age = int(self.step_counts[0])

    def is_current(self, state_of: Mapping[Tensor, State]) -> bool:
        """Whether an optimizer's states are still those that this cohort laid out.

        They are not after a load, a reset (``optimizer.state.clear()``), or a change by hand.
        """
        return all(state_of[param]["momentum"] is own for param, own in zip(self.params, self.held, strict=True))

    def step(
        self, kind: Kind, *, lr: float | Tensor, momentum: float, weight_decay: float, precondition_lr: float
    ) -> None:
        """One update of every parameter from its gradient.

        A parameter with a gradient that is not finite is left as it is, momentum and preconditioner included.

        Args:
            kind: what this step does.
            lr: learning rate, a number or a scalar tensor.
            momentum: decay of the gradients' running mean.
            weight_decay: decoupled weight decay, for tensors of two dimensions and more.
            precondition_lr: step size of a refresh.
        """
        gradients, finite = self._gradients()
        torch._foreach_lerp_(self.momenta, gradients, 1 - momentum)
        for stack in self.stacks:
            flush_(stack.momentum, floor_of_gradients(stack.momentum.dtype))
        self.step_counts.add_(1)
        correction = 1 / (1 - momentum ** self.step_counts[0].to(self.sizes.dtype))
        if kind == "refresh":
            self._refresh(finite, correction, precondition_lr)
        elif kind == "precondition":
            for stack in self.stacks:
                stack.precondition()
        if kind != "repeat":
            torch.cat([stack.norms() for stack in self.stacks], out=self.norms)
        rms = correction * self.norms / self.sizes.sqrt()
        rate = finite * lr
        scales = -rate * correction * (LARGEST_UPDATE / rms).clamp_max(1.0)
        if weight_decay and self.decaying:
            kept = (1 - weight_decay * rate)[self.decaying_index]
            torch._foreach_mul_(self.decaying, list(kept.unbind()))
            if kind == "refresh":  # often enough for a decay as slow as this
                for param in self.decaying:
                    flush_(param, floor_of_gradients(self.sizes.dtype))
        torch._foreach_addcmul_(self.params, self.updates, list(scales.unbind()))

    @staticmethod
    def _bank_factors(
        states: Sequence[State],
        alike: Mapping[tuple[int, ...], Sequence[int]],
        parts: Mapping[tuple[int, ...], Partition],
        dtype: torch.dtype,
    ) -> tuple[dict[tuple[int, ...], tuple[Side, Side]], list[FactorBank]]:
        """Put all factors of one size into one bank; where every shape's left and right ones are, and the banks."""
        by_length: dict[int, list[tuple[State, str, float]]] = {}
        spans: list[tuple[tuple[int, ...], int, slice, int]] = []
        counts: Counter[int] = Counter()
        for shape, members in alike.items():
            part = parts[shape]
            for side, length, blocks, tau in (
                ("1", part.block_rows, part.grid[0], part.columns),
                ("2", part.block_columns, part.grid[1], part.rows),
            ):
                by_length.setdefault(length, []).extend((states[i], side, float(tau)) for i in members)
                end = counts[length] + blocks * len(members)
                spans.append((shape, length, slice(counts[length], end), blocks))
                counts[length] = end
        chunk = chunk_size(states[0]["momentum"].device)
        banks = {length: FactorBank(sides, dtype, chunk) for length, sides in by_length.items()}
        placed = [(shape, Side(banks[length], span, blocks)) for shape, length, span, blocks in spans]
        return {
            shape: (left, right) for (shape, left), (_, right) in zip(placed[::2], placed[1::2], strict=True)
        }, list(banks.values())

    def _refresh(self, finite: Tensor, correction: Tensor, rate: float) -> None:
        """Precondition, and fit the factors to what comes out, except those whose gradient was not ``finite``."""
        alive = finite.split([len(stack.params) for stack in self.stacks])
        moments = {id(bank): torch.empty_like(bank.P) for bank in self.banks}
        live = {id(bank): torch.empty_like(bank.L, dtype=torch.bool) for bank in self.banks}
        for stack, own in zip(self.matrices, alive, strict=False):
            stack.scale_fresh(own, correction)
            stack.precondition()
            for bank, span, blocks in (stack.left, stack.right):
                live[id(bank)][span] = own.repeat_interleave(blocks)
            stack.second_moments(*(moments[id(side.bank)][side.span] for side in (stack.left, stack.right)))
        for bank in self.banks:
            bank.fit(moments[id(bank)], correction.square(), live[id(bank)], rate)
        for stack in self.matrices:
            stack.balance()
        for bank in self.banks:
            bank.cache_gram()
        for vectors in self.vectors:
            vectors.refresh(alive[-1], correction, rate)

    def _gradients(self) -> tuple[list[Tensor], Tensor]:
        """The gradients, in the state's dtype, and which of them are finite [P].

        One that is not is replaced by the momentum, which then stays as it is.
        """
        dtype = self.sizes.dtype
        gradients = [param.grad.to(dtype) for param in self.params if param.grad is not None]
        finite = torch.stack(torch._foreach_norm(gradients)).isfinite()
        # On the CPU it costs nothing to look, and nearly always all is well; a GPU would have to be waited for.
        if finite.device.type != "cpu" or not finite.all():
            gradients = [
                torch.where(fine, gradient, held)
                for fine, gradient, held in zip(finite.unbind(), gradients, self.momenta, strict=True)
            ]
        return gradients, finite
