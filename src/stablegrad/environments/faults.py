"""An environment's own exceptions, turned into one line for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stablegrad.errors import EnvironmentFault, StablegradError


@contextmanager
def faults_of(env_id: str, doing: str) -> Iterator[None]:
    """Run somebody else's code; what it raises becomes an EnvironmentFault.

    Args:
        env_id: the environment, as the person named it.
        doing: what was being done, to follow "raised ... while ".

    Raises:
        EnvironmentFault: the code raised; the message has the type and the text of the original, on one line.
    """
    try:
        yield
    except StablegradError:
        raise
    except (Exception, SystemExit) as error:  # also a script that ends itself with sys.exit()
        text = " ".join(str(error).split())
        kind = type(error).__name__
        raise EnvironmentFault(
            f"environment {env_id!r} raised {kind} while {doing}" + (f": {text}" if text else "")
        ) from error
