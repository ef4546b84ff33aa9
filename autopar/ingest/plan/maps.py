"""Maps of experts that commands name -> the placement of a plan file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autopar.documents import parse_any
from autopar.errors import SpecError, shorten
from autopar.ingest.plan.beside import Beside
from autopar.ingest.plan.found import Found
from autopar.specs import LLM

_Map = dict[int, list[int]]  # layer -> the expert of each slot


def placement_rows(
    servers: Sequence[Found], fields: dict[str, Any], llm: LLM | None, folder: Path
) -> dict[str, Any]:
    """Return the placement of a layout, whose fields name the GPUs of its stages.

    Raises SpecError if a map cannot be read, or does not hold every expert once.
    """
    if llm is None:
        raise SpecError("a map of experts needs the model; give --model")
    replicas = [replica["stages"] for replica in fields["replicas"]]
    stage_of = {layer: s["index"] for s in fields["stages"] for layer in s["layers"]}
    read: dict[str, _Map] = {}
    for server in servers:
        if server.experts not in read:
            read[server.experts] = _read(server.experts, llm, Beside(folder, server.files))
    maps = [read[server.experts] for server in servers for _ in range(server.replicas)]
    rows = []
    alike = all(slots == maps[0] for slots in maps)  # then the first stands for all
    for copy, (stages, slots, server) in enumerate(
        zip(replicas, maps, (s for s in servers for _ in range(s.replicas)), strict=True)
    ):
        if copy and alike:
            break
        per_rank = llm.num_experts // server.ep
        for layer in llm.expert_layers:
            gpus = stages[stage_of[layer]]
            for slot, expert in enumerate(slots[layer]):
                for shard in range(server.etp):
                    gpu = gpus[slot // per_rank * server.etp + shard]
                    rows.append(
                        {"layer": layer, "expert": expert, "copy": copy, "shard": shard, "gpu": gpu}
                    )
    rows.sort(key=lambda row: (row["copy"], row["layer"], row["expert"], row["shard"]))
    return {"placement": rows}


def _read(experts: str, llm: LLM, beside: Beside) -> _Map:
    if not experts:
        return {layer: list(range(llm.num_experts)) for layer in llm.expert_layers}
    inline = experts.lstrip().startswith("{")
    label = "the inline map of experts" if inline else experts
    text = experts if inline else beside.text(experts)
    slots = _slots(parse_any(text, label), label)
    for layer in llm.expert_layers:
        if sorted(slots.get(layer, ())) != list(range(llm.num_experts)):
            raise SpecError(
                f"{shorten(label)}: layer {layer}: expected every one of {llm.num_experts} experts "
                "once; a plan has no further replicas of them"
            )
    return slots


def _slots(data: Any, label: str) -> _Map:
    """Return the map in the form of SGLang, TensorRT-LLM or a permutation of the checkpoint."""
    rows = data.get("physical_to_logical_map") if isinstance(data, dict) else None
    if isinstance(rows, list):
        rows = dict(enumerate(rows))
    elif isinstance(data, dict) and "new_to_old_expert" in data:
        rows = dict(zip(data.get("layers", ()), data["new_to_old_expert"], strict=False))
    elif isinstance(data, dict):
        rows = data.get("initial_global_assignments")
    if not isinstance(rows, dict):
        raise SpecError(
            f"{shorten(label)}: expected physical_to_logical_map or initial_global_assignments"
        )
    try:
        return {int(layer): [int(expert) for expert in row] for layer, row in rows.items()}
    except (TypeError, ValueError):
        kind = shorten(json.dumps(rows)[:60])
        raise SpecError(f"{shorten(label)}: expected numbers of experts, found {kind}") from None
