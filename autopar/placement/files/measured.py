"""What was measured of the experts of a model, whatever file it came in."""

from dataclasses import dataclass, field

import numpy as np

from autopar.errors import SpecError
from autopar.placement.machine import FloatArray, IntArray
from autopar.units import plural

MOST_EXPERTS = 4096
MOST_LAYERS = 1024
_MOST = 1e18  # tokens in one count; sums of more lose what is of interest


@dataclass(frozen=True, slots=True)
class Measured:
    """Loads of experts per window, layer and expert, and routing where it was recorded.

    counts: shape (windows, layers, experts). layers: the number of each in the model. routing: the
    experts of sampled tokens, shape (layers, tokens, experts per token). coactivation: how many
    tokens go to both of two experts, shape (layers, experts, experts).
    """

    counts: FloatArray
    layers: tuple[int, ...]
    routing: IntArray | None = None
    coactivation: FloatArray | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def num_windows(self) -> int:
        """Windows that were counted apart."""
        return len(self.counts)

    @property
    def num_experts(self) -> int:
        """Experts of one layer."""
        return int(self.counts.shape[2])


def counted(label: str, values: object) -> FloatArray:
    """Return loads as an array of shape (windows, layers, experts).

    values: [layers][experts] or [windows][layers][experts], numbers of at least zero.
    Raises SpecError, which says where a value is wrong.
    """
    array = _numbers(label, values)
    if array.ndim == 1:
        array = array[None]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise SpecError(
            f"{label}: found an array of shape {array.shape}, expected [layers][experts] or "
            "[windows][layers][experts]"
        )
    if array.shape[1] > MOST_LAYERS or array.shape[2] > MOST_EXPERTS:
        raise SpecError(
            f"{label}: found {array.shape[1]:,} layers of {array.shape[2]:,} experts, expected at "
            f"most {MOST_LAYERS:,} and {MOST_EXPERTS:,}"
        )
    problems = {
        "not a finite number": ~np.isfinite(array),
        "negative": array < 0,
        "too large": array > _MOST,
    }
    for problem, wrong in problems.items():
        if wrong.any():
            window, layer, expert = (int(i) for i in np.argwhere(wrong)[0])
            place = f"layer {layer}, expert {expert}"
            place = f"window {window}, {place}" if len(array) > 1 else place
            raise SpecError(
                f"{label}: {place}: found {array[window, layer, expert]:g}, which is {problem}; "
                f"expected a count of 0 to {_MOST:g}"
            )
    return array


def experts_of_tokens(label: str, values: object, num_layers: int, num_experts: int) -> IntArray:
    """Return routing as an array of shape (layers, tokens, experts per token).

    Raises SpecError for another shape, for experts that there are not, and for one twice.
    """
    array = _numbers(label, values)
    if array.ndim == 2 and num_layers == 1:
        array = array[None]
    if array.ndim != 3 or len(array) != num_layers or 0 in array.shape:
        raise SpecError(
            f"{label}: found an array of shape {array.shape}, expected "
            f"[{num_layers} layers][tokens][experts of a token]"
        )
    if not ((array >= 0) & (array < num_experts) & (array == np.floor(array))).all():
        raise SpecError(f"{label}: expected numbers of experts, 0 to {num_experts - 1}")
    whole = array.astype(np.int64)
    ordered = np.sort(whole, axis=2)
    if (np.diff(ordered, axis=2) == 0).any():
        layer, token = (int(i) for i in np.argwhere((np.diff(ordered, axis=2) == 0).any(axis=2))[0])
        raise SpecError(f"{label}: layer {layer}, token {token}: found an expert twice")
    return whole


def pairs_of_experts(label: str, values: object, num_layers: int, num_experts: int) -> FloatArray:
    """Return co-activation as an array of shape (layers, experts, experts), zero on the diagonal.

    Raises SpecError for another shape, for what is negative or not symmetric.
    """
    array = _numbers(label, values)
    if array.ndim == 2:
        array = array[None]
    shape = (num_layers, num_experts, num_experts)
    if array.shape != shape:
        raise SpecError(f"{label}: found an array of shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all() or array.min() < 0:
        raise SpecError(f"{label}: expected finite numbers of at least 0")
    if not np.allclose(array, array.transpose(0, 2, 1)):
        raise SpecError(f"{label}: expected the same count for a pair of experts both ways round")
    array = array.copy()
    array[:, np.arange(num_experts), np.arange(num_experts)] = 0.0
    return array


def numbered(label: str, values: object, num_layers: int) -> tuple[int, ...]:
    """Return the numbers of layers as a file states them, or 0, 1, 2, ... where it is silent."""
    if values is None:
        return tuple(range(num_layers))
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise SpecError(f"{label}: expected a list of the layers' numbers")
    given: tuple[int, ...] = tuple(values)
    if len(given) != num_layers or len(set(given)) != len(given):
        raise SpecError(
            f"{label}: found {plural(len(given), 'number')} for {plural(num_layers, 'layer')}; "
            "expected one each, none twice"
        )
    return given


def _numbers(label: str, values: object) -> FloatArray:
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iuf":
            raise SpecError(f"{label}: found an array of {values.dtype}, expected numbers")
        return np.asarray(values, dtype=np.float64)
    _refuse_ragged(label, values)
    try:
        return np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise SpecError(f"{label}: expected numbers in lists of equal length") from None


def _refuse_ragged(label: str, values: object, place: str = "") -> None:
    """Raise SpecError for lists of unlike length, and for text and truth where a number belongs."""
    if not isinstance(values, list):
        if isinstance(values, bool) or not isinstance(values, int | float):
            found = "null" if values is None else repr(values)[:40]
            raise SpecError(f"{label}{place}: found {found}, expected a number")
        return
    if not values:
        raise SpecError(f"{label}{place}: found an empty list, expected numbers")
    nested = [isinstance(value, list) for value in values]
    if any(nested) != all(nested):
        raise SpecError(f"{label}{place}: found numbers and lists side by side")
    if all(nested):
        sizes = {len(value) for value in values}
        if len(sizes) > 1:
            first = next(i for i, v in enumerate(values) if len(v) != len(values[0]))
            raise SpecError(
                f"{label}{place}[{first}]: found {len(values[first]):,} values, expected "
                f"{len(values[0]):,} as in the first"
            )
    for index, value in enumerate(values):
        _refuse_ragged(label, value, f"{place}[{index}]")
