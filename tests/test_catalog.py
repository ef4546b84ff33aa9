"""Names, paths, parts, bases and overrides, and the shipped catalogue itself."""

import json
from pathlib import Path

import pytest

from autopar.catalog import (
    data_root,
    load_gpu,
    load_plan,
    load_scenario,
    names,
    read_document,
    read_text,
)
from autopar.documents import dump_yaml, parse
from autopar.errors import SpecError
from autopar.shelves import KINDS
from autopar.specs.counting import parameters

DOCUMENT = "moe-16x16-512gpu"


def write(folder: Path, file: str, **fields) -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(fields))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_document_is_valid_and_named_like_its_file(kind):
    for name in names(kind):
        document = read_document(kind, name)
        assert document["name"] == name
        assert document["kind"] == kind
        assert document["schema"] == 1
        if kind == "scenario":
            load_scenario(name)
        elif kind == "plan":
            load_plan(name)
        elif "base" not in document and kind != "cluster":
            KINDS[kind].model.model_validate(document)


@pytest.mark.parametrize("name", names("cluster"))
def test_every_shipped_cluster_resolves(name):
    assert load_scenario(DOCUMENT, parts={"cluster": name}).cluster.name == name


def test_the_folders_of_the_catalogue_are_data_and_not_packages():
    for root in ("models", "solvers"):
        assert data_root(root).is_dir()
        assert not (data_root(root) / "__init__.py").is_file()


def test_the_scenario_states_the_numbers_of_its_document():
    scenario = load_scenario(DOCUMENT)
    assert scenario.llm.weight_bytes == 20e9
    assert scenario.cluster.num_gpus == 512
    assert scenario.cluster.gpu.peak_flops_per_s == 400e12
    assert scenario.requirements.min_tokens_per_s_per_gpu == 100e3
    assert scenario.requirements.max_ttft_us == 10e6
    assert scenario.declared is not None
    assert scenario.declared.layer_time_us == 100e3
    assert scenario.recipe.name == "default"


def test_the_assumed_architecture_adds_up_to_the_stated_parameters():
    """4 x 2048^2 and 16 x (2048 + 3 x 2048 x 6144) and 2 x 2048, 16 times; 32000 x 2048; 2048."""
    assert load_scenario(DOCUMENT).llm.architecture is None
    llm = load_scenario(f"{DOCUMENT}-analytic").llm
    assert llm.architecture is not None
    total = parameters(llm.architecture)
    assert total == 9_998_239_744
    assert total == pytest.approx(llm.num_parameters, rel=1e-3)


def test_a_base_is_merged_field_by_field():
    base, analytic = load_scenario(DOCUMENT), load_scenario(f"{DOCUMENT}-analytic")
    assumed = {"experts_per_token": 2, "architecture": analytic.llm.architecture}
    assert analytic.llm == base.llm.model_copy(update=assumed)
    assert analytic.requirements.coverage == "every_gpu"
    assert analytic.requirements.min_tokens_per_s_per_gpu is None
    assert analytic.requirements.max_ttft_us == base.requirements.max_ttft_us
    assert analytic.declared is None
    assert analytic.rules == base.rules


def test_a_part_may_be_a_name_a_path_or_inline(tmp_path):
    write(tmp_path, "parts/llm.yaml", base="moe-16x16-10b", name="mine", num_layers=4)
    path = write(
        tmp_path,
        "scenario.yaml",
        llm="parts/llm.yaml",
        cluster={"base": "doc-8x64", "num_nodes": 2},
        workload="prefill-10240",
    )
    scenario = load_scenario(path)
    assert scenario.name == "scenario"
    assert (scenario.llm.name, scenario.llm.num_layers, scenario.llm.num_experts) == ("mine", 4, 16)
    assert (scenario.cluster.name, scenario.cluster.num_nodes) == ("doc-8x64", 2)
    assert scenario.cluster.gpu.name == "doc-400t-64gb"


def test_parts_alone_make_an_analytic_scenario(tmp_path):
    llm = write(tmp_path, "top2.yaml", base="moe-16x16-10b", experts_per_token=2)
    parts = {"llm": str(llm), "cluster": "doc-8x64", "workload": "prefill-10240"}
    scenario = load_scenario(parts=parts)
    assert scenario.name == "top2-on-doc-8x64"
    assert scenario.cost_model == "analytic"
    del parts["cluster"]
    with pytest.raises(SpecError, match="--cluster"):
        load_scenario(parts=parts)


def test_the_users_catalogue_comes_before_the_shipped_one(tmp_path, monkeypatch):
    write(tmp_path / "a", "clusters/doc-8x64.yaml", base="4xhgx-h100", name="doc-8x64")
    write(tmp_path / "b", "models/llms/own.json", base="moe-16x16-10b", num_layers=3)
    (tmp_path / "b/models/llms/own.json").write_text('{"base": "moe-16x16-10b", "num_layers": 3}')
    monkeypatch.setenv("AUTOPAR_CATALOG", str(tmp_path / "b"))
    scenario = load_scenario(DOCUMENT, parts={"llm": "own"}, catalogs=[tmp_path / "a"])
    assert scenario.cluster.num_gpus == 32
    assert scenario.llm.num_layers == 3
    assert "own" in names("llms")
    assert load_scenario(DOCUMENT).cluster.num_gpus == 512


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("cluster.gpus_per_domain=32", "cluster.gpus_per_domain", 32),
        ("cluster.gpus_per_domain=null", "cluster.gpus_per_domain", None),
        ("requirements.max_ttft_us=5 s", "requirements.max_ttft_us", 5e6),
        ('requirements.max_ttft_us="5 s"', "requirements.max_ttft_us", 5e6),
        ("requirements={coverage: up_to}", "requirements.max_ttft_us", None),
        ("rules[0].require=tp <= etp", "rules.0.require", "tp <= etp"),
        ("rules.tensor_parallel_covers_experts.because=x", "rules.0.because", "x"),
        ("cluster=4xhgx-h100", "cluster.name", "4xhgx-h100"),
        ("cluster.gpu={base: doc-400t-64gb, memory_bytes: 1 GB}", "cluster.gpu.memory_bytes", 1e9),
        ("recipe=explicit", "recipe.cp_sat.symmetry", "explicit"),
        ("recipe.objectives=[traffic]", "recipe.objectives.0", "traffic"),
        ("declared.kv_cache_bytes_per_gpu=1 GB", "declared.kv_cache_bytes_per_gpu", 1e9),
    ],
)
def test_an_override_sets_one_field(override, path, expected):
    value = load_scenario(DOCUMENT, overrides=[override])
    for step in path.split("."):
        value = value[int(step)] if step.isdecimal() else getattr(value, step)
    assert value == expected


def test_overrides_apply_in_order_and_append_and_remove():
    rule = "{name: r, require: pp >= 1, because: x}"
    scenario = load_scenario(DOCUMENT, overrides=[f"rules.1={rule}", "rules.0=null"])
    assert [r.name for r in scenario.rules] == ["r"]
    scenario = load_scenario(DOCUMENT, overrides=["llm.num_layers=2", "llm.num_layers=3"])
    assert scenario.llm.num_layers == 3


def test_a_resolved_scenario_loads_as_itself():
    for name in names("scenario"):
        scenario = load_scenario(name)
        assert load_scenario(scenario.document()) == scenario
        assert load_scenario(parse(dump_yaml(scenario.document()), "x")) == scenario


def test_the_rule_packs_of_a_recipe_join_the_scenario_once(tmp_path):
    rule = {"name": "r", "require": "pp >= 1", "because": "x"}
    write(tmp_path, "rules/engine.yaml", rules=[rule])
    recipe = write(tmp_path, "recipes/mine.yaml", rule_packs=["engine"])
    options = {"parts": {"recipe": str(recipe)}, "catalogs": [tmp_path]}
    scenario = load_scenario(DOCUMENT, **options)
    assert [pack.name for pack in scenario.rule_packs] == ["engine"]
    again = load_scenario(scenario.document(), catalogs=[tmp_path])
    assert [pack.name for pack in again.rule_packs] == ["engine"]


def test_plug_in_paths_are_relative_to_their_recipe(tmp_path):
    recipe = write(tmp_path, "recipes/mine.yaml", plugins=["plug.py"])
    scenario = load_scenario(DOCUMENT, parts={"recipe": str(recipe)})
    assert scenario.recipe.plugins == (str(tmp_path / "recipes/plug.py"),)


def test_an_answer_loads_as_its_scenario_and_as_its_plan(tmp_path):
    scenario = load_scenario(DOCUMENT)
    degrees = {"pp": 8, "tp": 2, "ep": None}
    answer = {"kind": "plan", "name": "a", "llm": "moe-16x16-10b", "degrees": degrees}
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer | {"spec": scenario.document()}))
    assert load_scenario(path) == scenario
    assert load_plan(path).degrees.pp == 8
    assert load_plan(path).degrees.ep == 1


def test_a_plan_of_65536_rows_loads():
    row = {"layer": 0, "expert": 1, "copy": 0, "shard": 0}
    plan = {"name": "p", "llm": "m", "degrees": {}}
    rows = [row | {"gpu": i} for i in range(65_536)]
    loaded = load_plan(plan | {"placement": rows}).placement
    assert loaded is not None
    assert loaded[-1].gpu == 65_535


def test_read_text_keeps_comments():
    assert "# about 200 ms per stage" in read_text("scenarios", DOCUMENT)
    with pytest.raises(SpecError, match="name or a path"):
        read_text("scenarios", "-")


def test_a_mapping_given_from_python_is_not_changed():
    given = {"base": DOCUMENT, "name": "mine", "cluster": {"num_nodes": 32}}
    load_scenario(given, overrides=["cluster.num_nodes=16"])
    assert given == {"base": DOCUMENT, "name": "mine", "cluster": {"num_nodes": 32}}


def test_a_gpu_is_found_by_name_and_by_path(tmp_path):
    path = write(tmp_path, "mine.yaml", base="h200-sxm-141gb", name="mine", power_w=600)
    mine = load_gpu(str(path))
    assert (mine.name, mine.power_w) == ("mine", 600)
    assert mine.kernels == load_gpu("h200-sxm-141gb").kernels


def test_a_wrong_gpu_is_named_with_the_option_that_gave_it(tmp_path):
    with pytest.raises(SpecError, match=r"--gpu: unknown gpu 'h200-sxm-140gb'; did you mean"):
        load_gpu("h200-sxm-140gb", option="--gpu")
    path = write(tmp_path, "mine.yaml", base="h200-sxm-141gb", power_w=-1)
    with pytest.raises(SpecError, match=r"mine.yaml: power_w: found -1, expected"):
        load_gpu(str(path), option="--gpu")
