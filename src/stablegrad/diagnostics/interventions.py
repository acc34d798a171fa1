"""Interventions: what can be done about a finding, what it costs, the change as settings and as code, and the change.

Each is one record. Commands, trials, searches, changes of a running agent and code for Stable-Baselines3 are written
from its ``settings``, for whatever algorithm has such options.

How well an intervention answers a rule is a weight in [0, 1]: 1 where it removes the cause in most cases, less where it
helps some or treats the symptom. ``prescribe`` adds the weights of what was found. The weights are judgements; those of
``slow_relearning`` were put in order after short trials with ``verify``, of which no results are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stablegrad.diagnostics import changes, optimizer_changes, sb3_code
from stablegrad.diagnostics.changes import CannotApply, Change
from stablegrad.diagnostics.optimizer_changes import MAX_NORM, RATE_FACTOR
from stablegrad.diagnostics.sb3_code import AgentSettings, Sb3Code
from stablegrad.diagnostics.settings import (
    RATE,
    Options,
    Settings,
    WriteCommand,
    changed_options,
    unknown_agents_command,
    wanted,
)
from stablegrad.errors import Catalogue, UsageError
from stablegrad.networks.sizes import DEPTHS, WIDTHS, resolve_depth, resolve_width
from stablegrad.optimizers import Kron

__all__ = ["INTERVENTIONS", "CannotApply", "Intervention", "fitting"]

BENCHMARK = "benchmarks/intervention_cost.py"
#: What is said below the code of every change after which the network computes something else.
COPIES = """

# what was made from the network before no longer fits it. A target network or an average of weights, where there
# is one, is made anew:
#   import copy
#   target = copy.deepcopy(model)
# then torch.compile, DistributedDataParallel and monitors. Checkpoints of before do not fit; one of now is loaded
# into a network that was made as before and changed in the same way"""


@dataclass(frozen=True)
class Intervention:
    """One thing that can be changed.

    Attributes:
        name: such as "layer_norm".
        title: the change in a few words.
        helps: why it helps, a sentence without a full stop.
        answers: weight by name of the rule that it answers.
        torch: the change as code for plain PyTorch. FACTOR stands for how much a learning rate is multiplied by.
        settings: the change as options of an agent, see :mod:`stablegrad.diagnostics.settings`; empty where there are
            no such options.
        change: applies it to a network and its optimizer; None where that takes a person.
        sb3: writes it for an agent of Stable-Baselines3; None: it has no such option.
        structural: whether the network computes something else from then on, so that copies of it no longer fit.
        live: whether a run can go on with it, with what it has learned.
        again: whether it is made again and again while a network is trained, and not once.
        step_time: time of a training step over that without it, measured.
        memory: bytes of weights, gradients and optimizer state over those without it, measured.
        measured: where.
        unmeasured: what it costs, in words, where that is not measured.
        fits: whether there is anything to change on a network and optimizer.
        telling: how much more it counts, where it fits hardly any healthy network.
    """

    name: str
    title: str
    helps: str
    answers: Mapping[str, float]
    torch: str
    settings: Settings = field(default_factory=dict)
    change: Change | None = None
    sb3: Sb3Code | None = None
    structural: bool = False
    live: bool = False
    again: bool = False
    step_time: float = 1.0
    memory: float = 1.0
    measured: str = ""
    unmeasured: str = "nothing in a training step"
    fits: Callable[[nn.Module, Optimizer], bool] = field(default=lambda model, optimizer: True)
    telling: float = 1.0

    def answer(self, rule: str) -> float:
        """How well it answers a rule."""
        return self.answers.get(rule, 0.0)

    def apply(self, model: nn.Module, optimizer: Optimizer, factor: float | None = None) -> Optimizer:
        """Change the network and the optimizer in place.

        Args:
            model: the network.
            optimizer: trains it.
            factor: of a learning rate; None: 10, or a tenth.

        Returns:
            the optimizer to go on with: the one that was given, or its successor.

        Raises:
            CannotApply: it takes a person, or there is nothing to change.
            UsageError: there is no optimizer.
        """
        if not hasattr(optimizer, "param_groups"):
            raise UsageError(f"give the optimizer that trains the model as well, got {type(optimizer).__name__}")
        if self.change is None:
            raise CannotApply(f"{self.name} cannot be applied by itself: it changes what stands around the network")
        if self.structural and (wrapper := changes.wrapper_of(model)):
            raise CannotApply(
                f"{self.name} changes the network inside {wrapper}, which would not see it; apply it to the network "
                f"itself, then make the {wrapper} anew"
            )
        return self.change(model, optimizer) if factor is None else self.change(model, optimizer, factor)

    def changes(self, options: Options, factor: float | None = None) -> dict[str, Any]:
        """What it changes in an agent: new values by option, ``RATE`` for a factor of all learning rates.

        Args:
            options: the agent's; what it does not have, or has already, is left out.
            factor: of the learning rate; None: 10, or a tenth.
        """
        return changed_options(self.settings, options, factor)

    def code(
        self,
        factor: float | None = None,
        agent: AgentSettings | None = None,
        command: WriteCommand | None = None,
    ) -> dict[str, str]:
        """The change as code by stack: "torch", "sb3" (Stable-Baselines3), "cli"; one without it is left out.

        Args:
            factor: of the learning rate; None: 10, or a tenth.
            agent: of Stable-Baselines3, for which "sb3" is written; None: it is not known.
            command: writes "cli" for a run; None: it is not known.
        """
        times = f"{self.settings.get(RATE, 1.0) if factor is None else factor:g}"
        code = {"torch": self.torch.replace("FACTOR", times) + (COPIES if self.structural else "")}
        if self.sb3 is not None:
            agent = agent or AgentSettings()
            code["sb3"] = self.sb3(agent, wanted(self.settings, agent.options, factor))
        line = unknown_agents_command(self.settings, factor) if command is None else command(self.name, factor)
        return code if line is None else {**code, "cli": line}

    @property
    def cost(self) -> str:
        """What it is expected to cost, in words."""
        if not self.measured:
            return self.unmeasured
        return (
            f"a training step takes {self.step_time:.2f} times as long, weights, gradients and optimizer state take "
            f"{self.memory:.2f} times the memory ({self.measured})"
        )


def _hidden_norm(options: Options) -> str | None:
    # Of a CNN, whose convolutions are hidden layers; a norm on a state vector is one of inputs.
    return "auto" if options.get("encoder.norm", "none") == "none" else None


def _another_activation(option: str) -> Callable[[Options], str]:
    return lambda options: "leaky_relu" if options.get(option) == "gelu" else "gelu"


def _tighter_clipping(options: Options) -> float:
    norm = options.get("max_grad_norm")
    return MAX_NORM if norm is None else norm / 10


def _at_most(option: str, sizes: Mapping[str, int], resolve: Callable[[int | str], int]) -> Callable[[Options], Any]:
    def at_most(options: Options) -> int | str | None:
        if option not in options:
            return "small"
        return sizes["small"] if resolve(options[option]) > sizes["small"] else None

    return at_most


def _fewer_skips(options: Options) -> int | None:
    return DEPTHS["small"] if (options.get("torso.skip_blocks") or 0) > DEPTHS["small"] else None


def _slower_average(options: Options) -> float | None:
    tau = options.get("tau")
    return tau / 5 if tau is not None and tau < 1 else None


def _rarer_copies(options: Options) -> int | None:
    interval = options.get("target_every")
    return 2 * interval if interval is not None and options.get("tau", 1.0) == 1 else None


def _in_place(name: str) -> str:
    """The change made on the network that a person has."""
    return (
        "from stablegrad.diagnostics.interventions import INTERVENTIONS\n\n"
        f'optimizer = INTERVENTIONS["{name}"].apply(model, optimizer)'
    )


_ALL = (
    Intervention(
        name="layer_norm",
        title="LayerNorm after every hidden layer",
        helps="it keeps what every layer passes on, and the gradient on its way back, at one scale",
        answers={
            "not_learned": 0.6,
            "fallen_back": 0.6,
            "vanishing_gradient": 1.0,
            "fading_gradient": 1.0,
            "exploding_gradient": 0.9,
            "constant_output": 0.9,
            "dormant_units": 0.9,
            "dead_units": 0.8,
            "rank_collapse": 0.6,
            "diverging_output": 0.5,
            "unscaled_weights": 0.7,
            "unstable_values": 0.5,
            "slow_relearning": 0.1,
        },
        torch="# after every hidden layer, never after the last; after convolutions nn.GroupNorm(1, channels)\n"
        "hidden = nn.Sequential(nn.Linear(n, m), nn.LayerNorm(m), nn.ReLU())\n\n"
        "# or on the network that you have:\n" + _in_place("layer_norm"),
        settings={"torso.norm": "layer", "encoder.norm": _hidden_norm},
        sb3=sb3_code.in_place("layer_norm"),
        structural=True,
        change=changes.layer_norm,
        step_time=1.07,
        memory=1.00,
        measured=BENCHMARK,
        fits=lambda model, optimizer: bool(changes.layers_without_norm(model)),
    ),
    Intervention(
        name="multi_skip",
        title="multi-skip residual blocks",
        helps="every block has a direct path to the features, so gradients do not pass the whole stack",
        answers={
            "not_learned": 1.0,
            "fallen_back": 1.0,
            "unstable_values": 1.0,
            "slow_relearning": 1.0,
            "vanishing_gradient": 0.9,
            "fading_gradient": 0.9,
            "rank_collapse": 0.7,
            "exploding_gradient": 0.4,
            "dormant_units": 0.4,
            "dead_units": 0.4,
            "constant_output": 0.3,
        },
        torch="from stablegrad.networks import MultiSkipTorso\n\n"
        "# features to features, in place of the hidden layers; depth counts blocks of two layers\n"
        "torso = MultiSkipTorso(n, width=m, depth=5)\n\n"
        "# or on an nn.Sequential with a plain stack:\n" + _in_place("multi_skip"),
        settings={"torso.kind": "multi_skip"},
        sb3=sb3_code.in_place("multi_skip"),
        structural=True,
        change=changes.multi_skip,
        step_time=1.14,
        memory=1.01,
        measured=BENCHMARK,
        fits=lambda model, optimizer: changes.has_plain_stack(model),
    ),
    Intervention(
        name="residual",
        title="residual connections around hidden layers",
        helps="a layer whose input is added to its output passes the gradient on even where it does nothing",
        answers={
            "not_learned": 0.6,
            "fallen_back": 0.5,
            "vanishing_gradient": 0.8,
            "fading_gradient": 0.6,
            "rank_collapse": 0.4,
            "constant_output": 0.2,
            "unstable_values": 0.5,
            "slow_relearning": 0.2,
        },
        torch="class Residual(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())\n\n"
        "    def forward(self, x):\n"
        "        return x + self.f(x)\n\n\n"
        "# or on the network that you have, around layers whose output has the shape of their input:\n"
        + _in_place("residual"),
        settings={"torso.kind": "residual", "torso.skip_blocks": None},
        sb3=sb3_code.in_place("residual"),
        structural=True,
        change=changes.residual,
        step_time=1.00,
        memory=1.00,
        measured=BENCHMARK,
        fits=lambda model, optimizer: bool(changes.square_layers(model)),
    ),
    Intervention(
        name="kron",
        title="the optimizer Kron",
        helps="it whitens the gradient of every layer, so directions that it hardly reaches are learned as well",
        answers={
            "not_learned": 0.8,
            "fallen_back": 0.8,
            "unstable_values": 0.5,
            "slow_relearning": 0.7,
            "fading_gradient": 0.6,
            "rank_collapse": 0.6,
            "vanishing_gradient": 0.5,
            "slow_optimizer": 0.7,
            "small_update": 0.3,
        },
        torch="from stablegrad.optimizers import Kron\n\n"
        "# at Adam's learning rate; a third of it where targets move as fast as in the pre-flight\n"
        "optimizer = Kron(model.parameters(), lr=3e-4)\n"
        "# schedulers hold the old optimizer: make them anew over this one",
        settings={"optimizer.name": "kron"},
        sb3=sb3_code.made_with("kron"),
        change=changes.kron,
        # Medians over nine networks, beside RAdam (docs/benchmarks.md, "What a step of Kron costs"): steps 1.07 to
        # 1.15; its state is 2.2 times the parameters, RAdam's 2.0, and weights and gradients are one each.
        step_time=1.09,
        memory=1.06,
        measured="docs/benchmarks.md, beside RAdam",
        fits=lambda model, optimizer: not isinstance(optimizer, Kron),
    ),
    Intervention(
        name="orthogonal_init",
        title="orthogonal initialisation",
        helps="orthogonal weights of the right gain neither shrink nor stretch what passes through them",
        answers={
            "alike_units": 1.0,
            "unscaled_weights": 1.0,
            "vanishing_gradient": 0.6,
            "exploding_gradient": 0.4,
            "constant_output": 0.3,
            "slow_relearning": 0.1,
        },
        torch="for module in model.modules():\n"
        "    if isinstance(module, nn.Linear | nn.Conv2d):\n"
        "        nn.init.orthogonal_(module.weight, 2**0.5)  # the last layer: 1, or 0.01 for a policy\n"
        "        nn.init.zeros_(module.bias)",
        sb3=sb3_code.in_place("orthogonal_init"),
        change=changes.orthogonal_init,
    ),
    Intervention(
        name="activation",
        title="another activation",
        helps="leaky ReLU and GELU have a slope where ReLU units die and where tanh and sigmoid saturate",
        answers={"dead_units": 0.8, "dormant_units": 0.6, "no_gradient": 0.3},
        torch="hidden = nn.Sequential(nn.Linear(n, m), nn.LeakyReLU(0.1))  # or nn.GELU()\n\n"
        "# or on the network that you have, where activations are modules:\n" + _in_place("activation"),
        settings={name: _another_activation(name) for name in ("torso.activation", "encoder.activation")},
        sb3=sb3_code.made_with("activation"),
        structural=True,
        change=changes.activation,
        step_time=0.96,
        memory=1.00,
        measured=BENCHMARK,
        fits=lambda model, optimizer: bool(changes.replaceable_activations(model)),
    ),
    Intervention(
        name="recycle_dormant",
        title="fresh weights for dormant units",
        helps="units that no gradient reaches never come back by themselves",
        answers={"dead_units": 0.9, "dormant_units": 0.9, "no_gradient": 0.3, "constant_output": 0.3},
        torch="# every few thousand steps, after the backward pass:\n" + _in_place("recycle_dormant"),
        sb3=sb3_code.between_learning("recycle_dormant"),
        change=changes.recycle_dormant,
        live=True,
        again=True,
        unmeasured="one pass over the weights every few thousand steps",
    ),
    Intervention(
        name="lower_learning_rate",
        title="a lower learning rate",
        helps="smaller steps undo less of what was learned",
        answers={
            "not_learned": 0.7,
            "fallen_back": 0.7,
            "extreme_rate": 1.0,
            "thrown_weights": 1.0,
            "nonfinite": 1.0,
            "diverging_output": 0.8,
            "exploding_gradient": 0.7,
            "unstable_values": 0.4,
            "slow_relearning": 0.6,
            "constant_output": 0.6,
            "rank_collapse": 0.5,
            "dead_units": 0.5,
            "dormant_units": 0.5,
            "fading_gradient": 0.4,
        },
        torch='for group in optimizer.param_groups:\n    group["lr"] *= FACTOR',
        settings={RATE: 1 / RATE_FACTOR},
        sb3=sb3_code.made_with("lower_learning_rate"),
        change=optimizer_changes.lower_learning_rate,
        live=True,
    ),
    Intervention(
        name="raise_learning_rate",
        title="a higher learning rate",
        helps="updates that change the weights by next to nothing learn nothing",
        answers={"not_learned": 0.2, "small_update": 1.0, "slow_optimizer": 1.0},
        torch='for group in optimizer.param_groups:\n    group["lr"] *= FACTOR',
        settings={RATE: RATE_FACTOR},
        sb3=sb3_code.made_with("raise_learning_rate"),
        change=optimizer_changes.raise_learning_rate,
        live=True,
    ),
    Intervention(
        name="steady_rate",
        title="a learning rate without jumps and without an early end",
        helps="a rate that leaps undoes what was learned, and one that falls too early leaves nothing to learn with",
        answers={"starved_rate": 1.0},
        torch="# a gentler schedule, such as a cosine over all updates of the training\n"
        "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100_000)\n\n"
        "# or within bounds around the one that you have:\n" + _in_place("steady_rate"),
        settings={"optimizer.schedule": "constant"},
        sb3=sb3_code.made_with("steady_rate"),
        change=optimizer_changes.steady_rate,
        live=True,
    ),
    Intervention(
        name="clip_gradients",
        title="clipped gradients",
        helps="one batch with a huge gradient cannot throw the weights about",
        answers={
            "fallen_back": 0.4,
            "exploding_gradient": 1.0,
            "nonfinite": 0.8,
            "diverging_output": 0.4,
        },
        torch="# between loss.backward() and optimizer.step()\ntorch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)",
        settings={"max_grad_norm": _tighter_clipping},
        sb3=sb3_code.made_with("clip_gradients"),
        change=optimizer_changes.clip_gradients,
        live=True,
        step_time=1.03,
        memory=1.00,
        measured=BENCHMARK,
    ),
    Intervention(
        name="reset_optimizer_state",
        title="a fresh optimizer state",
        helps="moments of gradients long gone hold back, or drive, the steps of today",
        answers={"stale_state": 1.0, "small_update": 0.5},
        torch="optimizer.state.clear()\n"
        "for group in optimizer.param_groups:  # an eps above the gradients holds steps back as well\n"
        '    if group.get("eps", 0.0) > 1e-3:\n        group["eps"] = 1e-8',
        sb3=sb3_code.between_learning("reset_optimizer_state"),
        change=optimizer_changes.reset_optimizer_state,
        live=True,
        again=True,
    ),
    Intervention(
        name="train_layer",
        title="train the layer that is left out",
        helps="a layer that no optimizer has, or at a rate of 0, stays as it was made",
        answers={"no_update": 1.0},
        torch="# make the optimizer after the last change of the network, over all of its parameters\n"
        "optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)\n\n"
        "# or add what is missing to the one that you have:\n" + _in_place("train_layer"),
        sb3=sb3_code.between_learning("train_layer"),
        change=changes.train_layer,
        live=True,
        fits=changes.left_out,
        unmeasured="what training that layer takes",
    ),
    Intervention(
        name="reconnect",
        title="reconnect what the loss cannot reach",
        helps="no gradient passes detach(), no_grad(), argmax, rounding, NumPy, or an output without a loss",
        answers={"no_gradient": 1.0},
        unmeasured="what the gradients take that were missing",
        torch="# look for these between the layer and the loss, and take them out:\n"
        "#   .detach(), .data, .item(), .numpy(), torch.no_grad(), torch.tensor(tensor), argmax, round, clamp\n"
        "# and for outputs that no loss uses. What is connected shows a gradient here:\n"
        "for name, parameter in model.named_parameters():\n"
        "    print(name, None if parameter.grad is None else parameter.grad.norm().item())",
    ),
    Intervention(
        name="normalise_inputs",
        title="normalised inputs",
        helps="running statistics keep inputs at mean 0 and deviation 1 while data move, and fill in what is no number",
        answers={"unscaled_input": 1.0, "nonfinite_input": 1.0},
        torch=_in_place("normalise_inputs"),
        settings={"encoder.norm": "layer"},
        sb3=sb3_code.normalised_inputs,
        structural=True,
        change=changes.normalise_inputs,
        live=True,
        step_time=1.17,
        memory=1.00,
        measured=BENCHMARK,
    ),
    Intervention(
        name="slower_targets",
        title="targets that stay bounded",
        helps="values that are learned from themselves run away at a discount of 1 or more, past unseen ends, "
        "or where the target follows every step; so do answers to targets of a scale that grows",
        answers={
            "fallen_back": 0.4,
            "diverging_output": 1.0,
        },
        torch="# target = reward + discount * (1 - terminated) * next_value, with a discount below 1; rewards\n"
        "# and targets of one scale, divided by a running deviation. Learn from a copy that follows slowly;\n"
        "# after every optimizer step:\n"
        "with torch.no_grad():\n"
        "    for slow, fast in zip(target.parameters(), model.parameters(), strict=True):\n"
        "        slow.lerp_(fast, 0.005)",
        settings={"tau": _slower_average, "target_every": _rarer_copies},
        sb3=sb3_code.slower_targets,
        step_time=1.04,
        memory=1.25,
        measured=BENCHMARK,
    ),
    Intervention(
        name="stable_loss",
        title="a loss that stays finite",
        helps="logarithms of zero, large exponentials, divisions by zero and half precision end a training at one step",
        answers={"nonfinite": 0.6},
        torch="# work with logarithms, and keep what is divided by away from zero:\n"
        "#   F.cross_entropy(logits, y) or log_softmax, not log(softmax); F.binary_cross_entropy_with_logits;\n"
        "#   torch.logsumexp; F.softplus for scales, with a floor; var + 1e-6 under a root; float32 for the loss\n"
        "# the operation that makes the first bad number is named by\n"
        "with torch.autograd.detect_anomaly(check_nan=True):\n"
        "    model(torch.randn(4, n)).square().mean().backward()  # your loss here",
    ),
    Intervention(
        name="limit_updates",
        title="steps that are limited",
        helps="a step that changes no matrix by more than 2% cannot undo what was learned, whatever the rate does",
        answers={
            "extreme_rate": 0.5,
            "thrown_weights": 0.8,
            "exploding_gradient": 0.5,
            "nonfinite": 0.5,
        },
        torch=_in_place("limit_updates"),
        sb3=sb3_code.between_learning("limit_updates"),
        change=optimizer_changes.limit_updates,
        live=True,
        unmeasured="a copy of the weights, and one pass over them a step",
    ),
    Intervention(
        name="clear_gradients",
        title="gradients cleared after every step",
        helps="gradients add up until they are set to zero",
        answers={"leftover_gradient": 1.0},
        torch="optimizer.zero_grad()  # before every backward pass, on the optimizer that takes the step\n\n"
        "# or after every step of the one that you have:\n" + _in_place("clear_gradients"),
        change=optimizer_changes.clear_gradients,
        live=True,
    ),
    Intervention(
        name="weaker_decay",
        title="a weaker weight decay",
        helps="decay that takes a good part of the weights in every step leaves nothing of what is learned",
        answers={
            "thrown_weights": 1.0,
            "constant_output": 1.0,
            "rank_collapse": 1.0,
            "dead_units": 1.0,
            "dormant_units": 1.0,
            "small_update": 1.0,
            "vanishing_gradient": 0.8,
            "fading_gradient": 0.8,
        },
        torch="# of AdamW the part of the weights that goes in a step is lr * weight_decay: 1e-5 is usual;\n"
        "# of Adam and SGD, which add decay to the gradient, a weight_decay of 1e-4\n" + _in_place("weaker_decay"),
        sb3=sb3_code.between_learning("weaker_decay"),
        change=optimizer_changes.weaker_decay,
        live=True,
        telling=2.0,
        fits=lambda model, optimizer: optimizer_changes.decays_strongly(optimizer),
    ),
    Intervention(
        name="free_output",
        title="nothing behind the last layer",
        helps="outputs behind an activation that is at its end, or behind a norm, cannot reach what is wanted of them",
        answers={"constant_output": 0.6, "fading_gradient": 0.6},
        torch="# end with the layer itself, and put what the range asks for into the loss\n"
        "outputs = nn.Sequential(nn.Linear(n, 64), nn.ReLU(), nn.Linear(64, m))\n\n"
        "# or on the network that you have, where it is a module:\n" + _in_place("free_output"),
        structural=True,
        change=changes.free_output,
        live=True,
        telling=1.5,
        fits=lambda model, optimizer: bool(changes.output_shapers(model)),
    ),
    Intervention(
        name="wider_norm",
        title="norms over more values",
        helps="a norm over one or two values, or over single channels of tiny images, leaves nothing to learn from",
        answers={
            "constant_output": 1.0,
            "dead_units": 1.0,
            "vanishing_gradient": 1.0,
            "fading_gradient": 1.0,
            "rank_collapse": 1.0,
        },
        torch="# over all features of a layer, of images over all channels, nn.GroupNorm(1, channels);\n"
        "# none where there are fewer than three\n"
        "hidden = nn.Sequential(nn.Linear(n, m), nn.LayerNorm(m), nn.ReLU())\n\n"
        "# or on the network that you have:\n" + _in_place("wider_norm"),
        structural=True,
        change=changes.wider_norm,
        telling=1.5,
        fits=lambda model, optimizer: bool(changes.narrow_norms(model)),
    ),
    Intervention(
        name="smaller_network",
        title="a smaller network",
        helps="what passes few layers loses little on its way, there and back",
        answers={
            "not_learned": 0.4,
            "slow_relearning": 0.4,
            "learns_less": 0.4,
            "vanishing_gradient": 0.2,
            "fading_gradient": 0.2,
        },
        unmeasured="less than nothing: a smaller network is faster",
        torch="from stablegrad.networks import MLPTorso\n\n"
        "small = nn.Sequential(MLPTorso(n, width=256, depth=0), nn.Linear(256, m))\n\n"
        "# or on an nn.Sequential with a plain stack, of which the first and the last layer stay:\n"
        + _in_place("smaller_network"),
        settings={
            "torso.depth": _at_most("torso.depth", DEPTHS, resolve_depth),
            "torso.width": _at_most("torso.width", WIDTHS, resolve_width),
            "torso.skip_blocks": _fewer_skips,
        },
        sb3=sb3_code.made_with("smaller_network"),
        structural=True,
        change=changes.smaller_network,
        fits=lambda model, optimizer: changes.depth(model) > 2,
    ),
)

#: All interventions by name.
INTERVENTIONS: Catalogue[Intervention] = Catalogue("intervention", ((one.name, one) for one in _ALL))


def fitting(*trained: tuple[nn.Module, Optimizer]) -> frozenset[str]:
    """Names of the interventions that have something to change on any of the networks and their optimizers."""
    return frozenset(name for name, one in INTERVENTIONS.items() if any(one.fits(*pair) for pair in trained))
