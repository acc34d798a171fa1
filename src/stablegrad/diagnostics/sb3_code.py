"""Changes as code for Stable-Baselines3, written for one agent: its algorithm, its learning rate, its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from stablegrad.diagnostics.settings import RATE

PACKAGES = ("stable_baselines3", "sb3_contrib")
#: Arguments of constructors by what the same option is called in this package.
OPTIONS = {"max_grad_norm": "max_grad_norm", "tau": "tau", "target_every": "target_update_interval"}
#: What changes depend on, of what an agent's constructor takes.
ARGUMENTS = ("learning_rate", *OPTIONS.values())
#: Activations, as code, by this package's names.
ACTIVATIONS = {"gelu": "nn.GELU", "leaky_relu": "nn.LeakyReLU"}


@dataclass(frozen=True)
class AgentSettings:
    """What code for an agent depends on; by default PPO as it is.

    Attributes:
        algorithm: name of its class.
        package: which has that class.
        policy: as code, such as '"MlpPolicy"'.
        arguments: of ``ARGUMENTS``, those that it has; a learning rate that is a schedule is left out.
        policy_kwargs: what its layers are, as code, which is repeated: "net_arch" and "activation_fn".
        width: units of its widest hidden layer.
        known: whether this is somebody's agent, and not an assumption.
    """

    algorithm: str = "PPO"
    package: str = "stable_baselines3"
    policy: str = '"MlpPolicy"'
    arguments: Mapping[str, float] = field(default_factory=lambda: {"learning_rate": 3e-4, "max_grad_norm": 0.5})
    policy_kwargs: Mapping[str, str] = field(default_factory=dict)
    width: int = 64
    known: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What it has of the options of this package's agents, by their names there."""
        known = {option: self.arguments[name] for option, name in OPTIONS.items() if name in self.arguments}
        names = {code: name for name, code in ACTIVATIONS.items()}
        activation = names.get(self.policy_kwargs.get("activation_fn", ""), "")
        return {**known, "torso.width": self.width, "torso.activation": activation}

    @classmethod
    def of(cls, agent: Any) -> AgentSettings:
        """Those of an agent of Stable-Baselines3 or sb3-contrib."""
        # Of a class that somebody derived, the one that can be imported from there.
        kinds = [kind for kind in type(agent).__mro__ if kind.__module__.partition(".")[0] in PACKAGES]
        kind = kinds[0] if kinds else type(agent)
        policies = {policy: name for name, policy in getattr(kind, "policy_aliases", {}).items()}
        policy = policies.get(agent.policy_class)
        values = {name: getattr(agent, name, None) for name in ARGUMENTS}
        shape = (agent.policy_kwargs or {}).get("net_arch")
        return cls(
            algorithm=kind.__name__,
            package=kind.__module__.partition(".")[0],
            policy="agent.policy_class" if policy is None else f'"{policy}"',
            arguments={name: float(value) for name, value in values.items() if isinstance(value, int | float)},
            policy_kwargs=_as_code(agent.policy_kwargs or {}),
            width=max(_widths(getattr(agent.policy, "net_arch", None) if shape is None else shape), default=64),
            known=True,
        )


#: Writes the code of a change for an agent, from what an intervention's settings want of it (``settings.wanted``).
Sb3Code = Callable[[AgentSettings, Mapping[str, Any]], str]


def in_place(name: str) -> Sb3Code:
    """The change made on the networks of a new agent, whatever they are; targets are made anew."""

    def code(agent: AgentSettings, wanted: Mapping[str, Any]) -> str:
        after = (
            f'apply_to_agent(agent, "{name}")\n\n'
            "# agent.save keeps weights alone: to load them, make the agent, apply this again, then\n"
            "# agent.set_parameters(path)"
        )
        return _made(agent, imports=_APPLY, after=after)

    return code


def between_learning(name: str) -> Sb3Code:
    """The change made on an agent that goes on learning."""
    return lambda agent, wanted: f'{_APPLY}\n\n# between two calls of agent.learn\napply_to_agent(agent, "{name}")'


def made_with(name: str) -> Sb3Code:
    """A new agent with other arguments; where its constructor takes none of them, the change made between learning."""

    def code(agent: AgentSettings, wanted: Mapping[str, Any]) -> str:
        imports, before, policy = "", "", {}
        arguments: dict[str, str] = {}
        rate = agent.arguments.get("learning_rate")
        if RATE in wanted:
            factor = wanted[RATE]
            if rate is None:
                before = "schedule = agent.lr_schedule"
                arguments["learning_rate"] = f"lambda left: {factor:g} * schedule(left)"
            else:
                arguments["learning_rate"] = f"{_digits(factor * rate)},  # {factor:g} times {_digits(rate)}"
        elif "optimizer.schedule" in wanted:
            arguments["learning_rate"] = "agent.lr_schedule(1.0)" if rate is None else _digits(rate)
        for option, argument in OPTIONS.items():
            if option in wanted and argument in agent.arguments:
                own = agent.arguments[argument]
                arguments[argument] = f"{_digits(wanted[option])},  # instead of {_digits(own)}"
        if "optimizer.name" in wanted:
            policy["optimizer_class"], imports = "Kron", "from stablegrad.optimizers import Kron"
        if "torso.activation" in wanted:
            policy["activation_fn"] = ACTIVATIONS[wanted["torso.activation"]]
        if "torso.depth" in wanted:
            width = wanted.get("torso.width", agent.width)
            policy["net_arch"] = f"[{width}, {width}]"
        if not arguments and not policy:
            return f"# {agent.algorithm} has no argument for it\n" + between_learning(name)(agent, wanted)
        return _made(agent, policy, imports=imports, before=before, **arguments)

    return code


def normalised_inputs(agent: AgentSettings, wanted: Mapping[str, Any]) -> str:
    """Running statistics of observations; images are scaled by the policy."""
    if "Cnn" in agent.policy:
        return "# policies for images divide them by 255, where they are uint8 and normalize_images is not False"
    return _made(agent, imports=_NORMALISE, before="env = VecNormalize(agent.get_env(), norm_reward=False)")


def slower_targets(agent: AgentSettings, wanted: Mapping[str, Any]) -> str:
    """Targets that follow more slowly; where there is no target network, rewards of one scale."""
    if wanted:
        return made_with("slower_targets")(agent, wanted)
    return (
        f"# {agent.algorithm} has no target network: keep gamma below 1, and rewards of one scale. DQN has\n"
        "# target_update_interval; SAC, TD3 and DDPG have tau\n"
    ) + _made(agent, imports=_NORMALISE, before="env = VecNormalize(agent.get_env(), norm_obs=False)")


_APPLY = "from stablegrad.integrations.sb3 import apply_to_agent"
_NORMALISE = "from stable_baselines3.common.vec_env import VecNormalize"


def _made(
    agent: AgentSettings,
    policy_kwargs: Mapping[str, str] | None = None,
    *,
    imports: str = "",
    before: str = "",
    after: str = "",
    **arguments: str,
) -> str:
    """The agent made with some other arguments, each as code, and what comes before and after that."""
    if agent.known and "learning_rate" in agent.arguments:
        arguments = {"learning_rate": _digits(agent.arguments["learning_rate"])} | arguments
    policy = dict(agent.policy_kwargs) | dict(policy_kwargs or {})
    layers = "from torch import nn" if any(code.startswith("nn.") for code in policy.values()) else ""
    if policy:
        arguments["policy_kwargs"] = f"dict({', '.join(f'{name}={value}' for name, value in policy.items())})"
    given = [agent.policy, "env", *(f"{name}={value}" for name, value in arguments.items())]
    # A comment stands behind its comma.
    lines = "".join(f"    {one if ',  # ' in one else f'{one},'}\n" for one in given)
    whose = (
        "with your other arguments" if agent.known else "or your algorithm: the report of DiagnosisCallback knows it"
    )
    parts = [
        "\n".join(filter(None, [f"from {agent.package} import {agent.algorithm}", imports, layers])),
        "",
        *filter(None, [before]),
        f"agent = {agent.algorithm}(  # {whose}\n{lines})",
        *filter(None, [after]),
    ]
    return "\n".join(parts)


def _as_code(policy_kwargs: Mapping[str, Any]) -> dict[str, str]:
    shape, function = (policy_kwargs.get(name) for name in ("net_arch", "activation_fn"))
    code = {} if shape is None else {"net_arch": repr(shape)}
    if function is not None and getattr(nn, name := getattr(function, "__name__", ""), None) is function:
        code["activation_fn"] = f"nn.{name}"
    return code


def _widths(shape: Any) -> list[int]:
    """Units of the hidden layers that a ``net_arch`` names."""
    parts = shape.values() if isinstance(shape, dict) else shape if isinstance(shape, list | tuple) else ()
    return [width for one in parts for width in ([one] if isinstance(one, int) else _widths(one))]


def _digits(value: float) -> str:
    return f"{value:.8g}"
