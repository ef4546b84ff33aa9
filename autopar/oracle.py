"""The exhaustive answer on small problems: every candidate, every split, every packing.

Nothing here is clever, so that it can be believed: no bounds, no programmes, no solver. It shares
the candidate table and the cost tables with the solver, and judges plans by `check` alone.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations

from autopar.constraints.base import PlugIn
from autopar.costs.scaling import rates_to_int, sizes_to_int, times_to_int
from autopar.problem import Candidate, Plan, Problem, StageCosts
from autopar.segments import plan_costs
from autopar.unfold import unfold

Vector = tuple[int, ...]


def splits(num_layers: int, num_stages: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to cut `num_layers` layers in `num_stages` non-empty runs."""
    for cuts in combinations(range(1, num_layers), num_stages - 1):
        edges = (0, *cuts, num_layers)
        yield tuple(b - a for a, b in pairwise(edges))


def plans(problem: Problem, candidate: Candidate, *, every_packing: bool) -> Iterator[Plan]:
    """Yield every plan of one candidate that differs in its split or, if asked, in its blocks.

    every_packing: with one grid per layer, also every order of blocks (factorially many).
    """
    for split in splits(problem.num_layers, candidate.pp):
        if candidate.spread == 0 and every_packing:
            for blocks in permutations(range(problem.num_layers)):
                yield unfold(problem, candidate, split, layer_blocks=blocks)
        else:
            yield unfold(problem, candidate, split)


def feasible_plans(
    problem: Problem, constraints: Sequence[PlugIn], *, every_packing: bool = False
) -> Iterator[tuple[Plan, StageCosts]]:
    """Yield every plan that all constraints accept, with the costs of its stages."""
    for candidate in problem.candidates:
        for plan in plans(problem, candidate, every_packing=every_packing):
            if not any(True for c in constraints for _ in c.check(plan, problem)):
                yield plan, plan_costs(plan, problem)


def best(
    problem: Problem,
    constraints: Sequence[PlugIn],
    objectives: Sequence[str],
    *,
    every_packing: bool = False,
) -> tuple[Vector, list[Plan]] | None:
    """Return the lexicographically best value and all plans that reach it; None if there is none.

    objectives: names among throughput, ttft, tpot, traffic, memory, gpus. Values are integers in
    the quanta of `costs.scaling`, turned so that less is better, since ties are decided on
    integers.
    """
    found: list[tuple[Vector, Plan]] = []
    for plan, costs in feasible_plans(problem, constraints, every_packing=every_packing):
        found.append((tuple(_value(name, plan, costs) for name in objectives), plan))
    if not found:
        return None
    left = found
    for level in range(len(objectives)):
        top = min(vector[level] for vector, _ in left)
        left = [item for item in left if item[0][level] == top]
    return left[0][0], [plan for _, plan in left]


def _value(name: str, plan: Plan, costs: StageCosts) -> int:
    if name == "throughput":
        return -int(min(rates_to_int(costs.tokens_per_s)))
    if name == "ttft":
        return int(sum(times_to_int(costs.time_us)))
    if name == "tpot":
        assert costs.tpot_us is not None
        return int(max(times_to_int(costs.tpot_us)))
    if name == "memory":
        return int(max(sizes_to_int(costs.memory_bytes)))
    return plan.num_gpus if name == "gpus" else plan.pp - 1
