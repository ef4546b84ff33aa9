"""SGLang's share of memory has room for the plan's cache, and leaves what it counts beside."""

from dataclasses import replace

import pytest

from autopar.api import solve, verify
from autopar.catalog import load_scenario
from autopar.export.exporting import completed, export, written
from autopar.export.launch import Export
from autopar.export.layout import Layout, layouts_of
from autopar.export.options import Options
from autopar.export.static_memory import static_fraction
from autopar.problem import Metrics, Plan
from autopar.specs import Scenario

GIB = 2**30
FREE_GIB = 79.6 - 3.9  # an H100 as nvidia-smi has it, without a reserve of 3.9 GiB


def solved(llm: str, cluster: str) -> tuple[Scenario, Plan]:
    scenario = load_scenario(
        parts={"llm": llm, "cluster": cluster, "workload": "chat-4k-1k"},
        overrides=["requirements.max_tpot_us=50 ms", "rule_packs=[sglang]"],
    )
    plan = solve(scenario, diagnose=False).require_plan()
    assert isinstance(plan, Plan)
    return scenario, plan


def share_of(layout: Layout) -> float | None:
    return static_fraction(layout, layout.capacity.kv_tokens)


def value(made: Export, flag: str) -> str:
    (found,) = {x.argv[x.argv.index(flag) + 1] for x in made.launches}
    return found


@pytest.mark.parametrize(
    ("llm", "cluster"),
    [("deepseek-v3", "4xhgx-h200"), ("qwen3-235b-a22b", "2xhgx-h200"),
     ("llama-3.1-70b", "1xhgx-h100")],
)  # fmt: skip
def test_the_share_holds_weights_and_cache_and_leaves_activations(llm: str, cluster: str) -> None:
    """As SGLang counts: (free before loading) * share - weights is for the cache."""
    scenario, plan = solved(llm, cluster)
    made = export(scenario, plan, "sglang", completed(Options(engine="sglang"), scenario))
    share = float(value(made, "--mem-fraction-static"))
    memory = scenario.cluster.gpu.memory_bytes
    metrics = verify(scenario, plan).metrics
    assert metrics is not None
    assert metrics.kv_cache_bytes is not None
    tokens = int(value(made, "--max-total-tokens"))
    (layout,), _ = layouts_of(plan, scenario, {"": metrics})
    cache_bytes = metrics.kv_cache_bytes * tokens / layout.capacity.kv_tokens
    assert cache_bytes >= metrics.kv_cache_bytes
    for reserved in (0.0, metrics.reserved_bytes or 0.0):  # at most the plan's reserve is taken
        free = memory - reserved
        assert share * free - metrics.weights_bytes >= cache_bytes
        assert (1 - share) * free >= (metrics.activation_bytes or 0.0)
    assert not [note for note in made.notes if "mem-fraction" in note]


def layout_with(
    weights_gib: float, cache_gib: float | None, activations_gib: float, llm: str = "mixtral-8x7b"
) -> Layout:
    scenario = load_scenario(
        parts={"llm": llm, "cluster": "1xhgx-h100", "workload": "chat-4k-1k"},
        overrides=["rule_packs=[sglang]", f"cluster.gpu.memory_bytes={int(79.6 * GIB)}"],
    )
    plan = solve(scenario, diagnose=False).require_plan()
    cache = None if cache_gib is None else cache_gib * GIB
    sizes = Metrics(
        1.0, 1.0, 1.0, 1.0, 1, 1.0, 0, 0.0, weights_gib * GIB, cache, activations_gib * GIB,
        3.9 * GIB,
    )  # fmt: skip
    (layout,), _ = layouts_of(plan, scenario, {"": sizes})
    return layout


def test_what_the_plan_leaves_free_goes_to_both_sides() -> None:
    """(20 + 10) / 75.7 = 0.396 at least, 1 - 5 / 75.7 = 0.934 at most, so 0.67."""
    assert share_of(layout_with(20, 10, 5)) == 0.67


def test_a_plan_that_fills_its_gpus_gets_more_decimals() -> None:
    share = share_of(layout_with(50, FREE_GIB - 50 - 1.001, 1))
    assert share is not None
    assert (FREE_GIB - 1.001) / FREE_GIB <= share <= 1 - 1 / FREE_GIB
    assert share != round(share, 3)


@pytest.mark.parametrize("activations_gib", [0.0, 0.001, 0.2])
def test_a_full_plan_leaves_what_sglang_takes_after_its_cache(activations_gib: float) -> None:
    """0.5 GiB of the reserve of 3.9 GiB is free when SGLang looks: 75.7 of 76.2 hold the plan."""
    layout = layout_with(50, FREE_GIB - 50 - activations_gib - 0.00001, activations_gib)
    share = share_of(layout)
    assert share is not None
    assert share * (FREE_GIB + 0.5) >= FREE_GIB - activations_gib - 0.00001
    assert (1 - share) * (FREE_GIB + 0.5) == pytest.approx(0.5, abs=1e-4)


def test_weights_and_caches_that_are_fullest_on_two_gpus_both_have_room() -> None:
    share = share_of(layout_with(50, 25, 1))
    assert share is not None
    assert 75 / FREE_GIB <= share < 75.001 / FREE_GIB
    assert share_of(layout_with(60, 25, 1)) is None


def test_without_a_stated_cache_attention_groups_are_warned_of() -> None:
    layout = layout_with(20, None, 5)
    assert share_of(layout) is None
    options = Options(engine="sglang", version="0.5.23", model_path="m")
    size = layout.stage_gpus
    assert size > 1
    for groups in (1, size):
        made = written([replace(layout, attn_dp=groups, tp=size // groups)], "sglang", options)
        assert "--mem-fraction-static" not in made.launches[0].argv
        assert any("--mem-fraction-static" in note for note in made.notes) == (groups > 1)


@pytest.mark.parametrize(
    ("llm", "said"), [("gpt-oss-120b", True), ("qwen3-next-80b-a3b", True), ("mixtral-8x7b", False)]
)
def test_models_with_states_or_windows_are_told_of_ratios(llm: str, said: bool) -> None:
    scenario, plan = solved(llm, "1xhgx-h100")
    made = export(scenario, plan, "sglang", completed(Options(engine="sglang"), scenario))
    assert any("ratios of its own" in note for note in made.notes) == said
