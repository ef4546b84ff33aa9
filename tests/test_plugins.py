"""Constraints from a file: loaded, posted, checked, blamed; and every way in which one fails."""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import autopar
from autopar.constraints import registry
from autopar.errors import AutoparError, PluginError, SpecError
from autopar.plugins import load_file, load_installed
from autopar.problem import Plan, Problem
from autopar.search import make_task, prepare
from autopar.solver import optimise
from autopar.specs import Scenario
from autopar.testing import assert_post_matches_check

Build = Callable[[dict[str, Any]], Scenario]

# 4 layers x 4 experts x 2 shards on 32 GPUs, one domain of 32.
SMALL = {
    "llm.num_layers": 4,
    "llm.num_experts": 4,
    "cluster.num_nodes": 8,
    "cluster.gpus_per_node": 4,
    "cluster.gpus_per_domain": 32,
}

RING = """
    import autopar

    @autopar.register
    class NpuRing:
        name = "npu_ring"
        because = "a ring of NPUs holds one layer"

        def post(self, model, variables, problem):
            model.add(variables.pp == {pp})

        def check(self, plan, problem):
            if plan.pp != {pp}:
                yield f"{{plan.pp}} stages on rings for {pp}"
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def write(folder: Path, text: str, name: str = "ring.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_file_is_loaded_posted_and_binds(document_scenario: Build, tmp_path: Path) -> None:
    """One domain holds all layers, so one stage would do; the ring wants four."""
    plugins = load_file(write(tmp_path, RING.format(pp=4)))
    assert [p.name for p in plugins] == ["npu_ring"]
    assert set(registry.registered()) == {"npu_ring"}
    scenario = document_scenario(SMALL)
    without = autopar.solve(scenario)
    solution = autopar.solve(scenario, plugins=plugins)
    assert without.plan is not None
    assert solution.plan is not None
    assert (without.plan.pp, solution.plan.pp) == (1, 4)
    assert solution.status == "optimal"
    assert "npu_ring" in solution.binding
    assert solution.solver.fingerprint != without.solver.fingerprint
    explanation = autopar.explain(scenario, plugins=plugins)
    assert explanation.because["npu_ring"] == "a ring of NPUs holds one layer"


def test_a_plugin_that_asks_for_the_optimum_does_not_bind(
    document_scenario: Build, tmp_path: Path
) -> None:
    plugins = load_file(write(tmp_path, RING.format(pp=1)))
    solution = autopar.solve(document_scenario(SMALL), plugins=plugins)
    assert solution.status == "optimal"
    assert "npu_ring" not in solution.binding


def test_a_plugin_is_blamed_in_a_clash_and_dropping_it_is_a_repair(
    document_scenario: Build, tmp_path: Path
) -> None:
    """A ring for two stages in domains that hold one layer of 8 GPUs each."""
    plugins = load_file(write(tmp_path, RING.format(pp=2)))
    scenario = document_scenario(SMALL | {"cluster.gpus_per_domain": 8})
    solution = autopar.solve(scenario, plugins=plugins)
    assert solution.status == "infeasible"
    assert "npu_ring" in solution.conflict
    assert "all_to_all_within" in solution.conflict
    assert "recipe.disable=[npu_ring]" in {repair.change for repair in solution.repairs}


def test_post_of_the_example_is_its_check(document_scenario: Build, tmp_path: Path) -> None:
    (plugin,) = load_file(write(tmp_path, RING.format(pp=2)))
    allowed, forbidden = assert_post_matches_check(
        plugin, make_task(document_scenario(SMALL)).problem
    )
    assert allowed
    assert forbidden


def test_a_recipe_disables_a_plugin_by_name(document_scenario: Build, tmp_path: Path) -> None:
    plugins = load_file(write(tmp_path, RING.format(pp=4)))
    scenario = document_scenario(SMALL | {"recipe.disable": ["npu_ring"]})
    solution = autopar.solve(scenario, plugins=plugins)
    assert solution.plan is not None
    assert solution.plan.pp == 1


def test_a_file_may_register_several_and_be_loaded_again(tmp_path: Path) -> None:
    both = RING.format(pp=2) + RING.format(pp=4).replace("npu_ring", "wide").replace("Npu", "Wide")
    path = write(tmp_path, both)
    assert {p.name for p in load_file(path)} == {"npu_ring", "wide"}
    assert {p.name for p in load_file(path)} == {"npu_ring", "wide"}


BROKEN = {
    "no constraint": ("x = 1", "registers no constraint; use @autopar.register"),
    "exception": ("raise RuntimeError('no such NPU')", "RuntimeError: no such NPU"),
    "syntax": ("def (", "SyntaxError"),
    "import": ("import no_such_module_of_ours", "ModuleNotFoundError"),
    "no check": (
        """
        import autopar

        @autopar.register
        class Half:
            name = "half"

            def post(self, model, variables, problem):
                pass
        """,
        "Half needs name, post(model, variables, problem) and check(plan, problem)",
    ),
    "no post": (
        """
        import autopar

        @autopar.register
        class Half:
            name = "half"

            def check(self, plan, problem):
                yield "no"
        """,
        "Half needs name, post",
    ),
    "no name": (
        """
        import autopar

        @autopar.register
        class Nameless:
            def post(self, model, variables, problem):
                pass

            def check(self, plan, problem):
                yield "no"
        """,
        "Nameless: a constraint needs a class attribute `name`",
    ),
    "same name twice": (
        RING.format(pp=2) + RING.format(pp=2).replace("NpuRing", "Other"),
        "two constraints have the name 'npu_ring'",
    ),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_broken_file_is_a_plugin_error_that_names_it(tmp_path: Path, kind: str) -> None:
    text, says = BROKEN[kind]
    path = write(tmp_path, text, "broken_ring.py")
    with pytest.raises(PluginError) as caught:
        load_file(path)
    assert "broken_ring.py" in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["missing.py", "", "folder"])
def test_a_file_that_is_not_there_is_a_plugin_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with pytest.raises(PluginError, match="no such file") as caught:
        load_file(path)
    assert repr(str(path)) in str(caught.value)


def test_a_file_that_is_not_python_is_a_plugin_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"notes\.txt.*expected a Python file"):
        load_file(write(tmp_path, "x = 1", "notes.txt"))


def test_a_name_of_a_built_in_constraint_is_refused(
    document_scenario: Build, tmp_path: Path
) -> None:
    plugins = load_file(write(tmp_path, RING.format(pp=2).replace("npu_ring", "memory")))
    with pytest.raises((SpecError, PluginError), match="two constraints have the name 'memory'"):
        autopar.solve(document_scenario(SMALL), plugins=plugins)


class Entry:
    """An entry point of an installed package."""

    value = "package.module:Class"

    def __init__(self, load: Callable[[], Any]) -> None:
        self.load = load


class Installed:
    name = "installed"

    def post(self, model: Any, variables: Any, problem: Problem) -> None:
        model.add(variables.pp == 2)

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        if plan.pp != 2:
            yield "two stages"


def test_constraints_of_installed_packages_hold_in_every_solve(
    document_scenario: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [Entry(lambda: Installed)]
    monkeypatch.setattr("autopar.plugins.entry_points", lambda group: entries)
    assert [p.name for p in load_installed()] == ["installed"]
    solution = autopar.solve(document_scenario(SMALL))
    assert solution.plan is not None
    assert solution.plan.pp == 2


def test_an_installed_package_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ImportError("no driver")

    monkeypatch.setattr("autopar.plugins.entry_points", lambda group: [Entry(fail)])
    with pytest.raises(PluginError, match=r"package\.module:Class.*no driver"):
        load_installed()


def test_an_error_in_post_names_the_plugin(document_scenario: Build, tmp_path: Path) -> None:
    text = RING.format(pp=2).replace("variables.pp ==", "variables.no_such_degree ==")
    plugins = load_file(write(tmp_path, text))
    with pytest.raises(AutoparError, match="npu_ring"):
        autopar.solve(document_scenario(SMALL), plugins=plugins)


def test_a_plan_that_post_allows_and_check_refuses_is_not_returned(
    document_scenario: Build, tmp_path: Path
) -> None:
    text = RING.format(pp=2).replace("model.add(variables.pp == 2)", "pass")
    plugins = load_file(write(tmp_path, text))
    scenario = document_scenario(SMALL | {"requirements.coverage": "partition"})
    solution = None
    with pytest.raises(AutoparError, match="npu_ring"):
        solution = autopar.solve(scenario, plugins=plugins)
    assert solution is None


def test_what_one_solve_pruned_with_a_plugin_is_what_exhaustive_search_finds(
    document_scenario: Build, tmp_path: Path
) -> None:
    """A plug-in may want fewer replicas than fit; up_to then offers them."""
    text = RING.format(pp=1).replace("plan.pp", "plan.replicas")
    text = text.replace("variables.pp", "variables.replicas")
    scenario = document_scenario(SMALL | {"requirements": {"coverage": "up_to"}, "rules": []})
    task = make_task(scenario, plugins=load_file(write(tmp_path, text)))
    outcome = optimise(task, prepare(task))
    assert outcome.status == "optimal"
    assert outcome.choice is not None
    assert outcome.choice.candidate.replicas == 1
