"""Constants as YAML that people read."""

import json
from typing import Any


def flow(value: Any) -> str:
    """Return YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_named(key, item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return json.dumps(int(value) if isinstance(value, float) and value == int(value) else value)


def _named(key: str, value: Any) -> str:
    """Return a field's value, rates in a unit that people read."""
    if key == "bandwidth_bytes_per_s":
        return flow([f"{rate / 1e9:g} GB/s" for rate in value]).replace('"', "")
    return flow(value)
