"""What an optimizer's step costs beside the rest of a training step, on MLPs and the networks of arXiv 2506.15544.

All contenders step the same network in turn, from the same gradients, so that they meet the same moods of the machine.
Denormal numbers are not flushed here, as they are not in most training loops: MLPs are measured once more when half of
their units have been dead for so long that an optimizer which does not mind holds such numbers.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks import EncoderConfig, QNetwork, TorsoConfig, parameter_count
from stablegrad.networks.sizes import resolve_depth, resolve_width
from stablegrad.optimizers import Kron, make_optimizer
from stablegrad.optimizers.schedule import long_run_shares

OBSERVATION_SHAPE = (4, 84, 84)
NUM_ACTIONS = 18
# So small that the weights stay as good as they are: only the time counts.
LEARNING_RATE = 1e-7
# Steps of pytorch_optimizer's SOAP between two of its eigendecompositions.
SOAP_PERIOD = 10
# kron_torch's own schedule: every step for 500 steps, 3% of them after 4,000.
KRON_TORCH_FLOOR = 0.03

#: Linear layers and units of the MLPs, which have 64 inputs and 10 outputs.
MLP_SIZES = tuple(f"mlp/{layers}/{width}" for layers in (4, 12, 22) for width in (128, 256))
NATURE_SIZES = tuple(
    f"{depth}/{width}" for depth in ("small", "medium", "large") for width in ("small", "medium", "large")
)
MLP_INPUTS, MLP_OUTPUTS = 64, 10
# Steps between a unit's death and the late measurement; a momentum of 0.9 is denormal after some 800.
LATE_STEPS = 1000

Step = Callable[[], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of step that an optimizer takes.

    Attributes:
        share: of its steps, in the long run.
        step: takes one.
    """

    share: float
    step: Step


@dataclass
class Contender:
    """An optimizer under measurement; ``kinds`` is empty and ``note`` says why where it cannot run."""

    name: str
    kinds: Mapping[str, Kind]
    optimizer: torch.optim.Optimizer | None = None
    note: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)


def _plain(name: str) -> Callable[[list[nn.Parameter]], Contender]:
    def make(parameters: list[nn.Parameter]) -> Contender:
        optimizer = make_optimizer(name, parameters, LEARNING_RATE)
        return Contender(name, {"step": Kind(1.0, optimizer.step)}, optimizer)

    return make


def _kron(name: str = "kron", **options: Any) -> Callable[[list[nn.Parameter]], Contender]:
    def make(parameters: list[nn.Parameter]) -> Contender:
        optimizer = Kron(parameters, LEARNING_RATE, **options)
        optimizer.step()
        group = optimizer.param_groups[0]
        shares = long_run_shares(group["refresh_floor"], group["precondition_every"])
        kinds: dict[str, Kind] = {
            kind: Kind(share, partial(optimizer.apply, kind)) for kind, share in shares.items() if share
        }
        return Contender(name, kinds, optimizer)

    return make


def _soap(parameters: list[nn.Parameter]) -> Contender:
    optimizer = make_optimizer("soap", parameters, LEARNING_RATE, precondition_frequency=SOAP_PERIOD)
    optimizer.step()  # the first only sets up the state

    def cycle() -> None:
        for _ in range(SOAP_PERIOD):
            optimizer.step()

    return Contender("soap", {"ten steps": Kind(1 / SOAP_PERIOD, cycle)}, optimizer)


def _kron_torch(parameters: list[nn.Parameter]) -> Contender:
    optimizer = importlib.import_module("kron_torch").Kron(parameters, lr=LEARNING_RATE)

    def with_rate(rate: float) -> Step:
        def step() -> None:
            optimizer.param_groups[0]["preconditioner_update_probability"] = rate
            with contextlib.redirect_stdout(io.StringIO()):
                optimizer.step()

        return step

    kinds = {
        "plain": Kind(1 - KRON_TORCH_FLOOR, with_rate(1e-9)),
        "refresh": Kind(KRON_TORCH_FLOOR, with_rate(1.0)),
    }
    return Contender("kron_torch", kinds, optimizer)


def _heavyball(parameters: list[nn.Parameter]) -> Contender:
    optimizer = importlib.import_module("heavyball").ForeachPSGDKron(parameters, lr=LEARNING_RATE)
    return Contender("heavyball", {"step": Kind(1.0, optimizer.step)}, optimizer)


#: Kron with one option changed, for what that costs.
VARIANTS: dict[str, dict[str, Any]] = {
    "kron_block_128": {"block_size": 128},
    "kron_block_256": {"block_size": 256},
    "kron_block_256_every_step": {"block_size": 256, "precondition_every": 1},
    "kron_bf16": {"precision": "bf16"},
}

CONTENDERS: dict[str, Callable[[list[nn.Parameter]], Contender]] = {
    "radam": _plain("radam"),
    "adam": _plain("adam"),
    "kron": _kron(),
    **{name: _kron(name, **options) for name, options in VARIANTS.items()},
    "muon": _plain("muon"),
    "soap": _soap,
    "kron_torch": _kron_torch,
    "heavyball": _heavyball,
}


def build_network(depth: str, width: str) -> QNetwork:
    """The paper's network: Nature CNN, MLP torso, 18 actions."""
    return QNetwork(
        OBSERVATION_SHAPE,
        NUM_ACTIONS,
        encoder=EncoderConfig(kind="nature"),
        torso=TorsoConfig(depth=depth, width=width),
        is_image=True,
    )


def is_mlp(size: str) -> bool:
    """Whether a size is that of an MLP: mlp/layers/width."""
    return size.startswith("mlp/")


def parse_size(size: str) -> tuple[str, str]:
    """``depth/width`` of the Nature CNN's torso, as names or numbers, or ``layers/width`` of ``mlp/layers/width``.

    Raises:
        UsageError: it is not.
    """
    depth, slash, width = size.removeprefix("mlp/").partition("/")
    if is_mlp(size):
        if not (depth.isdigit() and width.isdigit() and int(depth) >= 2 and int(width) >= 2):
            raise UsageError(f"an MLP's size is mlp/layers/width, both at least 2, as in mlp/12/256; got {size!r}")
        return depth, width
    if not slash:
        raise UsageError(f"a size is depth/width, as in small/small or 5/2560; got {size!r}")
    resolve_depth(int(depth) if depth.isdigit() else depth)
    resolve_width(int(width) if width.isdigit() else width)
    return depth, width


def build_mlp(layers: int, width: int) -> nn.Sequential:
    """Linear layers with ReLUs between them."""
    sizes = [MLP_INPUTS, *[width] * (layers - 1), MLP_OUTPUTS]
    linears = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)]
    return nn.Sequential(*[part for linear in linears for part in (linear, nn.ReLU())][:-1])


@torch.no_grad()
def kill_half(network: nn.Sequential) -> None:
    """Have every other hidden unit of an MLP never fire again, so that its gradients are 0 from here on."""
    for linear in [part for part in network if isinstance(part, nn.Linear)][:-1]:
        linear.weight[::2] = 0.0
        linear.bias[::2] = -1.0


def measure(
    size: str,
    names: Sequence[str],
    *,
    rounds: int,
    batch_size: int,
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    """Time one size of network.

    Args:
        size: depth/width, or mlp/layers/width.
        names: of :data:`CONTENDERS`.
        rounds: times that every kind of step is taken.
        batch_size: of the forward and backward pass.
        seconds: a contender that has taken longer than this sits out the remaining rounds.
        device: where.

    Returns:
        "size", "parameters", "parameter_bytes", "forward_backward_ms" and "optimizers", one entry each: "step_ms" (mean
        over its schedule of the medians by kind), "kinds" (milliseconds, "rounds" of each), "spread" (interquartile
        range over median of the commonest kind), "state_bytes", "ratio_radam" and "ratio_adam" (of whole training
        steps), of an MLP "late_step_ms" and "late_ratio" (of its late training step to the early one), or "note" where
        it could not run.
    """
    for name in names:
        if name not in CONTENDERS:
            raise unknown_name("optimizer to measure", name, CONTENDERS)
    torch.manual_seed(0)
    depth, width = (int(part) if part.isdigit() else part for part in parse_size(size))
    network: nn.Module
    if is_mlp(size):
        network = build_mlp(int(depth), int(width)).to(device)
        observation = torch.randn(batch_size, MLP_INPUTS, device=device)
    else:
        network = build_network(depth, width).to(device)  # type: ignore[arg-type]
        observation = torch.randint(0, 256, (batch_size, *OBSERVATION_SHAPE), dtype=torch.uint8, device=device)
    parameters = list(network.parameters())

    def forward_backward() -> None:
        network.zero_grad(set_to_none=False)
        network(observation).square().mean().backward()

    forward_backward()
    contenders = [_started(name, parameters) for name in names]
    passes = _take_turns(contenders, forward_backward, rounds, seconds, device)
    forward_backward_ms = statistics.median(passes) * 1e3
    results = {contender.name: _result(contender, parameters) for contender in contenders}
    for reference in ("radam", "adam"):
        if "step_ms" in results.get(reference, {}):
            whole = forward_backward_ms + results[reference]["step_ms"]
            for result in results.values():
                if "step_ms" in result:
                    result[f"ratio_{reference}"] = (forward_backward_ms + result["step_ms"]) / whole
    if isinstance(network, nn.Sequential):
        kill_half(network)
        forward_backward()
        for contender in contenders:
            contender.seconds.clear()
            _step_on(contender, seconds)
        late_ms = statistics.median(_take_turns(contenders, forward_backward, rounds, seconds, device)) * 1e3
        for contender in contenders:
            result = results[contender.name]
            if "step_ms" in result:
                result["late_step_ms"] = _step_ms(contender)
                early = forward_backward_ms + result["step_ms"]
                result["late_ratio"] = (late_ms + result["late_step_ms"]) / early
    return {
        "size": size,
        "parameters": parameter_count(network),
        "parameter_bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "forward_backward_ms": forward_backward_ms,
        "forward_backward_spread": _spread(passes),
        "optimizers": results,
    }


def _take_turns(
    contenders: Sequence[Contender], forward_backward: Step, rounds: int, seconds: float, device: torch.device
) -> list[float]:
    """Time every kind of step of all contenders ``rounds`` times; the seconds of the passes between them."""
    passes = []
    for _ in range(rounds):
        passes.append(_timed(forward_backward, device))
        for contender in contenders:
            for kind, one in contender.kinds.items():
                if sum(map(sum, contender.seconds.values())) < seconds or not contender.seconds.get(kind):
                    contender.seconds.setdefault(kind, []).append(_timed(one.step, device))
    return passes


def _step_on(contender: Contender, seconds: float) -> None:
    """Take :data:`LATE_STEPS` steps, or as many as ``seconds`` allow."""
    start = time.perf_counter()
    for _ in range(LATE_STEPS):
        if contender.optimizer is None or time.perf_counter() - start > seconds:
            return
        with contextlib.redirect_stdout(io.StringIO()):
            contender.optimizer.step()


def _started(name: str, parameters: list[nn.Parameter]) -> Contender:
    """A contender after one step of every kind, or the reason why there is none."""
    try:
        contender = CONTENDERS[name](parameters)
        for kind in contender.kinds.values():
            kind.step()
    except ImportError:
        return Contender(name, {}, note="not installed")
    except Exception as error:  # noqa: BLE001 - another package's failure is a result here, not an end
        reason = (str(error).splitlines() or [""])[0]
        return Contender(name, {}, note=f"{type(error).__name__}: {reason}"[:120])
    return contender


def _timed(step: Step, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _spread(seconds: Sequence[float]) -> float | None:
    if len(seconds) < 4:
        return None
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / middle


def _result(contender: Contender, parameters: Iterable[Tensor]) -> dict[str, Any]:
    if not contender.kinds:
        return {"note": contender.note}
    medians = _medians_ms(contender)
    commonest = max(contender.kinds, key=lambda kind: contender.kinds[kind].share)
    return {
        "step_ms": _step_ms(contender),
        "kinds": {
            kind: {"share": contender.kinds[kind].share, "ms": median, "rounds": len(contender.seconds[kind])}
            for kind, median in medians.items()
        },
        "spread": _spread(contender.seconds[commonest]),
        "state_bytes": held_bytes(contender.optimizer, parameters),
    }


def _medians_ms(contender: Contender) -> dict[str, float]:
    return {kind: statistics.median(seconds) * 1e3 for kind, seconds in contender.seconds.items()}


def _step_ms(contender: Contender) -> float:
    """Milliseconds a step takes on average over its kinds."""
    return sum(contender.kinds[kind].share * median for kind, median in _medians_ms(contender).items())


def held_bytes(optimizer: Any, parameters: Iterable[Tensor]) -> int:
    """Bytes of all tensors that an object holds, parameters and their gradients apart; every storage once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    apart = {tensor.untyped_storage().data_ptr() for p in parameters for tensor in (p, p.grad) if tensor is not None}
    waiting = [optimizer]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type)) or callable(value):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        elif hasattr(value, "__dict__"):
            waiting += vars(value).values()
    return sum(size for address, size in storages.items() if address not in apart)
