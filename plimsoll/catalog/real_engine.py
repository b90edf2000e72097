"""The way from checks to the real engine, which needs torch."""

from types import ModuleType

from plimsoll.spec.errors import UnsupportedError

__all__ = ["real_runs"]


def real_runs() -> ModuleType:
    """``plimsoll.evals.real_runs``.

    Raises:
        UnsupportedError: torch is not installed.
    """
    try:
        from plimsoll.evals import real_runs as found
    except ImportError as error:
        raise UnsupportedError(f"needs {error.name}; install plimsoll[torch]") from None
    return found
