"""TensorRT-LLM: the folder of routing statistics, and the load balancer's configuration.

Sources: NVIDIA/TensorRT-LLM, examples/wide_ep/ep_load_balancer (README.md and
report_load_statistics.py): meta_info.json with num_experts and num_experts_per_token;
rank*.safetensors with a tensor "<iteration>_<layer>" of tokens per expert. The configuration is
read by `MoeLoadBalancerConfig`, which takes exactly the three fields that are written here.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from autopar.documents import MAX_SPEC_BYTES, label_of, read
from autopar.errors import SpecError
from autopar.placement.files.maps import ExpertMap, table_of
from autopar.placement.files.measured import Measured, counted, numbered
from autopar.placement.machine import IntArray

_KEY = re.compile(r"(\d{1,9})_(\d{1,9})", re.ASCII)
# Types of safetensors (huggingface/safetensors, README.md, "Format"), in numpy's words.
_TYPES = {"I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "|u1", "F64": "<f8", "F32": "<f4"}
_MAX_HEADER = 100_000_000  # bytes, as the format limits it


def read_statistics(folder: Path) -> Measured:
    """Return what a folder of statistics holds: a window per iteration, ranks added up.

    Raises SpecError if a part is missing or of another form.
    """
    label = label_of(folder)
    if not (folder / "meta_info.json").is_file():
        raise SpecError(
            f"{label}: no meta_info.json; expected a folder of TensorRT-LLM's statistics, or a file"
        )
    meta = read(folder / "meta_info.json", max_bytes=MAX_SPEC_BYTES)
    num_experts = meta.get("num_experts")
    if type(num_experts) is not int or num_experts < 1:
        raise SpecError(f"{label}/meta_info.json: num_experts: expected a whole number above 0")
    ranks = sorted(folder.glob("rank*.safetensors"))
    if not ranks:
        raise SpecError(f"{label}: no rank*.safetensors; expected one per rank")
    summed: dict[tuple[int, int], Any] = {}
    for rank in ranks:
        for key, values in read_tensors(rank).items():
            match = _KEY.fullmatch(key)
            if match is None:
                raise SpecError(f"{label_of(rank)}: {key!r}: expected <iteration>_<layer>")
            if values.shape != (num_experts,):
                raise SpecError(
                    f"{label_of(rank)}: {key}: found shape {values.shape}, expected {num_experts} "
                    "experts as meta_info.json says"
                )
            place = int(match[1]), int(match[2])
            summed[place] = summed.get(place, 0) + values.astype(np.float64)
    windows, layers = (sorted({key[i] for key in summed}) for i in (0, 1))
    if not summed:
        raise SpecError(f"{label}: the files hold no tensors; expected <iteration>_<layer>")
    for window, layer in ((w, n) for w in windows for n in layers):
        if (window, layer) not in summed:
            raise SpecError(f"{label}: iteration {window} has no layer {layer}, others do")
    counts = np.array([[summed[w, n] for n in layers] for w in windows])
    return Measured(counted(label, counts), tuple(layers))


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the arrays of a safetensors file, whose format is frozen: a length, JSON, numbers.

    Raises SpecError for a file that is not of it, and for offsets outside of it.
    """
    label = label_of(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{label}: {(error.strerror or str(error)).lower()}") from None
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(_MAX_HEADER, len(content) - 8):
        raise SpecError(f"{label}: no safetensors file: its header would be {length:,} bytes long")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        raise SpecError(f"{label}: no safetensors file: its header is no JSON") from None
    body = memoryview(content)[8 + length :]
    tensors = {}
    for name, entry in header.items() if isinstance(header, dict) else ():
        if name == "__metadata__":
            continue
        try:
            tensors[name] = _array(entry, body)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise SpecError(
                f"{label}: {name[:60]}: expected whole numbers or floats, with offsets "
                "inside the file"
            ) from None
    return tensors


def _array(entry: Any, body: memoryview) -> Any:
    kind, shape = _TYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
    begin, end = (int(n) for n in entry["data_offsets"])
    if not 0 <= begin <= end <= len(body):
        raise ValueError(f"{begin} to {end} of {len(body)}")
    return np.frombuffer(body[begin:end], dtype=kind).reshape(shape)


def balancer_text(placement: ExpertMap) -> str:
    """Return the YAML of `moe_config.load_balancer`: static, so that nothing is moved online."""
    lines = [
        f"num_slots: {placement.slots.shape[1]}",
        "layer_updates_per_iter: 0",
        "initial_global_assignments:",
    ]
    for layer, row in zip(placement.layers, placement.slots.tolist(), strict=True):
        lines.append(f"  {layer}: [{', '.join(map(str, row))}]")
    return "\n".join(lines) + "\n"


def balancer_map(label: str, data: object) -> ExpertMap:
    """Return the map in a load balancer's configuration, which `label` names.

    Raises SpecError if it has none, or one of another form.
    """
    if not isinstance(data, dict) or "initial_global_assignments" not in data:
        raise SpecError(f"{label}: no initial_global_assignments; expected a slot list per layer")
    known = {"num_slots", "layer_updates_per_iter", "initial_global_assignments"}
    unknown = sorted(set(map(str, data)) - known)
    if unknown:
        raise SpecError(
            f"{label}: {unknown[0]}: TensorRT-LLM takes only {', '.join(sorted(known))}"
        )
    rows = data["initial_global_assignments"]
    if not isinstance(rows, dict) or not rows:
        raise SpecError(f"{label}: initial_global_assignments: expected a mapping of layers")
    try:
        numbers = [int(key) for key in rows]
    except (TypeError, ValueError):
        raise SpecError(
            f"{label}: initial_global_assignments: expected numbers of layers"
        ) from None
    slots: IntArray = table_of(f"{label}: initial_global_assignments", list(rows.values()))
    if data.get("num_slots") != slots.shape[1]:
        raise SpecError(f"{label}: num_slots: expected {slots.shape[1]}, as the lists are long")
    layers = numbered(f"{label}: initial_global_assignments", numbers, len(slots))
    return ExpertMap(slots, layers)
