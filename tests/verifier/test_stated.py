"""Every field of a solved document that is falsified is caught and named; the clean one has none.

A document is what `solve --json` prints; each corruption edits it as a text editor would.
"""

import copy
import json

import pytest

from autopar.api import solve, verify
from autopar.catalog import load_plan, load_scenario
from autopar.plans import plan_from_spec, plan_parts
from autopar.report.json import solution_document
from autopar.specs import PlanSpec
from autopar.verifier import verify_plan

NAME = "moe-16x16-512gpu"


@pytest.fixture(scope="module")
def scenario():
    return load_scenario(NAME)


@pytest.fixture(scope="module")
def solved(scenario):
    """Return the document of the solved scenario."""
    return json.loads(json.dumps(solution_document(solve(scenario, diagnose=False))))


def edited(document, edits):
    """Return a document in which the values at dotted paths are replaced."""
    document = copy.deepcopy(document)
    for path, value in edits.items():
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        place = document
        for key in parents:
            place = place[key]
        place[last] = value
    return document


@pytest.fixture
def violations(scenario, solved):
    """Return the violations of the solved document after some edits."""

    def check(edits):
        spec = PlanSpec.model_validate(edited(solved, edits))
        return verify(scenario, spec).violations

    return check


def both(field, value):
    """Edit the first objective in both of its places."""
    return {f"objective.{field}": value, f"objectives.0.{field}": value}


# (kind, part of the message, edits)
CORRUPTIONS = [
    ("falsified degrees", "degrees.tp is stated as 4, but tp = 2", {"degrees.tp": 4}),
    ("falsified degrees", "degrees.cp is stated as 2, but cp = 1", {"degrees.cp": 2}),
    ("falsified degrees", "degrees.attn_dp is stated as 7", {"degrees.attn_dp": 7}),
    ("falsified degrees", "degrees.ep is stated as 8", {"degrees.ep": 8}),
    ("falsified degrees", "degrees.etp is stated as 1", {"degrees.etp": 1}),
    ("falsified degrees", "degrees.spread is stated as 1", {"degrees.spread": 1}),
    ("falsified degrees", "(stages 3)", {"stages.3.attn_dp": 31}),
    ("falsified degrees", "layers_per_stage is stated as 4", {"layers_per_stage": 4}),
    ("degrees against stages", "pp = 4", {"degrees.pp": 4}),
    ("degrees against stages", "replicas = 2", {"degrees.replicas": 2}),
    ("batch out of range", "batch is stated as 64, but workload 'prefill-10240' gives",
     {"batch": 64}),
    ("chunks out of range", "chunks = 3, but workload 'prefill-10240' gives", {"chunks": 3}),
    ("falsified pool", "stages[2].pool is stated as 'h100'", {"stages.2.pool": "h100"}),
    ("falsified metric", "num_gpus is stated as 448", {"num_gpus": 448}),
    ("falsified metric", "idle_gpus is stated as 3", {"idle_gpus": 3}),
    ("falsified metric", "ttft_ms", {"metrics.ttft_ms": 800.0}),
    ("falsified metric", "objective throughput is stated", {"objective.value": 122.88e6}),
    ("falsified metric", "objectives[0] throughput", {"objectives.0.value": 122.88e6}),
    ("falsified metric", "objectives[1] ttft", {"objectives.1.value": 3.2e6}),
    ("falsified metric", "objectives[2] traffic", {"objectives.2.value": 14.0}),
    ("falsified metric", "objectives[3] memory", {"objectives.3.value": 78_125_000.0}),
    ("falsified metric", "unit 'hops'", {"objectives.2.unit": "hops"}),
    ("falsified proof", "bound 60,000,000 is below", both("bound", 60e6)),
    ("falsified proof", "objective throughput: bound", {"objective.bound": 60e6}),
    ("falsified proof", "objectives[1] ttft: bound 1,700,000 is above",
     {"objectives.1.bound": 1.7e6}),
    ("falsified proof", "objectives[0] throughput: gap is stated as 0; value and bound give 0.5",
     both("bound", 122.88e6)),
    ("falsified proof", "gap is stated as 0.25; value and bound give 0", both("gap", 0.25)),
    ("falsified proof", "gap is stated as -0.5",
     {"objectives.1.bound": None, "objectives.1.gap": -0.5}),
    ("falsified proof", "gap is stated as 'small'", {"objectives.1.gap": "small"}),
    ("falsified proof", "bound is stated as True", {"objectives.1.bound": True}),
    ("falsified proof", "sense is stated as 'min', expected 'max'", both("sense", "min")),
    ("falsified proof", "sense is stated as 'up'", both("sense", "up")),
    ("falsified proof", "status is stated as 'optimal', but a gap of 0.5",
     {**both("bound", 122.88e6), **both("gap", 0.5)}),
    ("falsified proof", "status is stated as 'optimal', but a gap of 0.5",
     {**both("bound", 122.88e6), **both("gap", None)}),
    ("falsified proof", "status is stated as 'infeasible'", {"status": "infeasible"}),
    ("falsified proof", "status is stated as 'unknown'", {"status": "unknown"}),
    ("falsified proof", "objective and objectives[0] differ in name, value, unit, sense",
     {"objective": {"name": "ttft", "value": 1.6e6, "unit": "us", "sense": "min"}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "says", "edits"),
    CORRUPTIONS,
    ids=[f"{kind}-{says}"[:70] for kind, says, _ in CORRUPTIONS],
)
def test_falsified_document_is_caught_and_named(violations, kind, says, edits):
    found = violations(edits)
    assert any(v.kind == kind and says in v.message for v in found), found


@pytest.mark.parametrize(
    "edits",
    [
        {},
        {"degrees": {"pp": 8}},  # what the header leaves out it does not state
        {"degrees.tp": None, "degrees.attn_dp": None, "stages.4.pool": None},
        {"layers_per_stage": 2},
        {"layers_per_stage": [2] * 8},
        {"objective": {"name": "throughput", "value": 61_440, "unit": "tokens/ms", "gap": 0.0},
         "objectives": None},
        {"status": None, "objective": None, "objectives": None, "metrics": None},
        {"status": "feasible", **both("bound", 122.88e6), **both("gap", 0.5)},
        {"status": "feasible", "objectives.1.bound": 0.8e6, "objectives.1.gap": 0.5000001},
    ],
)  # fmt: skip
def test_document_that_tells_the_truth_has_no_violation(violations, edits):
    assert violations(edits) == ()


def test_status_that_no_answer_has_is_no_plan_document(solved):
    with pytest.raises(ValueError, match="'optimal', 'feasible', 'infeasible' or 'unknown'"):
        PlanSpec.model_validate(edited(solved, {"status": "best"}))


def test_header_of_stages_that_differ_is_compared_with_each(document_scenario):
    scenario = document_scenario({"requirements.coverage": "up_to"})
    stages = [
        {"index": 0, "layers": list(range(8)), "gpus": list(range(4)), "spread": 1},
        {"index": 1, "layers": list(range(8, 16)), "gpus": list(range(4, 12)), "spread": 2},
    ]
    document = {"name": "plan", "llm": "moe-16x16-10b", "stages": stages}
    degrees = {"pp": 2, "tp": 2, "ep": 2, "etp": 2}
    spec = PlanSpec.model_validate({**document, "degrees": degrees})
    assert verify(scenario, spec).ok
    parts = PlanSpec.model_validate(plan_parts(plan_from_spec(spec, scenario)))
    assert verify(scenario, parts).ok
    spec = PlanSpec.model_validate({**document, "degrees": {**degrees, "spread": 1}})
    (found,) = verify(scenario, spec).violations
    assert found.kind == "falsified degrees"
    assert "spread = 1, 2 in the stages (stages 1)" in found.message


def test_header_of_a_plan_without_stages_is_the_plan(scenario):
    assert verify(scenario, load_plan("ep16-tp2-pp8")).ok


def test_proof_is_checked_where_the_plan_cannot_be_measured(scenario, solved):
    edits = {"stages.7.gpus.63": 512, "replicas": None, **both("bound", 60e6)}
    spec = PlanSpec.model_validate(edited(solved, edits))
    report = verify(scenario, spec)
    assert report.metrics is None
    assert "falsified proof" in {v.kind for v in report.violations}


def test_stated_numbers_of_any_type_are_no_error(scenario):
    plan = plan_from_spec(load_plan("ep16-tp2-pp8"), scenario)
    for junk in (None, 5, "x", [], [5], {}, [{"name": ["x"], "value": {}}], {"value": 10**400}):
        for key in ("objective", "objectives", "status", "memory", "degrees"):
            verify_plan(scenario, plan, stated_metrics={key: junk})
