"""`nvidia-smi --query-gpu=... --format=csv`, or `nvidia-smi -L` -> the GPUs of one node."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autopar.errors import SpecError
from autopar.ingest.cluster.text import Output, is_digits

QUERY = "nvidia-smi --query-gpu=index,name,memory.total --format=csv"

_MEMORY = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*(MiB|GiB|MB|GB)?", re.ASCII)
_UNITS = {None: 2**20, "MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}
_COLUMN = re.compile(r"[a-z][a-z0-9_.]*", re.ASCII)
_LISTED = re.compile(r"GPU (\d{1,3}): (.+?) \(UUID: ", re.ASCII)
# Rows of csv,noheader[,nounits] whose columns their values tell. Four digits: MiB of memory, and no
# share, temperature or power.
_INDEX, _MEMORY_CELL = r"\d{1,3}", r"\d{4,7}(?:\.\d+)?(?:\s*MiB)?"
_NAME = r"(?:NVIDIA|Tesla|GeForce|Quadro|[ABHLTV]\d{2,3})\b[^,]*"
_BARE: Mapping[tuple[str, ...], re.Pattern[str]] = {
    columns: re.compile(r"\s*,\s*".join(cells), re.ASCII)
    for columns, cells in (
        (("index", "name", "memory.total"), (_INDEX, _NAME, _MEMORY_CELL)),
        (("index", "name"), (_INDEX, _NAME)),
        (("name", "memory.total"), (_NAME, _MEMORY_CELL)),
    )
}


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU, as its driver describes it; line: of the output."""

    index: int
    name: str
    memory_bytes: float | None
    is_sliced: bool
    line: int


def columns(line: str) -> tuple[str, ...] | None:
    """Return the columns that a header of the query names, None for another line."""
    words = tuple(word.split("[")[0].strip().lower() for word in line.split(","))
    is_header = len(words) > 1 and all(map(_COLUMN.fullmatch, words))  # a typed command is none
    return words if is_header and ("name" in words or "gpu_name" in words) else None


def bare_columns(line: str) -> tuple[str, ...] | None:
    """Return the columns of a row without a header above it, None where it does not tell."""
    return next((names for names, row in _BARE.items() if row.fullmatch(line.strip())), None)


def is_query(line: str) -> bool:
    """Whether a line starts what is read here."""
    is_row = columns(line) is not None or bare_columns(line) is not None
    return is_row or bool(_LISTED.match(line))


def is_row_of_others(line: str) -> bool:
    """Whether a line looks like a row of a query whose columns nothing tells."""
    return "," in line and re.search(rf"(?:^|,)\s*{_NAME}(?:,|$)", line) is not None


def read_cards(output: Output) -> tuple[Card, ...]:
    """Return the GPUs of an output, which may hold other things before and after them.

    Raises SpecError, which names the line, for what cannot be read.
    """
    numbered = list(output.numbered())
    starts = [i for i, (_, line) in enumerate(numbered) if is_query(line)]
    if not starts:
        raise SpecError(f"{output.label}: found no list of GPUs, expected the output of {QUERY}")
    first = starts[0]
    header = columns(numbered[first][1])
    names = header or bare_columns(numbered[first][1]) or ()
    rows = numbered[first + 1 :] if header is not None else numbered[first:]
    cards: list[Card] = []
    for number, line in rows:
        if match := _LISTED.match(line):
            cards.append(Card(int(match[1]), match[2], None, is_sliced=False, line=number))
        elif "," not in line or line.lstrip().startswith(("GPU", "MIG")):
            if line.lstrip().startswith("MIG") and cards:
                last = cards.pop()
                cards.append(Card(last.index, last.name, None, is_sliced=True, line=last.line))
                continue
            break  # the end of the list: the matrix, or a prompt
        else:
            cards.append(_card(output, number, line, names, len(cards)))
    if not cards:
        raise SpecError(
            f"{output.at(numbered[first][0])}: found a header and no GPU below it, expected one "
            "line per GPU; is the output cut off?"
        )
    _refuse_twice(output, cards)
    return tuple(cards)


def _card(output: Output, number: int, line: str, names: tuple[str, ...], position: int) -> Card:
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(names):
        raise output.error(
            number, f"{len(values)} values in {line[:60]!r}", f"{len(names)}: {', '.join(names)}"
        )
    row = dict(zip(names, values, strict=True))
    index = row.get("index", str(position))
    if not is_digits(index) or len(index) > 3:
        raise output.error(number, index, "the index of a GPU, such as 0")
    name = row.get("name") or row.get("gpu_name") or ""
    if not any(c.isalpha() for c in name) or name.startswith("["):
        raise output.error(number, name, "the name of a GPU, such as NVIDIA H100 80GB HBM3")
    memory = row.get("memory.total")
    is_sliced = row.get("mig.mode.current", "").lower() == "enabled"
    size = None if memory is None else _memory(output, number, memory)
    return Card(int(index), name, size, is_sliced, number)


def _memory(output: Output, number: int, text: str) -> float | None:
    if text in ("[N/A]", "[Not Supported]", "[Unknown Error]"):
        return None
    match = _MEMORY.fullmatch(text)
    if match is None or float(match[1]) <= 0:
        raise output.error(number, text, "a size such as 81559 MiB")
    return float(match[1]) * _UNITS[match[2]]


def _refuse_twice(output: Output, cards: list[Card]) -> None:
    seen: dict[int, int] = {}
    for card in cards:
        if card.index in seen:
            raise output.error(
                card.line,
                f"GPU {card.index} again",
                f"each GPU once (line {seen[card.index]} has it); the output of each node belongs "
                "into a file of its own",
            )
        seen[card.index] = card.line
