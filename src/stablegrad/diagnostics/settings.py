"""What an intervention changes in the configuration of an agent, whatever its algorithm.

Settings are values by the dotted names of options, such as {"torso.norm": "layer"}. A value may be a function of the
agent's own options. ``RATE`` is not an option but a factor of all learning rates.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.options import option_words

#: Name of the setting that multiplies the learning rates of all networks.
RATE = "rate"

#: An agent's options, flattened; empty where the agent is not known.
Options = Mapping[str, Any]
#: Values by option, or functions from the agent's options to a value, None where there is nothing to change.
Settings = Mapping[str, Any | Callable[[Options], Any]]
#: Writes the command that trains a run with an intervention, by its name and its factor of the learning rate; None:
#: the run has nothing that it changes.
WriteCommand = Callable[[str, float | None], str | None]

_TRAIN = ("stablegrad", "train", "ALGORITHM", "--env", "ENV")


def wanted(settings: Settings, options: Options, factor: float | None = None) -> dict[str, Any]:
    """The values of settings for an agent, whether it has these options or not.

    Args:
        settings: of an intervention.
        options: the agent's, as far as they are known.
        factor: takes the place of the settings' own factor of the learning rate.
    """
    values = {}
    for name, setting in settings.items():
        value = setting(options) if callable(setting) else setting
        if value is not None or not callable(setting):
            values[name] = factor if name == RATE and factor is not None else value
    return values


def changed_options(settings: Settings, options: Options, factor: float | None = None) -> dict[str, Any]:
    """:func:`wanted`, without options that the agent does not have and values that it has already."""
    values = wanted(settings, options, factor)
    return {
        name: value
        for name, value in values.items()
        if (value != 1.0 if name == RATE else name in options and value != options[name])
    }


def with_rates(changed: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """Changes with their factor of the learning rates as new values of the options that hold these rates.

    Of ``learning_rate`` and ``adam_learning_rate`` of one optimizer the first holds it, unless it is None.
    """
    found = {name: value for name, value in changed.items() if name != RATE}
    for name, rate in options.items() if RATE in changed else ():
        part, dot, option = name.rpartition(".")
        follows = option == "adam_learning_rate" and options.get(f"{part}{dot}learning_rate") is None
        if (option == "learning_rate" or follows) and rate is not None:
            found[name] = rate * changed[RATE]
    return found


def command_text(changed: Mapping[str, Any], words: Sequence[str] = _TRAIN) -> str:
    """The command that trains with changed options, each with six digits at most.

    Args:
        changed: values by option.
        words: the command before them.
    """
    rounded = {name: float(f"{one:.6g}") if isinstance(one, float) else one for name, one in changed.items()}
    return shlex.join([*words, *(word for name, value in rounded.items() for word in option_words(name, value))])


def unknown_agents_command(settings: Settings, factor: float | None = None) -> str | None:
    """The command for whatever agent and environment; None where that depends on the agent."""
    # What is reset to None is what few agents set.
    changed = {name: value for name, value in wanted(settings, {}, factor).items() if value is not None}
    rates = {"optimizer.adam_learning_rate": OptimizerConfig().adam_learning_rate}
    return command_text(with_rates(changed, rates)) if changed else None
