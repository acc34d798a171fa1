"""Parameters of one age, stepped together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stablegrad.optimizers.partition import partition
from stablegrad.optimizers.stacks import MatrixStack, Stack, State, VectorStack, join
from stablegrad.optimizers.whitening import SideRule

# The root mean square above which a parameter's update is scaled down (Adam's is about 1).
LARGEST_UPDATE = 1.1


class Cohort:
    """Parameters of one device and one state dtype that have taken the same number of steps.

    Everything that a step needs is laid out once: which parameters share a stack, and the views through which gradients
    enter the momentum and updates leave for the parameters. A step then is a few dozen calls for any number of
    parameters, and none waits for a GPU.

    Args:
        params: the parameters.
        states: their states; their tensors become slices of the cohort's.
        block_size: the longest block.
        rule: how dense factors are refreshed.
        dtype: of the products of a step.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        states: Sequence[State],
        block_size: int,
        rule: SideRule,
        dtype: torch.dtype,
    ) -> None:
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, param in enumerate(params):
            part = partition(param.shape, block_size) if param.dim() >= 2 else None
            alike.setdefault((part.rows, part.columns) if part else (), []).append(i)
        self.stacks: list[Stack] = []
        for shape, members in alike.items():
            own_params, own_states = [params[i] for i in members], [states[i] for i in members]
            if shape:
                part = partition(shape, block_size)
                self.stacks.append(MatrixStack(own_params, own_states, part, rule, dtype))
            else:
                self.stacks.append(VectorStack(own_params, own_states))
        matrix_stacks = [stack for stack in self.stacks if isinstance(stack, MatrixStack)]
        if matrix_stacks:
            scratch = matrix_stacks[0].update.new_empty(max(stack.scratch_size for stack in matrix_stacks))
            for stack in matrix_stacks:
                stack.plan(scratch)
        self.params = [param for stack in self.stacks for param in stack.params]
        self.states = [states[i] for members in alike.values() for i in members]
        self.held = [state["momentum"] for state in self.states]
        self.momenta = [view for stack in self.stacks for view in stack.views(stack.momentum)]
        self.updates = [view for stack in self.stacks for view in stack.views(stack.update)]
        self.decaying = [param for param in self.params if param.dim() >= 2]
        self.sizes = self.held[0].new_tensor([param.numel() for param in self.params])
        self.step_counts = join(self.states, "step")
        self.age = int(self.step_counts[0])

    def is_current(self) -> bool:
        """Whether the states are still those that this cohort laid out: not after a load, or a change by hand."""
        return all(state["momentum"] is own for state, own in zip(self.states, self.held, strict=True))

    def step(
        self, refresh: bool, *, lr: float | Tensor, momentum: float, weight_decay: float, precondition_lr: float
    ) -> None:
        """One update of every parameter from its gradient.

        A parameter with a gradient that is not finite is left as it is, momentum and preconditioner included.

        Args:
            refresh: whether this step refreshes the preconditioner.
            lr: learning rate, a number or a scalar tensor.
            momentum: decay of the gradients' running mean.
            weight_decay: decoupled weight decay, for tensors of two dimensions and more.
            precondition_lr: step size of a refresh.
        """
        gradients, finite = self._gradients()
        torch._foreach_lerp_(self.momenta, gradients, 1 - momentum)
        self.step_counts.add_(1)
        correction = 1 / (1 - momentum ** self.step_counts[0].to(self.sizes.dtype))
        alive = finite.split([len(stack.params) for stack in self.stacks])
        for stack, live in zip(self.stacks, alive, strict=True):
            if refresh:
                stack.refresh(live, correction, precondition_lr)
            else:
                stack.precondition()
        rms = correction * torch.cat([stack.norms() for stack in self.stacks]) / self.sizes.sqrt()
        rate = finite * lr
        scales = -rate * correction * (LARGEST_UPDATE / rms).clamp_max(1.0)
        if weight_decay and self.decaying:
            kept = (1 - weight_decay * rate).unbind()
            factors = [factor for factor, param in zip(kept, self.params, strict=True) if param.dim() >= 2]
            torch._foreach_mul_(self.decaying, factors)
        torch._foreach_addcmul_(self.params, self.updates, list(scales.unbind()))

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
