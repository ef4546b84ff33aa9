"""A placement in the files of the engines that take one, and those files read back.

Formats and their sources: docs/placement.md, "Files for engines".
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args

from autopar.documents import label_of, parse_any, read_text
from autopar.errors import SpecError, VerificationError
from autopar.placement.files.maps import ExpertMap, table_of
from autopar.placement.files.measured import numbered
from autopar.placement.files.tensorrt import balancer_map, balancer_text
from autopar.placement.machine import IntArray
from autopar.specs import LLM

Target = Literal["sglang", "tensorrt-llm", "vllm-ascend", "vllm"]
TARGETS: tuple[Target, ...] = get_args(Target)


def text_for(
    target: Target,
    placement: ExpertMap,
    num_gpus: int,
    num_experts: int,
    num_layers: int | None = None,
    num_groups: int = 1,
) -> str:
    """Return the file with which an engine starts from a placement.

    num_layers: decoder layers of the model, dense ones too; None where nobody said. num_groups: of
    experts that the router picks among first.
    Raises SpecError for what the engine cannot express.
    """
    match target:
        case "sglang":
            return _sglang(placement, num_experts, num_layers)
        case "tensorrt-llm":
            return balancer_text(placement)
        case "vllm-ascend":
            return _ascend(placement, num_gpus)
        case "vllm":
            return _permutation(placement, num_gpus, num_experts, num_groups)


def read_map(source: str, target: Target | None = None) -> ExpertMap:
    """Return the placement in an engine's file, or in a document of `autopar place`.

    target: whose; found out where it is None. For SGLang every layer comes back, dense ones too.
    Raises SpecError if it is none of them.
    """
    label = label_of(source)
    data = parse_any(read_text(source), label)
    if target == "tensorrt-llm" or (target is None and _is_balancer(data)):
        return balancer_map(label, data)
    if not isinstance(data, dict):
        return _numbered(label, table_of(label, data), None)
    if "physical_to_logical_map" in data:
        if target == "sglang" and len(data) > 1:
            raise SpecError(f"{label}: SGLang takes physical_to_logical_map and no other field")
        rows = table_of(f"{label}: physical_to_logical_map", data["physical_to_logical_map"])
        listed = data.get("layers")
        if isinstance(listed, list):  # ours has a mapping per layer
            listed = [row.get("layer") if isinstance(row, dict) else row for row in listed]
        return _numbered(label, rows, listed)
    if "layer_list" in data:
        return _read_ascend(label, data)
    if "new_to_old_expert" in data:
        return _read_permutation(label, data)
    raise SpecError(
        f"{label}: no placement: expected physical_to_logical_map (SGLang, autopar), "
        "initial_global_assignments (TensorRT-LLM), layer_list (vllm-ascend) or new_to_old_expert"
    )


def _is_balancer(data: Any) -> bool:
    return isinstance(data, dict) and "initial_global_assignments" in data


# Families whose classes in SGLang 0.5.23 have no get_model_config_for_expert_location.
_SGLANG_IGNORES = ("mixtral", "llama-4", "llama4", "dbrx", "olmoe", "phi-3.5-moe", "granite")


def notes_for(target: Target, placement: ExpertMap, llm: LLM | None) -> tuple[str, ...]:
    """Say what a reader of an engine's file has to know."""
    said = []
    if llm is None and target in ("sglang", "tensorrt-llm") and placement.layers[0] == 0:
        said.append(
            f"{target}: layers are numbered as in the loads, from 0; where the first layers of the "
            "model are dense, --model or layers in the loads say so"
        )
    if llm is not None and set(placement.layers) != set(llm.expert_layers):
        said.append(
            f"{target}: the file places {len(placement.layers)} of the model's "
            f"{len(llm.expert_layers)} layers with experts; the others are as the engine deals them"
        )
    if target == "sglang" and llm is not None and llm.name.startswith(_SGLANG_IGNORES):
        said.append(f"sglang: its class of {llm.name} has no expert location: it ignores the map")
    if target == "tensorrt-llm":
        said.append("tensorrt-llm: the map counts only with EP > 1 and attention DP")
    if target == "vllm":
        said.append(
            "vllm: the permuted checkpoint computes the same only where the router picks among all "
            "experts; one that picks groups first (DeepSeek-V3: 8) needs --groups, or is torn apart"
        )
    return tuple(said)


def verify_file(path: Path, target: Target, placement: ExpertMap, num_layers: int | None) -> None:
    """Read a file that was written and compare it with the placement, slot by slot.

    Raises VerificationError where it says something else.
    """
    found = read_map(str(path), target)
    if target == "sglang":  # a row per decoder layer
        count = max(placement.layers) + 1 if num_layers is None else num_layers
        if len(found.slots) != count:
            raise VerificationError(
                f"{label_of(path)}: read back, it has {len(found.slots)} layers; expected {count}"
            )
        found = ExpertMap(found.slots[list(placement.layers)], placement.layers)
    elif target == "vllm-ascend" and len(found.slots) == len(placement.layers):
        found = ExpertMap(found.slots, placement.layers)  # numbered from 0 there
    for said in placement.differences(found):
        raise VerificationError(f"{label_of(path)}: read back, it has {said}")


def _sglang(placement: ExpertMap, num_experts: int, num_layers: int | None) -> str:
    """One row per decoder layer: the row of a dense layer is not looked at, but must be there."""
    count = max(placement.layers) + 1 if num_layers is None else num_layers
    num_slots = placement.slots.shape[1]
    idle = [slot % num_experts for slot in range(num_slots)]
    rows = [idle] * count
    for layer, row in zip(placement.layers, placement.slots.tolist(), strict=True):
        rows[layer] = row
    return json.dumps({"physical_to_logical_map": rows}) + "\n"


def _ascend(placement: ExpertMap, num_gpus: int) -> str:
    layers = []
    for number, row in enumerate(placement.slots.reshape(len(placement.layers), num_gpus, -1)):
        devices = [{"device_id": g, "device_expert": held} for g, held in enumerate(row.tolist())]
        layers.append({"layer_id": number, "device_count": num_gpus, "device_list": devices})
    return json.dumps({"moe_layer_count": len(layers), "layer_list": layers}) + "\n"


def _read_ascend(label: str, data: dict[str, Any]) -> ExpertMap:
    try:
        layers = sorted(data["layer_list"], key=lambda layer: layer["layer_id"])
        rows = [
            [
                expert
                for device in sorted(layer["device_list"], key=lambda device: device["device_id"])
                for expert in device["device_expert"]
            ]
            for layer in layers
        ]
        numbers = [layer["layer_id"] for layer in layers]
    except (KeyError, TypeError):
        raise SpecError(f"{label}: layer_list: expected layer_id and device_list of each") from None
    return _numbered(label, table_of(f"{label}: layer_list", rows), numbers)


def _permutation(placement: ExpertMap, num_gpus: int, num_experts: int, num_groups: int) -> str:
    """VLLM takes no map: the same placement by another order of the checkpoint's experts."""
    if placement.slots.shape[1] != num_experts:
        raise SpecError(
            f"vllm: {placement.slots.shape[1]} slots for {num_experts} experts: vLLM takes no map "
            "of experts, and a permutation of the checkpoint has no replicas; expected as many "
            "slots as experts"
        )
    if num_groups > 1:
        size = num_experts // num_groups
        groups = (placement.slots // size).reshape(len(placement.layers), num_groups, size)
        if (groups != groups[:, :, :1]).any():
            raise SpecError(
                "vllm: the router picks among groups of consecutive experts, which a permutation "
                "would tear apart; expected a placement of whole groups"
            )
    return (
        json.dumps(
            {
                "holds_if": "the router picks among all experts, not among groups of them first",
                "what": "expert i of the permuted checkpoint is expert new_to_old_expert[layer][i] "
                "of the original: permute the experts' weights, the rows of the router's weight "
                "and, where there is one, its bias; vLLM's linear placement then puts them as "
                "planned",
                "expert_parallel_size": num_gpus,
                "layers": list(placement.layers),
                "new_to_old_expert": placement.slots.tolist(),
            }
        )
        + "\n"
    )


def _read_permutation(label: str, data: dict[str, Any]) -> ExpertMap:
    rows = table_of(f"{label}: new_to_old_expert", data["new_to_old_expert"])
    for number, row in enumerate(rows):
        if sorted(row.tolist()) != list(range(len(row))):
            raise SpecError(f"{label}: new_to_old_expert[{number}]: no permutation of the experts")
    return _numbered(label, rows, data.get("layers"))


def _numbered(label: str, slots: IntArray, numbers: object) -> ExpertMap:
    return ExpertMap(slots, numbered(f"{label}: layers", numbers, len(slots)))
