"""A file or a folder with loads -> `Measured`, by what it is, not by what it is called alone."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autopar.documents import label_of, parse_any, read_text
from autopar.errors import SpecError, suggest
from autopar.placement.files.measured import (
    Measured,
    counted,
    experts_of_tokens,
    numbered,
    pairs_of_experts,
)
from autopar.placement.files.tensorrt import read_statistics
from autopar.placement.files.torch_file import read_torch

# What SGLang's recorder writes beside the counts (`expert_distribution_recorder_*.pt`, 0.5.23).
_BESIDE = ("rank", "average_utilization_rate_over_window", "physical_to_logical_map")
_KNOWN = ("loads", "logical_count", "windows", "layers", "routing", "coactivation")
_MAX_BYTES = 2_000_000_000
_MOST_COUNTS = 100_000_000  # made of CSV, whose rows may be few and far apart


def read_loads(source: str) -> Measured:
    """Return the loads in a file, a folder of statistics, or standard input for `-`.

    JSON: [layers][experts], [windows][layers][experts], or a mapping with `loads` (or SGLang's
    `logical_count`, or `windows`), and `layers`, `routing`, `coactivation`. CSV: a row per layer
    and a column per expert, or columns layer, expert, count and perhaps window. NPZ: arrays of the
    names above; NPY: one array. PT: a dump of SGLang's recorder. A folder: the statistics that
    TensorRT-LLM writes (meta_info.json and rank*.safetensors).
    Raises SpecError, which names the source, for everything else.
    """
    label = label_of(source)
    path = Path(source)
    if source != "-" and path.is_dir():
        return read_statistics(path)
    suffix = path.suffix.lower() if source != "-" else ""
    if suffix in (".npz", ".npy", ".pt", ".pth"):
        _refuse_unreadable(path, label)
    if suffix in (".npz", ".npy"):
        return _measured(label, _arrays(path, label))
    if suffix in (".pt", ".pth"):
        return _measured(label, read_torch(path, label))
    text = read_text(source)
    if not text.strip():
        raise SpecError(f"{label}: the file is empty; expected loads of experts")
    if suffix == ".csv" or (suffix == "" and text.lstrip()[0] not in "[{"):
        return _from_csv(label, text)
    data = parse_any(text, label)
    return _measured(label, data if isinstance(data, dict) else {"loads": data})


def _measured(label: str, data: Mapping[str, Any]) -> Measured:
    unknown = [key for key in data if key not in (*_KNOWN, *_BESIDE)]
    if unknown:
        raise SpecError(
            f"{label}: {unknown[0]}: unknown field{suggest(unknown[0], _KNOWN)}; expected "
            f"{', '.join(_KNOWN)}"
        )
    given = [key for key in ("loads", "logical_count", "windows") if data.get(key) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise SpecError(
            f"{label}: expected one of loads, logical_count (SGLang's name) and windows; found "
            f"{found}"
        )
    counts = counted(f"{label}: {given[0]}", data[given[0]])
    _, num_layers, num_experts = counts.shape
    routing, pairs = data.get("routing"), data.get("coactivation")
    return Measured(
        counts,
        numbered(f"{label}: layers", _plain(data.get("layers")), num_layers),
        None if routing is None else experts_of_tokens(
            f"{label}: routing", routing, num_layers, num_experts
        ),
        None if pairs is None else pairs_of_experts(
            f"{label}: coactivation", pairs, num_layers, num_experts
        ),
    )  # fmt: skip


def _plain(values: Any) -> Any:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _refuse_unreadable(path: Path, label: str) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SpecError(f"{label}: {(error.strerror or str(error)).lower()}") from None
    if size > _MAX_BYTES:
        raise SpecError(f"{label}: {size:,} bytes; expected at most {_MAX_BYTES:,}")


def _arrays(path: Path, label: str) -> dict[str, Any]:
    """Return the arrays of a numpy file; objects in it, which could run code, are refused."""
    try:
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"loads": loaded}
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # noqa: BLE001  numpy raises anything on what is damaged
        said = str(error).partition("\n")[0] or type(error).__name__
        raise SpecError(f"{label}: no numpy file of numbers: {said}") from None


def _from_csv(label: str, text: str) -> Measured:
    reader = csv.reader(io.StringIO(text))
    try:
        numbered_rows = [
            (reader.line_num, row) for row in reader if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise SpecError(f"{label}: line {reader.line_num}: {error}") from None
    if not numbered_rows:
        raise SpecError(f"{label}: the file is empty; expected loads of experts")
    header = [cell.strip().lower() for cell in numbered_rows[0][1]]
    if "layer" in header and "expert" in header:
        return _from_triples(label, header, numbered_rows[1:])
    if not _is_number(header[0]):
        raise SpecError(
            f"{label}: line 1: found {header[0][:40]!r}; expected a number for each expert, or a "
            "header with layer, expert, count (and window)"
        )
    values = [
        [_cell(label, line, column, cell) for column, cell in enumerate(row, 1)]
        for line, row in numbered_rows
    ]
    counts = counted(label, values)
    return Measured(counts, tuple(range(counts.shape[1])))


def _from_triples(label: str, header: list[str], rows: list[tuple[int, list[str]]]) -> Measured:
    """Return loads from rows of layer, expert, count and perhaps window; what is absent is 0."""
    names = ["window", "layer", "expert", "count"]
    wrong = [f"unknown column {name[:40]!r}" for name in header if name not in names]
    wrong += [f"column {name!r} stands twice" for name in names if header.count(name) > 1]
    if wrong or "count" not in header:
        said = wrong[0] if wrong else "no column count"
        raise SpecError(f"{label}: line 1: {said}; expected layer, expert, count (and window)")
    read: dict[tuple[int, int, int], float] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise SpecError(f"{label}: line {line}: {len(row)} values for {len(header)} columns")
        cells = {
            name: _cell(label, line, column, cell)
            for column, (name, cell) in enumerate(zip(header, row, strict=True), 1)
        }
        place = [cells.get(name, 0.0) for name in names[:3]]
        if not all(0 <= value <= 1e6 and value.is_integer() for value in place):
            raise SpecError(f"{label}: line {line}: expected whole numbers of layer and expert")
        window, layer, expert = (int(value) for value in place)
        if (window, layer, expert) in read:
            raise SpecError(f"{label}: line {line}: layer {layer}, expert {expert} stands twice")
        read[window, layer, expert] = cells["count"]
    if not read:
        raise SpecError(f"{label}: no rows below the header; expected counts")
    windows, layers = (sorted({key[i] for key in read}) for i in (0, 1))
    num_experts = max(key[2] for key in read) + 1
    size = len(layers) * num_experts
    if len(windows) * size > max(_MOST_COUNTS, size):
        raise SpecError(
            f"{label}: {len(windows):,} windows of {len(layers):,} layers with {num_experts:,} "
            f"experts; expected at most {_MOST_COUNTS:,} counts"
        )
    counted(label, np.broadcast_to(0.0, (1, len(layers), num_experts)))  # its size, before it is
    places = {number: at for at, number in enumerate(windows)}
    rows_of = {number: at for at, number in enumerate(layers)}
    counts = np.zeros((len(windows), len(layers), num_experts))
    for (window, layer, expert), count in read.items():
        counts[places[window], rows_of[layer], expert] = count
    return Measured(counted(label, counts), tuple(layers))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(label: str, line: int, column: int, text: str) -> float:
    if not _is_number(text.strip() or "?"):
        raise SpecError(
            f"{label}: line {line}, column {column}: found {text[:40]!r}, expected a number"
        )
    return float(text)
