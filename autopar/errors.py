"""Every error that autopar raises on purpose, and the exit code each one carries.

AutoparError             1  an error of ours, or a check that failed
├── SpecError            2  the input is wrong
│   └── InexpressibleError   a plan that an engine has no words for
├── DeviceError          2  this machine lacks the GPU, or the package, that was asked for
├── PluginError          2  a plug-in cannot be loaded or may not be
├── InfeasibleError      3  no plan exists; carries the conflicting constraint names
├── SolveLimitError      4  no plan was found within the limit, and none was ruled out
└── VerificationError    1  a plan failed its own check: a bug of ours, never of the input
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class AutoparError(Exception):
    """Base of every error that autopar raises on purpose."""

    exit_code = 1


class SpecError(AutoparError):
    """The input is wrong: the message says where, what was found and what was expected."""

    exit_code = 2


class InexpressibleError(SpecError):
    """An engine has no words for a plan; `reasons` says why, one sentence for each."""

    def __init__(self, engine: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{engine} cannot start this plan: {'; '.join(reasons)}")
        self.engine = engine
        self.reasons = tuple(reasons)


class PluginError(AutoparError):
    """A plug-in cannot be loaded, or the user has not allowed it."""

    exit_code = 2


class DeviceError(AutoparError):
    """What was asked for needs a GPU, or a package, that this machine does not have."""

    exit_code = 2


class InfeasibleError(AutoparError):
    """No plan exists, proven; `conflict` names a minimal set of clashing requirements."""

    exit_code = 3

    def __init__(self, message: str, conflict: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.conflict = tuple(conflict)


class SolveLimitError(AutoparError):
    """The limit was reached without a plan and without a proof that none exists."""

    exit_code = 4


class VerificationError(AutoparError):
    """A plan of ours failed its check; never shown as a result."""

    exit_code = 1


def suggest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return "; did you mean 'x'?" for the nearest known word, or an empty string.

    cutoff: the least share of letters that it has in common with the word.
    """
    near = get_close_matches(word[:200], list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def shorten(value: object, limit: int = 60) -> str:
    """Return `repr(value)` cut to `limit` characters, so that no message repeats a huge input."""
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]!r}... ({len(value):,} characters)"
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"
