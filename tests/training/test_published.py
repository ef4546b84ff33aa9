"""Published training runs against what is predicted from their configurations alone.

Tolerances are for the whole of a group; results/training-fits.md has every run.
"""

from itertools import combinations
from statistics import mean, median

import pytest

from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.training import memory, step_us

pytestmark = pytest.mark.measured

RANKING = "vtrain-2023"
GIB = 2**30


@pytest.fixture(scope="module")
def runs(toys):
    """Group, row, predicted / measured of every run with a time."""
    found = []
    for document, llm, cluster, row in toys.published():
        if row.step_s is not None:
            ratio = step_us(llm, cluster, row).total_us / 1e6 / row.step_s
            group = llm.name if document == RANKING else "experts" if llm.is_moe else "dense"
            found.append((group, row, ratio))
    return found


@pytest.mark.parametrize(
    ("group", "count", "mean_error", "median_error"),
    [
        ("dense", 25, 0.08, 0.03),
        ("experts", 9, 0.12, 0.09),
        ("gpt-3.6b", 7, 0.12, 0.07),
        ("gpt-39b", 14, 0.12, 0.07),
    ],
)
def test_step_times(runs, group, count, mean_error, median_error):
    errors = [abs(ratio - 1) for name, _, ratio in runs if name == group]
    assert len(errors) == count
    assert mean(errors) < mean_error
    assert median(errors) < median_error


@pytest.mark.parametrize(("group", "least"), [("gpt-3.6b", 0.9), ("gpt-39b", 0.7)])
def test_plans_are_ranked(runs, group, least):
    pairs = [(row.step_s, row.step_s * ratio) for name, row, ratio in runs if name == group]
    signs = [
        1 if (one[0] - two[0]) * (one[1] - two[1]) > 0 else -1
        for one, two in combinations(pairs, 2)
    ]
    assert mean(signs) > least  # Kendall's tau


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        ("korthikanti22-0001", 0.03),
        ("korthikanti22-0002", 0.03),
        ("korthikanti22-0005", 0.03),
        ("korthikanti22-0006", 0.03),
        ("ptdp21-0007", 0.05),
        ("dgxc-0011", 0.05),
        ("dgxc-0022", 0.05),
        ("mbridge-0080", 0.05),
        ("mbridge-0106", 0.05),
    ],
)
def test_the_best_documented_runs(runs, run, tolerance):
    (ratio,) = (ratio for _, row, ratio in runs if row.id == run)
    assert ratio == pytest.approx(1, abs=tolerance)


def test_memory_is_within_3_percent(toys):
    compared = 0
    for _, llm, _, row in toys.published():
        found = memory(llm, row)
        if row.state_gib is not None:
            assert found.state_bytes / GIB == pytest.approx(row.state_gib, rel=0.035)
        if row.activation_gib is not None:
            assert found.activations_bytes / GIB == pytest.approx(row.activation_gib, rel=0.03)
            compared += 1
    assert compared == 4


def test_what_ran_is_said_to_fit(toys):
    """And of the two that did not, the one whose memory is overdrawn by state alone is found."""
    too_much = []
    for _, llm, cluster, row in toys.published():
        needed = memory(llm, row).total_bytes + RUNTIME_RESERVE_BYTES
        if (row.step_s or row.out_of_memory) and needed > cluster.gpu.memory_bytes:
            too_much.append(row.id)
    assert too_much == ["nanotron-3682"]
