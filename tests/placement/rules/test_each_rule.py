"""Each rule alone: a placement it allows, one it forbids, and `post` = `check` on all of them."""

from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from ortools.sat.python import cp_model

from autopar.placement.machine import LayerTask, Machine, Rules
from autopar.placement.rules import RULES, Posting, broken

BY_NAME = {rule.name: rule for rule in RULES}
NOW = np.array([0, 1, 1, 2, 2, 3])
# Name of the rule, task, a placement that it allows, one that it forbids, what it then says.
CASES = [
    (
        "every_expert",
        LayerTask(np.ones(4), Machine(3, 2)),
        [0, 1, 2, 3, 0, 2],
        [0, 1, 2, 1, 0, 2],
        "expert 3 has no slot (1 of 4 have none)",
    ),
    (
        "distinct_gpus",
        LayerTask(np.ones(3), Machine(2, 2)),
        [0, 1, 2, 1],
        [0, 1, 2, 2],
        "GPU 1 holds expert 2 2 times",
    ),
    (
        "distinct_nodes",
        LayerTask(np.ones(4), Machine(4, 2, num_nodes=2), Rules(distinct_nodes=True)),
        [0, 1, 2, 3, 3, 2, 1, 0],
        [0, 1, 0, 3, 3, 2, 1, 2],
        "node 0 holds expert 0 2 times",
    ),
    (
        "forbidden_pairs",
        LayerTask(np.ones(4), Machine(3, 2), Rules(forbidden_pairs=((3, 1), (0, 2)))),
        [0, 1, 2, 3, 1, 2],
        [0, 1, 2, 3, 1, 3],
        "GPU 2 holds both 3 and 1, which may not share a GPU",
    ),
    (
        "groups_on_nodes",
        LayerTask(np.ones(4), Machine(4, 2, num_nodes=2), Rules(num_groups=2)),
        [2, 3, 3, 2, 0, 1, 0, 1],
        [2, 3, 3, 0, 0, 1, 0, 1],
        "group 0 lies on 2 nodes; expected one",
    ),
    (
        "few_moves",
        LayerTask(np.ones(4), Machine(3, 2), current=NOW, max_moves=2),
        [1, 0, 1, 3, 0, 2],
        [2, 0, 1, 3, 0, 2],
        "3 replicas move; expected at most 2",
    ),
]
NAMES = [case[0] for case in CASES]


def assignments(task):
    """Every way to fill the slots, up to the order of slots on a GPU; twins among them."""
    rows = list(combinations_with_replacement(range(len(task.load)), task.machine.slots_per_gpu))
    return product(rows, repeat=task.machine.num_gpus)


class Collector(cp_model.CpSolverSolutionCallback):
    def __init__(self, posting):
        super().__init__()
        self.posting, self.boards = posting, set()

    def on_solution_callback(self):
        held = [[] for _ in range(self.posting.task.machine.num_gpus)]
        for (expert, _, gpu), lie in self.posting.lies.items():
            if self.value(lie):
                held[gpu].append(expert)
        self.boards.add(tuple(tuple(sorted(row)) for row in held))


def solutions(task, rules):
    """Every placement that CP-SAT finds under some rules."""
    model, experts = cp_model.CpModel(), range(len(task.load))
    num_gpus = task.machine.num_gpus
    counted = {
        (e, k): model.new_bool_var(f"counted[{e},{k}]")
        for e in experts
        for k in range(1, num_gpus + 1)
    }
    lies = {
        (e, k, g): model.new_bool_var(f"lies[{e},{k},{g}]")
        for e, k in counted
        for g in range(num_gpus)
    }
    posting = Posting(model, task, lies, counted)
    for rule in rules:
        rule.post(posting)
    solver, found = cp_model.CpSolver(), Collector(posting)
    solver.parameters.num_workers = 1
    solver.parameters.enumerate_all_solutions = True
    assert solver.solve(model, found) in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return found.boards


def test_every_rule_has_a_case():
    assert [rule.name for rule in RULES] == NAMES


@pytest.mark.parametrize(("name", "task", "allowed", "forbidden", "said"), CASES, ids=NAMES)
def test_a_rule_allows_one_placement_and_forbids_another(name, task, allowed, forbidden, said):
    assert list(BY_NAME[name].check(task, np.array(allowed))) == []
    assert next(iter(BY_NAME[name].check(task, np.array(forbidden)))) == said
    assert broken(task, np.array(allowed)) == []
    assert f"{name}: {said}" in broken(task, np.array(forbidden))


@pytest.mark.parametrize(("name", "task"), [case[:2] for case in CASES], ids=NAMES)
def test_post_allows_what_check_allows_on_every_placement(name, task):
    """The form of the variables keeps twins out, and `every_expert` gives them their meaning."""
    form = [BY_NAME["every_expert"], BY_NAME["distinct_gpus"]]
    rules = [*form, *(rule for rule in [BY_NAME[name]] if rule not in form)]
    allowed = set()
    ruled_out = 0
    for board in assignments(task):
        slots = np.array(board).ravel()
        if any(list(rule.check(task, slots)) for rule in form):
            continue
        if any(list(rule.check(task, slots)) for rule in rules):
            ruled_out += 1
        else:
            allowed.add(board)
    assert allowed
    assert ruled_out or name in ("every_expert", "distinct_gpus")
    assert solutions(task, rules) == allowed


def test_post_and_check_agree_with_all_rules_at_once(boards):
    rules = Rules(distinct_nodes=True, forbidden_pairs=((0, 1),))
    now = np.array([0, 2, 1, 3, 1, 2, 3, 0])
    task = LayerTask(np.ones(4), Machine(4, 2, num_nodes=2), rules, now, max_moves=5)
    checked = {board for board in assignments(task) if not broken(task, np.array(board).ravel())}
    assert checked == set(boards(task)) == solutions(task, RULES)
    assert 0 < len(checked) < len(solutions(task, RULES[:3]))


def test_post_and_check_agree_on_groups_with_replicas(boards):
    task = LayerTask(np.ones(4), Machine(4, 2, num_nodes=2), Rules(num_groups=2))
    checked = {board for board in assignments(task) if not broken(task, np.array(board).ravel())}
    assert checked == set(boards(task)) == solutions(task, RULES)


def test_groups_are_as_many_on_every_node():
    task = LayerTask(np.ones(4), Machine(2, 4, num_nodes=2), Rules(num_groups=4))
    said = broken(task, np.array([0, 1, 2, 3, 3, 3, 3, 3]))
    assert "groups_on_nodes: node 0 has 4 groups; expected 2" in said
    assert "groups_on_nodes: node 1 has 1 groups; expected 2" in said


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ([0, 1, 2, 0, 1, 9], "a slot holds 9, which is no expert of the layer"),
        ([0, 1, 2, 0, 1, -1], "a slot holds -1, which is no expert of the layer"),
    ],
)
def test_a_slot_holds_an_expert_of_the_layer(slots, said):
    task = LayerTask(np.ones(3), Machine(3, 2))
    assert list(BY_NAME["every_expert"].check(task, np.array(slots))) == [said]


@pytest.mark.parametrize("name", ["distinct_nodes", "forbidden_pairs", "groups_on_nodes"])
def test_a_rule_that_is_not_asked_for_forbids_nothing(name):
    task = LayerTask(np.ones(2), Machine(2, 2, num_nodes=2))
    assert list(BY_NAME[name].check(task, np.array([0, 0, 0, 0]))) == []
    assert list(BY_NAME["few_moves"].check(task, np.array([0, 0, 0, 0]))) == []
