"""Manifests hold what the LeaderWorkerSet's own schema allows, and start the plan's commands."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from autopar.errors import InexpressibleError, SpecError
from autopar.export.exporting import completed, written
from autopar.export.launch import Export
from autopar.export.options import Options

SCHEMA = json.loads(
    (Path(__file__).parents[1] / "engines" / "leaderworkerset-schema.json").read_text("utf-8")
)
HOSTILE = "org/$(LWS_WORKER_INDEX) it's $HOME `id`\nnext"
KINDS = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def complaints(value: Any, schema: dict[str, Any], place: str = "") -> list[str]:
    """What of a value the schema refuses; unknown fields too, which a server would drop."""
    if schema.get("x-kubernetes-int-or-string"):
        good = re.fullmatch(schema.get("pattern", ".*"), str(value))
        return [] if isinstance(value, int | str) and good else [f"{place}: {value!r}"]
    found = []
    expected = KINDS.get(schema.get("type", ""))
    if expected is not None and (type(value) is not expected):
        return [f"{place}: {value!r} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: {value!r} is none of {schema['enum']}")
    if isinstance(value, int) and value < schema.get("minimum", value):
        found.append(f"{place}: {value} is too small")
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += complaints(item, schema["items"], f"{place}[{number}]")
    if isinstance(value, dict) and "properties" in schema:
        found += [
            f"{place}.{key}: missing" for key in schema.get("required", ()) if key not in value
        ]
        for key, item in value.items():
            if key not in schema["properties"]:
                found.append(f"{place}.{key}: unknown")
            else:
                found += complaints(item, schema["properties"][key], f"{place}.{key}")
    if isinstance(value, dict) and "additionalProperties" in schema:
        for key, item in value.items():
            found += complaints(item, schema["additionalProperties"], f"{place}.{key}")
    return found


def exported(plans: ModuleType, engine: str, seed: int, **more: Any) -> Export | None:
    drawn = plans.draw(seed, engine)
    if drawn is None:
        return None
    options = Options(engine=engine, model_path=HOSTILE, image="an/image:1", **more)
    try:
        return written(plans.layouts(*drawn), "lws", completed(options, drawn[0]))
    except InexpressibleError:
        return None


def test_the_checker_itself_refuses() -> None:
    spec = SCHEMA["schema"]["properties"]["spec"]
    good: dict[str, Any] = {
        "replicas": 1,
        "leaderWorkerTemplate": {"size": 1, "workerTemplate": {}},
    }
    assert not complaints(good, spec)
    assert complaints({**good, "replica": 1}, spec)
    assert complaints({**good, "replicas": -1}, spec)
    assert complaints({"replicas": 1}, spec)
    assert complaints({**good, "startupPolicy": "Never"}, spec)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "megatron"])
def test_manifests_are_valid_and_quote_what_they_hold(plans: ModuleType, engine: str) -> None:
    several = done = 0
    for seed in range(40):
        export = exported(plans, engine, seed, expert_map="always")
        if export is None:
            continue
        (file,) = export.files
        documents = list(yaml.safe_load_all(file.text))
        (one,) = [d for d in documents if d["kind"] == "LeaderWorkerSet"]
        assert one["apiVersion"] == f"{SCHEMA['group']}/v1"
        metadata = {"type": "object", "properties": {"name": {"type": "string"}}}
        schema = {**SCHEMA["schema"]}
        schema["properties"] = {**schema["properties"], "metadata": metadata}
        assert complaints(one, schema) == []
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", one["metadata"]["name"])
        template = one["spec"]["leaderWorkerTemplate"]
        several += "leaderTemplate" in template
        assert ("leaderTemplate" in template) == (template["size"] > 1)
        for part in ("leaderTemplate", "workerTemplate"):
            if part in template and engine != "megatron":
                (container,) = template[part]["spec"]["containers"]
                unquoted = [word.replace("$$", "$") for word in container["command"]]
                assert HOSTILE in unquoted
                assert HOSTILE not in container["command"]
        done += 1
    assert done >= 10
    assert several or engine == "trtllm"


def test_pods_take_part_by_what_lws_tells_them(plans: ModuleType) -> None:
    flags = {"vllm": "--master-addr", "sglang": "--dist-init-addr", "megatron": "--master-addr"}
    for engine, flag in flags.items():
        for seed in range(60):
            export = exported(plans, engine, seed)
            if export is None or "leaderTemplate" not in export.files[0].text:
                continue
            documents = yaml.safe_load_all(export.files[0].text)
            one = next(d for d in documents if d["kind"] == "LeaderWorkerSet")
            template = one["spec"]["leaderWorkerTemplate"]
            leader, worker = (
                template[part]["spec"]["containers"][0]["command"]
                for part in ("leaderTemplate", "workerTemplate")
            )
            for words in (leader, worker):
                assert words[words.index(flag) + 1].startswith("$(LWS_LEADER_ADDRESS)")
            assert leader[leader.index("--node-rank") + 1] == "0"
            assert worker[worker.index("--node-rank") + 1] == "$(LWS_WORKER_INDEX)"
            break
        else:
            pytest.fail(f"{engine}: no plan of several nodes was drawn")


def test_an_image_is_asked_for_where_none_is_known(plans: ModuleType) -> None:
    for seed in range(40):
        drawn = plans.draw(seed, "trtllm")
        if drawn is None:
            continue
        options = completed(Options(engine="trtllm"), drawn[0])
        with pytest.raises(
            (SpecError, InexpressibleError), match=r"--image|mpirun|consecutive|as many"
        ):
            written(plans.layouts(*drawn), "lws", options)


def test_host_files_list_nodes_in_the_order_of_ranks(plans: ModuleType) -> None:
    for seed in range(20):
        drawn = plans.draw(seed, "sglang")
        if drawn is None:
            continue
        scenario, plan = drawn
        export = written(
            plans.layouts(scenario, plan), "hostfile", completed(Options(engine="sglang"), scenario)
        )
        for server, file in enumerate(export.files):
            lines = [line.split("#")[0].split() for line in file.text.splitlines()]
            counts = [(host, int(slots.removeprefix("slots="))) for host, slots in lines]
            mine = [rank.gpu for rank in export.ranks if rank.server == server]
            listed = [host for host, count in counts for _ in range(count)]
            assert listed == [f"node-{gpu // scenario.cluster.gpus_per_node}" for gpu in mine]
