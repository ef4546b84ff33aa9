"""Maps of experts that commands name -> the placement of a plan file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autopar.documents import parse_any, read_text
from autopar.errors import SpecError, shorten
from autopar.ingest.plan.found import Found
from autopar.specs import LLM

_Map = dict[int, list[int]]  # layer -> the expert of each slot


def placement_rows(
    servers: Sequence[Found], fields: dict[str, Any], llm: LLM | None, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a layout with its placement, and notes.

    GPUs are counted in the order of servers and ranks where nothing says which they are.
    Raises SpecError if a map cannot be read, or does not hold every expert once.
    """
    if llm is None:
        raise SpecError("a map of experts needs the model; give --model")
    notes: list[str] = []
    if "stages" not in fields:
        fields = fields | _counted(servers, llm)
        notes.append("GPUs are counted in the order of servers and ranks")
    replicas = [replica["stages"] for replica in fields["replicas"]]
    stage_of = {layer: s["index"] for s in fields["stages"] for layer in s["layers"]}
    read: dict[str, _Map] = {}
    for server in servers:
        if server.experts not in read:
            read[server.experts] = _read(server.experts, llm, folder)
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
    return fields | {"placement": rows}, notes


def _counted(servers: Sequence[Found], llm: LLM) -> dict[str, Any]:
    one = servers[0]
    split = one.split or (llm.num_layers // one.pp,) * one.pp
    starts = [sum(split[:stage]) for stage in range(one.pp)]
    gpus: list[list[list[int]]] = []
    first = 0
    for server in servers:
        table = [[[-1] * one.stage_gpus for _ in range(one.pp)] for _ in range(server.replicas)]
        for rank in range(server.num_ranks):
            replica, stage, own = server.place(rank)
            table[replica][stage][own] = first + rank
        first += server.num_ranks
        gpus += table
    return {
        "stages": [
            {
                "index": s,
                "layers": list(range(starts[s], starts[s] + split[s])),
                "gpus": [*gpus[0][s]],
            }
            for s in range(one.pp)
        ],
        "replicas": [{"index": r, "stages": stages} for r, stages in enumerate(gpus)],
    }


def _read(experts: str, llm: LLM, folder: Path) -> _Map:
    if not experts:
        return {layer: list(range(llm.num_experts)) for layer in llm.expert_layers}
    inline = experts.lstrip().startswith("{")
    label = "the inline map of experts" if inline else experts
    text = experts if inline else read_text(folder / experts)
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
