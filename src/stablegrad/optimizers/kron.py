"""Kron: PSGD with a Kronecker-factored preconditioner that whitens the gradient."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from stablegrad.errors import CheckpointError, UsageError, unknown_name
from stablegrad.optimizers import classic
from stablegrad.optimizers.cohorts import LARGEST_UPDATE, Cohort
from stablegrad.optimizers.denormals import floor_of_gradients, floor_of_updates, flush_, flushed_on_one_thread
from stablegrad.optimizers.estimate import Estimate, estimate, estimate_classic
from stablegrad.optimizers.partition import DEFAULT_BLOCK_SIZE, like, longest_block, partition
from stablegrad.optimizers.schedule import KINDS, Kind, default_schedule, kind_of_step, long_run_shares
from stablegrad.optimizers.stacks import State

RULES = ("pro", "classic")

DEFAULT_MOMENTUM = 0.9

# kron_torch's, which ``classic`` follows.
CLASSIC_WARMUP, CLASSIC_FLOOR = 500, 0.03

# Options that may be None; they then follow from the longest block.
OPEN_OPTIONS = ("precondition_every", "refresh_warmup", "refresh_floor")

STEP_OPTIONS = ("lr", "momentum", "weight_decay", "precondition_lr")

PRECISIONS = ("fp32", "bf16")


class Kron(torch.optim.Optimizer):
    """PSGD Kron (Li, arXiv 1512.04202 and 2211.04422; in deep RL: arXiv 2506.15544).

    Keeps a running mean of each gradient, multiplies it on both sides by matrices that whiten it, and steps along the
    result, whose root mean square is held to 1.1 at most. Both matrices are block diagonal by default, with blocks of
    about 64 x 64, and all weights of one shape are worked on in batched products. Scalars and vectors have a diagonal
    preconditioner.

    The preconditioners are refreshed on a schedule that depends only on how many steps a parameter has taken (see
    :func:`stablegrad.optimizers.schedule.refreshes_before`).

    A parameter without a gradient is passed over. One whose gradient, or its norm, is not finite is left as it is for
    that step, with its momentum and its preconditioner; nothing is raised, because that would wait for the device on
    every step. The classic rule draws from torch's random generator, so a run that must be resumed exactly has to save
    that generator's state as well.

    Args:
        params: parameters or parameter groups, real and dense; not sharded (DTensor, as of FSDP2).
        lr: learning rate, a float or a scalar tensor.
        momentum: decay of the gradient's running mean, in [0, 1).
        weight_decay: decoupled weight decay, multiplied by ``lr``; as in kron_torch, for tensors of two dimensions and
        more only.
        rule: how preconditioners are fitted. ``pro`` needs only matrix products and works on blocks;
            ``classic`` is the rule of kron_torch, on whole matrices, with triangular solves and random probes.
        block_size: no block of ``pro`` is larger than this; None: 64. 256 costs as much, and learns reshuffled labels
            faster in layers of 512 and wider, but agents worse (docs/benchmarks.md).
        precondition_every: of the steps of ``pro`` that do not refresh, every how many-th multiplies with the
            preconditioners; the others take the last update once more, while the running mean goes on. Without momentum
            their gradients are lost.
        precondition_lr: step size of a refresh, in (0, 1).
        refresh_warmup: steps at the start that all refresh, at least 1.
        refresh_floor: share of the steps that refresh in the long run, in (0, 1].
        precision: of the products with ``pro``: fp32, or bf16, with momentum and factors in float32 all
            the same. None: fp32; bf16 is faster where the hardware has it, and learns less (docs/benchmarks.md).
        compat: with ``classic``, merge convolutions as kron_torch 0.3.3 does, into the most skewed matrix. To reproduce
        it; slow.

    The three of these that are None follow from the longest block of all parameters
    (:func:`stablegrad.optimizers.schedule.default_schedule`): with blocks of 64 every step preconditions, the first 100
    refresh and one in 10 in the long run; with blocks of 256 one in 4, the first 512 and one in 20. With ``classic``
    they are those of kron_torch: 1, 500 and 0.03.

    Raises:
        UsageError: an option is out of range, or a parameter is complex or not dense.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = DEFAULT_MOMENTUM,
        weight_decay: float = 0.0,
        rule: str = "pro",
        block_size: int | None = None,
        precondition_every: int | None = None,
        precondition_lr: float = 0.1,
        refresh_warmup: int | None = None,
        refresh_floor: float | None = None,
        precision: str | None = None,
        compat: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "precondition_lr": precondition_lr,
        } | group_defaults(
            rule=rule,
            block_size=block_size,
            precondition_every=precondition_every,
            refresh_warmup=refresh_warmup,
            refresh_floor=refresh_floor,
            precision=precision,
            compat=compat,
        )
        self.rule = rule
        self.compat = compat
        self.precision = precision
        self._laid_out: dict[int, tuple[list[Tensor], list[Cohort]]] = {}
        self._draws = classic.BalanceDraws()
        self._complete = False
        super().__init__(params, defaults)
        self._complete = True
        for group in self.param_groups:
            self._settle(group)

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
        if self._complete:
            self._settle(self.param_groups[-1])

    def _check_group(self, group: dict[str, Any]) -> None:
        _check_ranges(group, self.defaults.keys(), self.rule)
        for i, param in enumerate(group["params"]):
            if is_traceable_wrapper_subclass(param.data):
                raise UsageError(
                    f"Kron needs whole tensors, got {_describe(group, i)} as a {type(param.data).__name__}; for "
                    "parameters that FSDP2 shards take adam or muon, or replicate them (DistributedDataParallel)"
                )
            if not param.is_floating_point() or param.layout != torch.strided:
                raise UsageError(
                    f"Kron needs real, dense parameters, got {_describe(group, i)} of {param.dtype}, {param.layout}"
                )

    def _settle(self, group: dict[str, Any]) -> None:
        """Give a group the schedule that was left open, from the longest block of all, so that groups step alike."""
        if self.rule == "pro":
            block = max(
                longest_block([param.shape for param in one["params"]], one["block_size"]) for one in self.param_groups
            )
            for option, value in default_schedule(block, group["momentum"]).items():
                group[option] = value if group[option] is None else group[option]

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
        with flushed_on_one_thread():
            self._step()
        return loss

    def _step(self) -> None:
        for group in self.param_groups:
            _check_gradients(group)
        for index, group in enumerate(self.param_groups):
            ready = [param for param in group["params"] if param.grad is not None and param.numel()]
            for param in ready:
                state = self.state[param]
                if not state:
                    self.state[param] = _initial_state(param, group, self.rule, self.compat, self._dtype(param))
                elif state["momentum"].dtype != _state_dtype(param):  # the model has another dtype now
                    state.update({key: _in_dtype_of(param, value) for key, value in state.items()})
            if self.rule == "classic":
                for param in ready:
                    self._step_classic(param, group)
                continue
            for cohort in self._cohorts(index, ready):
                cohort.step(_advance(cohort, group), **{option: group[option] for option in STEP_OPTIONS})

    def advance(self) -> Kind:
        """Count one step, without taking it, and say what it does: "refresh", "precondition" or "repeat".

        :meth:`step` is :meth:`advance` and :meth:`apply` in one. Apart, they let the three kinds of step be recorded
        once, each as a CUDA graph, and replayed: docs/optimizers.md shows how. Nothing here touches the device.

        Raises:
            UsageError: no step was taken yet, or the parameters' steps are of different kinds, as some have missed
                steps or groups have schedules of their own.
        """
        due = {
            _advance(cohort, group)
            for index, group in enumerate(self.param_groups)
            for cohort in self._laid_out.get(index, ([], []))[1]
        }
        if len(due) != 1:
            raise UsageError(
                "Kron.advance needs at least one step taken"
                if not due
                else "Kron.advance needs parameters that refresh together; some have missed steps or another schedule: "
                "use step()"
            )
        return due.pop()

    @torch.no_grad()
    def apply(self, kind: Kind) -> None:
        """Take the step that :meth:`advance` counted, of the kind that it said, for the parameters of the last step.

        Every tensor it works on stays where it is from step to step, gradients too if they are kept
        (``zero_grad(set_to_none=False)``), and the learning rate if it is a tensor, so it can be captured.

        Raises:
            UsageError: there is no such kind.
        """
        if kind not in KINDS:
            raise unknown_name("kind of step", kind, KINDS)
        with flushed_on_one_thread():
            for index, group in enumerate(self.param_groups):
                for cohort in self._laid_out.get(index, ([], []))[1]:
                    cohort.step(kind, **{option: group[option] for option in STEP_OPTIONS})

    def held_of(self, param: Tensor) -> list[Tensor]:
        """Momentum and last update of a parameter as views of its shape; none before its first step."""
        held = [state[key] for state in (self.state.get(param, {}),) for key in ("momentum", "update") if key in state]
        if self.rule == "classic" or param.dim() < 2:
            return [one.view(param.shape) for one in held]
        return [like(one[0], param.shape) for one in held]

    @staticmethod
    def estimate(
        params: Iterable[Tensor],
        *,
        rule: str = "pro",
        block_size: int | None = None,
        momentum: float = DEFAULT_MOMENTUM,
        precondition_every: int | None = None,
        refresh_floor: float | None = None,
        precision: str | None = None,
    ) -> Estimate:
        """What Kron would cost for ``params``, which may be on the meta device; nothing is allocated.

        Args:
            params: parameters of at most float32.
            rule: as of Kron.
            block_size: as of Kron.
            momentum: as of Kron.
            precondition_every: as of Kron.
            refresh_floor: as of Kron.
            precision: as of Kron.

        Returns:
            bytes between steps, bytes in passing, multiply-adds a step.
        """
        shapes = [param.shape for param in params]
        if rule == "classic":
            return estimate_classic(shapes, CLASSIC_FLOOR if refresh_floor is None else refresh_floor)
        block_size = DEFAULT_BLOCK_SIZE if block_size is None else block_size
        schedule = default_schedule(longest_block(shapes, block_size), momentum)
        shares = long_run_shares(
            schedule["refresh_floor"] if refresh_floor is None else refresh_floor,
            schedule["precondition_every"] if precondition_every is None else precondition_every,
        )
        return estimate(shapes, block_size, shares, _product_dtype(torch.float32, precision))

    def _cohorts(self, index: int, params: list[Tensor]) -> list[Cohort]:
        """Group ``index``'s parameters that have a gradient, by age; laid out anew when they are not those of the last
        step."""
        known, cohorts = self._laid_out.get(index, ([], []))
        same = len(known) == len(params) and all(map(operator.is_, known, params))
        if not (same and all(cohort.is_current(self.state) for cohort in cohorts)):
            alike: dict[tuple[Any, ...], list[Tensor]] = {}
            for param in params:
                state = self.state[param]
                alike.setdefault((int(state["step"]), param.device, state["momentum"].dtype), []).append(param)
            block_size = self.param_groups[index]["block_size"]
            cohorts = [
                Cohort(members, [self.state[param] for param in members], block_size, self._dtype(members[0]))
                for members in alike.values()
            ]
            self._laid_out[index] = (params, cohorts)
        return cohorts

    def _dtype(self, param: Tensor) -> torch.dtype:
        """What the products with ``param``'s factors are computed in."""
        return _product_dtype(_state_dtype(param), self.precision)

    def _step_classic(self, param: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter by the classic rule, in the order of kron_torch: mean, balance, refresh, precondition,
        clip."""
        state = self.state[param]
        assert param.grad is not None
        balance_due = self._draws.due(state["step"])
        due = classic.refresh_due(
            state["step"], state["since_refresh"] + 1, group["refresh_warmup"], group["refresh_floor"]
        )
        state["step"], state["since_refresh"] = state["step"] + 1, 0 if due else state["since_refresh"] + 1
        momentum, beta = state["momentum"], group["momentum"]
        gradient = param.grad.reshape(momentum.shape).to(momentum.dtype)
        finite = gradient.isfinite().all()
        momentum.copy_(torch.where(finite, beta * momentum + (1 - beta) * gradient, momentum))
        floor = floor_of_gradients(momentum.dtype)
        flush_(momentum, floor)
        X = momentum / (1 - beta ** state["step"])
        factors = [state[name] for name in ("Q1", "Q2") if name in state]
        if due:
            # Where there is no gradient at all, kron_torch's factors grow by a tenth a refresh until they overflow.
            usable = finite & (X != 0).any()
            V = torch.randn_like(X)
            X = classic.with_probe_noise(X, V)
            fitted = classic.refresh(factors, X, V, group["precondition_lr"], balance_first=balance_due)
            for held, new in zip(factors, fitted, strict=True):
                held.copy_(flush_(torch.where(usable, new, held), floor))
        update = flush_(classic.precondition(factors, X), floor_of_updates(X.dtype))
        scale = finite * group["lr"] * (LARGEST_UPDATE / update.square().mean().sqrt()).clamp_max(1.0)
        if group["weight_decay"] and param.dim() >= 2:
            param.mul_(1 - group["weight_decay"] * (finite * group["lr"]))
            flush_(param, floor)
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
                own = value.to(param.device, copy=True) if isinstance(value, Tensor) else value
                self.state[param][key] = _in_dtype_of(param, own)

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
            # torch adds "differentiable" to the defaults of an optimizer that has loaded a state, not to its groups.
            missing = [option for option in self.defaults if option not in saved_group and option != "differentiable"]
            if missing:
                raise CheckpointError(
                    f"the optimizer state is not of Kron with rule {self.rule!r}, or of an earlier version: it lacks "
                    f"{', '.join(missing)}"
                )
            for i, (param, index) in enumerate(zip(group["params"], saved_group["params"], strict=True)):
                state = state_dict["state"].get(index)
                if not state:
                    continue
                expected = _state_shapes(param, saved_group, self.rule, self.compat)
                found = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
                counters = {"step", "since_refresh"} if self.rule == "classic" else {"step"}
                if found != expected or not counters <= state.keys():
                    raise CheckpointError(
                        f"the optimizer state is of another network or rule: {_describe(group, i)} needs "
                        f"{_list_shapes(expected)}, found {_list_shapes(found)}"
                    )

    def _all_params(self) -> Iterable[Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "compat": self.compat, "precision": self.precision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._complete = True
        self._laid_out = {}
        self._draws = classic.BalanceDraws()


def group_defaults(
    *,
    rule: str,
    block_size: int | None,
    precondition_every: int | None,
    refresh_warmup: int | None,
    refresh_floor: float | None,
    precision: str | None,
    compat: bool = False,
) -> dict[str, Any]:
    """A parameter group's options that depend on the rule; arguments and errors as of Kron.

    Settings are checked with it: making an optimizer would import torch's compiler, which takes two seconds.
    """
    if rule not in RULES:
        raise unknown_name("Kron rule", rule, RULES)
    if compat and rule != "classic":
        raise UsageError(f"Kron option compat needs rule='classic', got rule={rule!r}")
    if rule == "classic" and block_size is not None:
        raise UsageError("Kron option block_size needs rule='pro'; 'classic' works on whole matrices")
    if rule == "classic" and precondition_every is not None:
        raise UsageError("Kron option precondition_every needs rule='pro'; 'classic' preconditions on every step")
    if precision is not None and precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if rule == "classic" and precision is not None:
        raise UsageError("Kron option precision needs rule='pro'; 'classic' computes in float32")
    if rule == "classic":
        options: dict[str, Any] = {
            "refresh_warmup": CLASSIC_WARMUP if refresh_warmup is None else refresh_warmup,
            "refresh_floor": CLASSIC_FLOOR if refresh_floor is None else refresh_floor,
        }
    else:
        options = {
            "block_size": DEFAULT_BLOCK_SIZE if block_size is None else block_size,
            "precondition_every": precondition_every,
            "refresh_warmup": refresh_warmup,
            "refresh_floor": refresh_floor,
        }
    _check_ranges(options, options.keys(), rule)
    return options


def _check_ranges(group: Mapping[str, Any], options: Collection[str], rule: str) -> None:
    """Check a parameter group, whose options should be ``options``."""
    for option, holds, expected in (
        ("lr", lambda value: 0 <= value < float("inf"), "at least 0"),
        ("momentum", lambda value: 0 <= value < 1, "in [0, 1)"),
        ("weight_decay", lambda value: 0 <= value < float("inf"), "at least 0"),
        ("precondition_lr", lambda value: 0 < value < 1, "in (0, 1)"),
        ("refresh_warmup", lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1"),
        ("refresh_floor", lambda value: 0 < value <= 1, "in (0, 1]"),
        ("block_size", lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1"),
        ("precondition_every", lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1"),
    ):
        if option not in options:
            if option in group:
                raise UsageError(f"Kron option {option} needs rule='pro', got rule={rule!r}")
        elif isinstance(group[option], Tensor) and (option != "lr" or group[option].numel() != 1):
            shape = tuple(group[option].shape)
            raise UsageError(f"Kron option {option} must be a number, got a tensor of shape {shape}")
        elif group[option] is None and option in OPEN_OPTIONS and rule == "pro":
            continue
        elif group[option] is None or not holds(group[option]):
            raise UsageError(f"Kron option {option} must be {expected}, got {group[option]}")


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
        if param.grad is not None and param.is_meta:
            raise UsageError(f"Kron cannot step on the meta device, where {_describe(group, i)} is; it has no numbers")


def _advance(cohort: Cohort, group: dict[str, Any]) -> Kind:
    """Count one more step of a cohort; what it does."""
    cohort.age += 1
    return kind_of_step(cohort.age - 1, group["refresh_warmup"], group["refresh_floor"], group["precondition_every"])


def _product_dtype(state: torch.dtype, precision: str | None) -> torch.dtype:
    return torch.bfloat16 if state == torch.float32 and precision == "bf16" else state


def _state_dtype(param: Tensor) -> torch.dtype:
    """Momentum and preconditioners are at least float32: rounding would stop their small steps."""
    return torch.promote_types(param.dtype, torch.float32)


def _in_dtype_of(param: Tensor, value: Any) -> Any:
    """An entry of a state, in the dtype that the state of ``param`` has; counts as they are."""
    is_real = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(_state_dtype(param)) if is_real else value


def _state_shapes(param: Tensor, group: dict[str, Any], rule: str, compat: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a parameter's state holds."""
    if rule == "classic":
        shape = classic.merged_shape(param.shape, compat)
        if len(shape) < 2:
            return {"momentum": shape, "Q1": shape}
        sides = [(size, size) if classic.dense_side(shape, side) else (size,) for side, size in enumerate(shape)]
        return {"momentum": shape, "Q1": sides[0], "Q2": sides[1]}
    if param.dim() < 2:
        size = (param.numel(),)
        return {"step": (1,), "momentum": size, "update": size, "q": size, "L": (1,)}
    part = partition(param.shape, group["block_size"])
    down, across = part.grid
    return {
        "step": (1,),
        "momentum": (1, *part.padded),
        "update": (1, *part.padded),
        "Q1": (down, part.block_rows, part.block_rows),
        "Q2": (across, part.block_columns, part.block_columns),
        "L1": (down,),
        "L2": (across,),
    }


def _initial_state(param: Tensor, group: dict[str, Any], rule: str, compat: bool, product_dtype: torch.dtype) -> State:
    """The state before a parameter's first step: no momentum, identity factors."""
    state: State = {"step": 0, "since_refresh": 0} if rule == "classic" else {}
    for key, shape in _state_shapes(param, group, rule, compat).items():
        dtype = torch.int64 if key == "step" else _state_dtype(param)
        if key == "update" and len(shape) > 1:
            dtype = product_dtype
        tensor = torch.zeros(shape, dtype=dtype, device=param.device)
        if key in ("Q1", "Q2", "q"):
            matrices = key != "q" and len(shape) >= 2
            (tensor.diagonal(dim1=-2, dim2=-1) if matrices else tensor).fill_(1.0)
        state[key] = tensor
    return state
