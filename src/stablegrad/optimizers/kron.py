"""Kron: PSGD with a Kronecker-factored preconditioner that whitens the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stablegrad.errors import CheckpointError, UsageError, unknown_name
from stablegrad.optimizers import classic
from stablegrad.optimizers.partition import partition
from stablegrad.optimizers.schedule import refresh_due
from stablegrad.optimizers.stacks import LARGEST_UPDATE, Stack, State
from stablegrad.optimizers.whitening import SIDE_RULES

RULES = (*SIDE_RULES, "classic")

DEFAULT_BLOCK_SIZE = 256


class Kron(torch.optim.Optimizer):
    """PSGD Kron (Li, arXiv 1512.04202 and 2211.04422; in deep RL: arXiv 2506.15544).

    Keeps a running mean of each gradient, multiplies it on both sides by matrices that whiten it, and steps along the
    result, whose root mean square is held to 1.1 at most. By default every weight is cut into blocks of about 256 x
    256, each with its own pair of preconditioners, and all blocks of one shape are worked on in one batched product.
    Scalars and vectors have a diagonal preconditioner.

    The preconditioners are refreshed on a schedule that depends only on how many steps a parameter has taken (see
    :func:`stablegrad.optimizers.schedule.refresh_rate`).

    A parameter without a gradient is passed over. One whose gradient is not finite is left as it is for that step, with
    its momentum and its preconditioner; nothing is raised, because that would wait for the device on every step. The
    classic rule draws from torch's random generator, so a run that must be resumed exactly has to save that generator's
    state as well.

    Args:
        params: parameters or parameter groups, real and dense.
        lr: learning rate, a float or a scalar tensor.
        momentum: decay of the gradient's running mean, in [0, 1).
        weight_decay: decoupled weight decay, multiplied by ``lr``; as in kron_torch, for tensors of two dimensions and
        more only.
        rule: how preconditioners are fitted. ``pro`` and ``quad`` need only matrix products and work on blocks;
        ``classic`` is the
            rule of kron_torch, on whole matrices, with triangular solves and random probes.
        block_size: no block of ``pro`` and ``quad`` is longer or wider than this; None: 256.
        precondition_lr: step size of a refresh, in (0, 1).
        refresh_warmup: steps at the start that all refresh, at least 1; None: 100, and 500 with ``classic``, whose rule
            takes longer to fit (docs/optimizers.md has the measurement).
        refresh_floor: share of the steps that refresh in the long run, in (0, 1]; None: 0.1, and 0.03 with ``classic``.
        compat: with ``classic``, merge convolutions as kron_torch 0.3.3 does, into the most skewed matrix. To reproduce
        it; slow.

    Raises:
        UsageError: an option is out of range, or a parameter is complex or not dense.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        rule: str = "pro",
        block_size: int | None = None,
        precondition_lr: float = 0.1,
        refresh_warmup: int | None = None,
        refresh_floor: float | None = None,
        compat: bool = False,
    ) -> None:
        if rule not in RULES:
            raise unknown_name("Kron rule", rule, RULES)
        if compat and rule != "classic":
            raise UsageError(f"Kron option compat needs rule='classic', got rule={rule!r}")
        if rule == "classic" and block_size is not None:
            raise UsageError("Kron option block_size needs rule='pro' or 'quad'; 'classic' works on whole matrices")
        self.rule = rule
        self.compat = compat
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._draws = classic.BalanceDraws()
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "precondition_lr": precondition_lr,
            "refresh_warmup": refresh_warmup if refresh_warmup is not None else (500 if rule == "classic" else 100),
            "refresh_floor": refresh_floor if refresh_floor is not None else (0.03 if rule == "classic" else 0.1),
        }
        if rule != "classic":
            defaults["block_size"] = DEFAULT_BLOCK_SIZE if block_size is None else block_size
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, whose options may differ from the others'.

        Raises:
            UsageError: an option is out of range, or a parameter is complex or not dense. The optimizer is as before.
        """
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except UsageError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        for option, holds, expected in (
            ("lr", lambda value: 0 <= value < float("inf"), "at least 0"),
            ("momentum", lambda value: 0 <= value < 1, "in [0, 1)"),
            ("weight_decay", lambda value: 0 <= value < float("inf"), "at least 0"),
            ("precondition_lr", lambda value: 0 < value < 1, "in (0, 1)"),
            ("refresh_warmup", lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1"),
            ("refresh_floor", lambda value: 0 < value <= 1, "in (0, 1]"),
            ("block_size", lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1"),
        ):
            if option not in self.defaults:
                if option in group:
                    raise UsageError(f"Kron option {option} needs rule='pro' or 'quad', got rule={self.rule!r}")
            elif isinstance(group[option], Tensor) and (option != "lr" or group[option].numel() != 1):
                shape = tuple(group[option].shape)
                raise UsageError(f"Kron option {option} must be a number, got a tensor of shape {shape}")
            elif not holds(group[option]):
                raise UsageError(f"Kron option {option} must be {expected}, got {group[option]}")
        for i, param in enumerate(group["params"]):
            if not param.is_floating_point() or param.layout != torch.strided:
                raise UsageError(
                    f"Kron needs real, dense parameters, got {_describe(group, i)} of {param.dtype}, {param.layout}"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: recomputes the loss and its gradients; called once.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            UsageError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _check_gradients(group)
        for group in self.param_groups:
            ready = [param for param in group["params"] if param.grad is not None and param.numel()]
            for param in ready:
                if not self.state[param]:
                    self.state[param] = _initial_state(param, group, self.rule, self.compat)
            if self.rule == "classic":
                for param in ready:
                    self._step_classic(param, group)
            else:
                self._step_stacks(ready, group)
        return loss

    def _count(self, state: State, group: dict[str, Any]) -> bool:
        """Advance a parameter's counters; whether this step refreshes its preconditioner."""
        state["since_refresh"] += 1
        due = refresh_due(state["step"], state["since_refresh"], group["refresh_warmup"], group["refresh_floor"])
        state["step"] += 1
        if due:
            state["since_refresh"] = 0
        return due

    def _step_stacks(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update parameters block-wise, all that agree in block shape, kind and age in one stack."""
        peers: dict[tuple[Any, ...], list[Tensor]] = {}
        for param in params:
            state = self.state[param]
            momentum = state["momentum"]
            key = (
                *momentum.shape[1:],
                "q" in state,
                momentum.dtype,
                momentum.device,
                param.dtype,
                state["step"],
                state["since_refresh"],
            )
            peers.setdefault(key, []).append(param)
        for members in peers.values():
            stack = self._stack(members, group)
            due = [self._count(self.state[param], group) for param in members]
            stack.step(
                self.state[members[0]]["step"],
                due[0],
                lr=group["lr"],
                momentum=group["momentum"],
                weight_decay=group["weight_decay"],
                precondition_lr=group["precondition_lr"],
            )

    def _stack(self, params: Sequence[Tensor], group: dict[str, Any]) -> Stack:
        """The stack of exactly these parameters, built when they were not together on the step before."""
        states = [self.state[param] for param in params]
        identity = tuple(map(id, params))
        stack = self._stacks.get(identity)
        if stack is None or not stack.holds(states):
            kept = {key: other for key, other in self._stacks.items() if not any(own in set(identity) for own in key)}
            partitions = [partition(param.shape, group["block_size"]) for param in params]
            stack = Stack(params, states, partitions, SIDE_RULES[self.rule])
            self._stacks = {**kept, identity: stack}
        return stack

    def _step_classic(self, param: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter by the classic rule, in the order of kron_torch: mean, balance, refresh, precondition,
        clip."""
        state = self.state[param]
        assert param.grad is not None
        balance_due = self._draws.due(state["step"])
        due = self._count(state, group)
        momentum, beta = state["momentum"], group["momentum"]
        gradient = param.grad.reshape(momentum.shape).to(momentum.dtype)
        finite = gradient.isfinite().all()
        momentum.copy_(torch.where(finite, beta * momentum + (1 - beta) * gradient, momentum))
        X = momentum / (1 - beta ** state["step"])
        factors = [state[name] for name in ("Q1", "Q2") if name in state]
        if due:
            # Where there is no gradient at all, kron_torch's factors grow by a tenth a refresh until they overflow.
            usable = finite & (X != 0).any()
            V = torch.randn_like(X)
            X = classic.with_probe_noise(X, V)
            fitted = classic.refresh(factors, X, V, group["precondition_lr"], balance_first=balance_due)
            for held, new in zip(factors, fitted, strict=True):
                held.copy_(torch.where(usable, new, held))
        update = classic.precondition(factors, X)
        scale = finite * group["lr"] * (LARGEST_UPDATE / update.square().mean().sqrt()).clamp_max(1.0)
        if group["weight_decay"] and param.dim() >= 2:
            param.mul_(1 - group["weight_decay"] * (finite * group["lr"]))
        param.sub_((scale * update).reshape(param.shape))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave, bit for bit; may come before the first step.

        Raises:
            CheckpointError: it belongs to another network, another optimizer or another rule. The optimizer is as
            before.
        """
        self._check_state_dict(state_dict)
        super().load_state_dict(state_dict)
        # torch casts the state to the parameter's dtype and shares its tensors with the given dictionary; a bfloat16
        # parameter has float32 masters here, which must neither be rounded nor be somebody else's.
        saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        for index, param in zip(saved_ids, self._all_params(), strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                self.state[param][key] = value.to(param.device, copy=True) if isinstance(value, Tensor) else value

    def _check_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not {"state", "param_groups"} <= state_dict.keys():
            raise CheckpointError(
                f"not an optimizer state: expected state and param_groups, found {', '.join(map(str, state_dict))}"
            )
        own, saved = self.param_groups, state_dict["param_groups"]
        sizes, saved_sizes = [len(group["params"]) for group in own], [len(group["params"]) for group in saved]
        if sizes != saved_sizes:
            raise CheckpointError(
                f"the optimizer state is of another network: groups of {saved_sizes} parameters, expected {sizes}"
            )
        for group, saved_group in zip(own, saved, strict=True):
            missing = [option for option in self.defaults if option not in saved_group]
            if missing:
                raise CheckpointError(
                    f"the optimizer state is not of Kron with rule {self.rule!r}: it lacks {', '.join(missing)}"
                )
            for i, (param, index) in enumerate(zip(group["params"], saved_group["params"], strict=True)):
                state = state_dict["state"].get(index)
                if not state:
                    continue
                expected = _state_shapes(param, saved_group, self.rule, self.compat)
                found = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
                if found != expected or not {"step", "since_refresh"} <= state.keys():
                    raise CheckpointError(
                        f"the optimizer state is of another network or rule: {_describe(group, i)} needs "
                        f"{_list_shapes(expected)}, found {_list_shapes(found)}"
                    )

    def _all_params(self) -> Iterable[Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "compat": self.compat}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._stacks = {}
        self._draws = classic.BalanceDraws()


def _describe(group: dict[str, Any], index: int) -> str:
    """How a person would know a parameter of a group: by its name where it was given, by its place, and by its
    shape."""
    names = group.get("param_names")
    return f"{names[index] if names else f'parameter {index}'} of shape {tuple(group['params'][index].shape)}"


def _list_shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items()) or "no tensors"


def _check_gradients(group: dict[str, Any]) -> None:
    for i, param in enumerate(group["params"]):
        if param.grad is not None and param.grad.layout != torch.strided:
            raise UsageError(f"Kron needs dense gradients, got {param.grad.layout} for {_describe(group, i)}")


def _state_dtype(param: Tensor) -> torch.dtype:
    """Momentum and preconditioners are at least float32: rounding would stop their small steps."""
    return torch.promote_types(param.dtype, torch.float32)


def _state_shapes(param: Tensor, group: dict[str, Any], rule: str, compat: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a parameter's state holds."""
    if rule == "classic":
        shape = classic.merged_shape(param.shape, compat)
        if len(shape) < 2:
            return {"momentum": shape, "Q1": shape}
        sides = [(size, size) if classic.dense_side(shape, side) else (size,) for side, size in enumerate(shape)]
        return {"momentum": shape, "Q1": sides[0], "Q2": sides[1]}
    part = partition(param.shape, group["block_size"])
    blocks, rows, columns = part.count, part.block_rows, part.block_columns
    if param.dim() < 2:
        return {"momentum": (1, 1, columns), "q": (1, 1, columns), "L": (1,)}
    return {
        "momentum": (blocks, rows, columns),
        "Q1": (blocks, rows, rows),
        "Q2": (blocks, columns, columns),
        "L1": (blocks,),
        "L2": (blocks,),
    }


def _initial_state(param: Tensor, group: dict[str, Any], rule: str, compat: bool) -> State:
    """The state before a parameter's first step: no momentum, identity factors."""
    state: State = {"step": 0, "since_refresh": 0}
    for key, shape in _state_shapes(param, group, rule, compat).items():
        tensor = torch.zeros(shape, dtype=_state_dtype(param), device=param.device)
        if key in ("Q1", "Q2", "q"):
            matrices = key != "q" and len(shape) >= 2
            (tensor.diagonal(dim1=-2, dim2=-1) if matrices else tensor).fill_(1.0)
        state[key] = tensor
    return state
