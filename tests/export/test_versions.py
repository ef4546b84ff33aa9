"""What an older TensorRT-LLM has no word for, and sizes of caches that keep what a plan holds."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from autopar.api import verify
from autopar.catalog import load_plan, load_scenario
from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, export
from autopar.export.launch import Export
from autopar.export.nearest import Nearest, nearest
from autopar.export.options import Options
from autopar.pairs import explicit_plan
from autopar.problem import Plan
from autopar.report.export import nearest_words
from autopar.specs import Scenario
from autopar.verifier.work import work_of


def asked(split: list[int], **degrees: int) -> tuple[Scenario, Plan]:
    parts = {"llm": "llama-3.1-8b", "cluster": "1xhgx-h100", "workload": "chat-1k-256"}
    scenario = load_scenario(parts=parts)
    document = {
        "schema": 1, "kind": "plan", "name": "cut", "llm": "llama-3.1-8b", "batch": 8,
        "degrees": {"pp": len(split), "tp": 1, "etp": 1, **degrees}, "layers_per_stage": split,
    }  # fmt: skip
    plan = explicit_plan(load_plan(document), scenario)
    assert isinstance(plan, Plan)
    return scenario, plan


def config_of(made: Export) -> Mapping[str, Any]:
    (file,) = [f for f in made.files if f.name == "trtllm.yaml"]
    found: Mapping[str, Any] = yaml.safe_load(file.text)
    return found


def test_a_split_of_its_own_came_with_tensorrt_llm_1_2() -> None:
    scenario, plan = asked([11, 11, 10])
    for version, flag, has in (
        ("1.0", "--extra_llm_api_options", False),
        ("1.2", "--config", True),
    ):
        options = completed(Options(engine="trtllm", version=version), scenario)
        made = export(scenario, plan, "trtllm", options)
        assert ("pp_partition" in config_of(made)) == has
        assert flag in made.launches[0].argv


def test_another_split_is_refused_before_it_with_the_own_one_as_the_nearest() -> None:
    scenario, plan = asked([10, 11, 11])
    options = completed(Options(engine="trtllm", version="1.1.0"), scenario)
    with pytest.raises(InexpressibleError, match=r"before 1\.2 no option says so: 1\.1\.0"):
        export(scenario, plan, "trtllm", options)
    found = nearest(scenario, plan, options)
    assert isinstance(found, Nearest)
    assert isinstance(found.plan, Plan)
    assert [len(stage.layers) for stage in found.plan.stages] == [11, 11, 10]
    assert verify(scenario, found.plan).ok
    assert "the same with its layers split" in nearest_words(found, "trtllm")
    export(scenario, found.plan, "trtllm", options)


def test_caches_have_room_for_the_prompts_in_progress_beside_running_sequences() -> None:
    """As the verifier counts memory: pages of 16 tokens, and prompts of every micro-batch."""
    scenario, plan = asked([11, 11, 10])
    work = work_of(scenario.workload, plan, plan.stages[0])
    kept, tokens = int(work.kept_sequences.max()), int(work.kept_tokens.max())
    assert kept > plan.pp * plan.batch
    sizes = {}
    for engine in ("vllm", "sglang", "trtllm"):
        made = export(scenario, plan, engine, completed(Options(engine=engine), scenario))
        words = made.launches[0].argv
        if engine == "trtllm":
            sizes[engine] = config_of(made)["kv_cache_config"]["max_tokens"]
        elif engine == "sglang":
            sizes[engine] = int(words[words.index("--max-total-tokens") + 1])
        else:
            held = int(words[words.index("--kv-cache-memory-bytes") + 1])
            sizes[engine] = held // (11 * 2 * 8 * 128 * 2)  # keys and values of 8 heads, BF16
    # A page more of each, for these engines admit no request that fills the rest to the last token.
    assert sizes["sglang"] == sizes["trtllm"] == tokens + 16 * kept
    assert sizes["vllm"] == tokens + 16  # the page that vLLM keeps empty


def test_the_cache_is_that_of_the_gpu_that_keeps_most_of_it() -> None:
    """The last stage is fullest by its head, the first one has the most layers."""
    scenario, plan = asked([17, 15])
    made = export(scenario, plan, "vllm", completed(Options(engine="vllm"), scenario))
    words = made.launches[0].argv
    held = int(words[words.index("--kv-cache-memory-bytes") + 1])
    tokens = int(work_of(scenario.workload, plan, plan.stages[0]).kept_tokens.max())
    assert held >= 17 * tokens * 2 * 8 * 128 * 2
