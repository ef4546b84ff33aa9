"""Sizes in Megatron's arguments are those of every layer; the rest is named, or refused."""

import json
from pathlib import Path

import pytest

from autopar.catalog import load_llm, load_plan, load_scenario
from autopar.errors import InexpressibleError, SpecError
from autopar.export.exporting import completed, export
from autopar.export.launch import Export, script_text
from autopar.export.megatron import TEMPLATE
from autopar.export.options import Options
from autopar.pairs import explicit_plan


def exported(llm: str, **degrees: int) -> Export:
    parts = {"llm": llm, "cluster": "4xhgx-h200", "workload": "chat-1k-256"}
    scenario = load_scenario(parts=parts)
    document = {"schema": 1, "kind": "plan", "name": "p", "llm": scenario.llm.name, "batch": 1,
                "degrees": degrees}  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    return export(scenario, plan, "megatron", completed(Options(engine="megatron"), scenario))


@pytest.mark.parametrize(
    ("llm", "layers"),
    [
        # Nemotron-H: its hybrid_override_pattern has 54 M, 54 - and 10 *
        (
            "nemotron-h-56b",
            "54 layers with linear attention, 54 layers without attention, 64 layer",
        ),
        # Qwen3-Next: full attention in every 4th of 48 layers
        ("qwen3-next-80b-a3b", "36 layers with linear attention, of 48"),
        ("llama-3.3-nemotron-super-49b", "31 layers without attention, of 80"),
    ],
)
def test_models_with_other_layers_are_refused(llm: str, layers: str) -> None:
    with pytest.raises(SpecError, match=layers) as caught:
        exported(llm, tp=2, etp=2)
    assert "--hybrid-layer-pattern" in str(caught.value)
    # no plan of the model can be said, so that no nearest one is looked for
    assert not isinstance(caught.value, InexpressibleError)


@pytest.mark.parametrize(
    ("llm", "degrees", "absent", "named"),
    [
        (
            "gemma-4-26b-a4b",
            {"tp": 2, "attn_dp": 4, "ep": 8, "etp": 1},
            ["--num-query-groups", "--group-query-attention", "--kv-channels"],
            ["--num-query-groups (2, 8)", "--kv-channels (256, 512)", "windows of 1024 tokens",
             "one projection for keys and values"],
        ),
        (
            "mimo-v2-flash",
            {"tp": 4, "attn_dp": 8, "ep": 32, "etp": 1},
            ["--num-query-groups", "--group-query-attention", "--kv-channels"],
            ["--num-query-groups (4, 8)", "--kv-channels (128, 192)", "windows of 128 tokens"],
        ),
        (
            "deepseek-v3.2",
            {"tp": 4, "attn_dp": 8, "ep": 32, "etp": 1},
            ["--dsa-indexer-n-heads"],
            ["an indexer (--experimental-attention-variant dsa, --dsa-indexer-n-heads 64"],
        ),
    ],
)  # fmt: skip
def test_sizes_that_layers_do_not_share_are_left_out_and_named(
    llm: str, degrees: dict[str, int], absent: list[str], named: list[str]
) -> None:
    made = exported(llm, **degrees)
    launch = made.launches[0]
    (note,) = [note for note in made.notes if note.startswith("the arguments do not say all")]
    assert made.lacks == f"{TEMPLATE}; {note}"
    assert note in script_text(launch, "title", made.lacks)
    assert not set(absent) & set(launch.argv)
    assert all(words in note for words in named)
    assert launch.argv[launch.argv.index("--hidden-size") + 1] == str(hidden_size(llm))


def hidden_size(llm: str) -> int:
    architecture = load_llm(llm).architecture
    assert architecture is not None
    return architecture.hidden_size


def test_widths_of_feed_forwards_that_differ_are_left_out(tmp_path: Path) -> None:
    """A dense model, half of whose layers are twice as wide; no first one stands for all."""
    data = load_llm("llama-3.1-8b").model_dump(mode="json", exclude_unset=True)
    shapes = data["architecture"]
    (name,) = shapes["feed_forward"]
    shapes["feed_forward"]["wide"] = shapes["feed_forward"][name] | {"ffn_size": 28672}
    (run,) = shapes["layers"]
    (layer,) = run["layers"]
    run |= {"count": run["count"] // 2, "layers": [layer, layer | {"feed_forward": "wide"}]}
    data["schema"] = data.pop("schema_version")
    data["num_parameters"] += 16 * 3 * 4096 * 14336
    file = tmp_path / "two-widths.yaml"
    file.write_text(json.dumps({**data, "kind": "llm", "name": "two-widths"}))
    made = exported(str(file), tp=8, etp=8)
    assert "--ffn-hidden-size" not in made.launches[0].argv
    assert "--ffn-hidden-size (14336, 28672)" in made.lacks
    assert "--kv-channels" in made.launches[0].argv


@pytest.mark.parametrize("llm", ["deepseek-v3", "mixtral-8x7b", "qwen3-235b-a22b", "llama-3.1-8b"])
def test_models_of_equal_layers_are_said_whole(llm: str) -> None:
    is_moe = load_llm(llm).is_moe
    degrees = {"tp": 4, "attn_dp": 8, "ep": 32, "etp": 1} if is_moe else {"tp": 8, "etp": 8}
    if llm == "mixtral-8x7b":
        degrees = {"tp": 4, "attn_dp": 2, "ep": 8, "etp": 1}
    made = exported(llm, **degrees)
    assert made.lacks == TEMPLATE
