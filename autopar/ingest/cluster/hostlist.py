"""Host lists as Slurm writes them: node[001-004,007] <-> the names of nodes."""

import re
from collections.abc import Iterable, Iterator

from autopar.errors import SpecError, shorten
from autopar.ingest.cluster.text import is_digits

MAX_NODES = 65_536  # Slurm's own limit, MAX_SLURM_NODES in src/common/read_config.h, from memory

_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.ASCII)
_DIGITS = re.compile(r"(\d+)", re.ASCII)


def expand(text: str, where: str) -> list[str]:
    """Return the names of a host list, in its order, each once.

    Raises SpecError, which starts with `where`, if it is none.
    """
    found: dict[str, None] = {}
    for part in _parts(text, where):
        for name in _names(part, where):
            if _NAME.fullmatch(name) is None:
                raise SpecError(
                    f"{where}: found {shorten(part)}, expected names of nodes such as "
                    "node[001-004,007]"
                )
            found[name] = None
            if len(found) > MAX_NODES:
                raise SpecError(f"{where}: more than {MAX_NODES:,} nodes in {shorten(text)}")
    return list(found)


def compress(names: Iterable[str]) -> str:
    """Return a host list of these names, each once; runs of numbers become ranges, in order."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    words: list[tuple[str, str, int] | str] = []
    for name in dict.fromkeys(names):
        match = _LAST_NUMBER.fullmatch(name)
        if match is None or len(match[2]) > 9:
            words.append(name)
            continue
        # Without a leading zero the width is free: n9 and n10 are one range.
        key = (match[1], match[3], len(match[2]) if match[2][0] == "0" < match[2] else 0)
        padded = (match[1], match[3], len(match[2]))
        key = padded if padded in groups else key
        if key not in groups:
            groups[key] = []
            words.append(key)
        groups[key].append(int(match[2]))
    return ",".join(w if isinstance(w, str) else _ranges(*w, groups[w]) for w in words)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts node2 before node10."""
    return tuple(
        (1, int(part), "") if is_digits(part) else (0, 0, part)
        for part in _DIGITS.split(name)
        if part
    )


def _ranges(before: str, after: str, width: int, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{before}{numbers[0]:0{width}d}{after}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = (f"{a:0{width}d}" if a == b else f"{a:0{width}d}-{b:0{width}d}" for a, b in runs)
    return f"{before}[{','.join(texts)}]{after}"


def _parts(text: str, where: str) -> Iterator[str]:
    """Yield what stands between the commas outside brackets."""
    depth, start = 0, 0
    for index, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            break
        if char == "," and depth == 0:
            yield text[start:index].strip()
            start = index + 1
    if depth:
        raise SpecError(f"{where}: found {shorten(text)}, expected a ] for every [")
    yield text[start:].strip()


def _names(part: str, where: str) -> Iterator[str]:
    """Yield the names of one part, which may have several brackets."""
    before, bracket, rest = part.partition("[")
    if not bracket:
        yield part
        return
    inside, _, after = rest.partition("]")
    for piece in inside.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if match is None or len(match[1]) > 9 or len(match[2] or "") > 9:
            raise SpecError(
                f"{where}: found {shorten(piece)} in {shorten(part)}, expected a number or a "
                "range such as 001-004"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MAX_NODES:
            raise SpecError(
                f"{where}: found the range {shorten(piece)}, expected one that ascends over at "
                f"most {MAX_NODES:,} nodes"
            )
        for number in range(first, last + 1):
            yield from _names(f"{before}{number:0{len(match[1])}d}{after}", where)
