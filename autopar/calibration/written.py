"""Constants as YAML that people read."""

import json
import re
from collections.abc import Mapping
from typing import Any

Comments = Mapping[tuple[str, str], str]


def flow(value: Any) -> str:
    """Return YAML on one line."""
    if isinstance(value, dict):
        stated = ((key, item) for key, item in value.items() if item not in ([], ()))
        return "{" + ", ".join(f"{key}: {_named(key, item)}" for key, item in stated) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return json.dumps(int(value) if isinstance(value, float) and value == int(value) else value)


def _named(key: str, value: Any) -> str:
    """Return a field's value, rates in a unit that people read."""
    if key == "bandwidth_bytes_per_s":
        return flow([f"{rate / 1e9:g} GB/s" for rate in value]).replace('"', "")
    return flow(value)


def gpu_text(head: Mapping[str, Any], kernels: Mapping[str, Any], comments: Comments) -> str:
    """Return a GPU's file: its own fields, then the section `kernels`, a comment on each line.

    head: without kernels, in SI units. comments: above `kernels` as a whole at ("", ""), else of a
    constant by operation and name.
    """
    lines = ["schema: 1", "kind: gpu"]
    for key, value in head.items():
        if key in ("sources", "assumptions"):
            lines += [f"{key}:", *(f"  - {_text(source)}" for source in value)]
        else:
            lines.append(f"{key}: {_quantity(key, value)}")
    lines += [f"# {comments['', '']}", "kernels:"]
    for operation, section in kernels.items():
        if operation == "note":
            lines.append(f"  note: {_text(section)}")
        elif operation == "elementwise":
            lines += _line("  ", operation, section, comments.get((operation, "")))
        elif section:
            lines.append(f"  {operation}:")
            for name, value in section.items():
                lines += _line("    ", name, value, comments.get((operation, name)))
    return "\n".join(lines) + "\n"


def _line(indent: str, name: str, value: Any, comment: str | None) -> list[str]:
    lines = [] if comment is None else [f"{indent}# {comment}"]
    if isinstance(value, list | tuple):  # the ways of an exchange
        return [*lines, f"{indent}{name}:", *(f"{indent}  - {flow(item)}" for item in value)]
    return [*lines, f"{indent}{name}: {_quantity(name, value)}"]


def _quantity(key: str, value: Any) -> str:
    """Return a field's value, sizes and rates in a unit that people read."""
    if isinstance(value, int | float):
        if key.endswith("flops_per_s"):
            return f"{value / 1e12:.12g} TFLOPS"
        if key.endswith("bandwidth_bytes_per_s"):
            return f"{value / 1e9:.12g} GB/s"
        if key == "memory_bytes":
            return f"{value / 2**20:.12g} MiB"
    return _text(value) if isinstance(value, str) else flow(value)


def _text(value: str) -> str:
    """Return text as YAML, quoted where it could be something else."""
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9 ._+-]*", value) is not None
    is_word = value.lower() in ("null", "true", "false", "yes", "no", "on", "off")
    return value if is_plain and not is_word else json.dumps(value, ensure_ascii=False)
