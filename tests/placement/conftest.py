"""Exhaustive answers on small layers, in plain Python that shares nothing with the package."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import strategies as st

from autopar.placement.machine import NO_RULES, LayerTask, Machine, Rules

Board = tuple[tuple[int, ...], ...]


def _is_lawful(board: Board, task: LayerTask) -> bool:
    """Whether experts per GPU, none twice on one, keep every rule that the task asks for."""
    machine, rules, num_experts = task.machine, task.rules, len(task.load)
    wide = machine.num_gpus // machine.num_nodes
    nodes = [board[first : first + wide] for first in range(0, machine.num_gpus, wide)]
    if {expert for held in board for expert in held} != set(range(num_experts)):
        return False
    if any(a in held and b in held for a, b in rules.forbidden_pairs for held in board):
        return False
    on_nodes = [[expert for held in node for expert in held] for node in nodes]
    if rules.distinct_nodes and any(len(set(held)) != len(held) for held in on_nodes):
        return False
    if rules.num_groups > 1:
        size = num_experts // rules.num_groups
        groups = [{expert // size for expert in held} for held in on_nodes]
        if sum(map(len, groups)) != rules.num_groups or len(set(map(len, groups))) > 1:
            return False
    if task.current is not None and task.max_moves is not None:
        before = task.current.reshape(machine.num_gpus, -1).tolist()
        moves = sum(expert not in old for held, old in zip(board, before, strict=True)
                    for expert in held)  # fmt: skip
        if moves > task.max_moves:
            return False
    return True


def _boards(task: LayerTask) -> Iterator[Board]:
    sets = list(combinations(range(len(task.load)), task.machine.slots_per_gpu))
    for board in product(sets, repeat=task.machine.num_gpus):
        if _is_lawful(board, task):
            yield board


def _fullest(board: Sequence[Sequence[int]], task: LayerTask) -> float:
    held = [expert for row in board for expert in row]
    load = [float(w) / held.count(e) if e in held else 0.0 for e, w in enumerate(task.load)]
    speeds = task.machine.speeds or (1.0,) * task.machine.num_gpus
    mean = sum(speeds) / len(speeds)
    return max(
        sum(load[expert] for expert in row) * mean / speed
        for row, speed in zip(board, speeds, strict=True)
    )


@pytest.fixture(scope="session")
def boards() -> Callable[[LayerTask], Iterator[Board]]:
    """List every placement that keeps the rules, as the experts of each GPU in order."""
    return _boards


@pytest.fixture(scope="session")
def fullest_of() -> Callable[[Sequence[Sequence[int]], LayerTask], float]:
    """Load of the fullest GPU over its speed, added up expert by expert."""
    return _fullest


@pytest.fixture(scope="session")
def optimum() -> Callable[[LayerTask], float | None]:
    """Least load of the fullest GPU over all placements that keep the rules; None without any."""

    def best(task: LayerTask) -> float | None:
        return min((_fullest(board, task) for board in _boards(task)), default=None)

    return best


@pytest.fixture(scope="session")
def keeps() -> Callable[[np.ndarray, LayerTask], bool]:
    """Whether slots are a placement that keeps every rule."""

    def check(slots: np.ndarray, task: LayerTask) -> bool:
        rows = slots.reshape(task.machine.num_gpus, task.machine.slots_per_gpu).tolist()
        return all(len(set(row)) == len(row) for row in rows) and _is_lawful(
            tuple(tuple(sorted(row)) for row in rows), task
        )

    return check


@st.composite
def _small_layers(
    draw: st.DrawFn, *, per_gpu: int | None = None, ruled: bool = False, speeds: bool = False
) -> LayerTask:
    """Layers whose placements can all be listed: up to 6 experts, 4 GPUs and 3 slots per GPU."""
    shapes = [
        shape
        for shape in [(2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (2, 3), (3, 3)]
        if per_gpu in (None, shape[1])
    ]
    num_gpus, slots = draw(st.sampled_from(shapes))
    least, most = max(2, slots), min(5 if num_gpus > 3 else 6, num_gpus * slots)
    num_experts = draw(st.integers(least, most))
    load = draw(st.lists(st.integers(0, 60), min_size=num_experts, max_size=num_experts))
    load[draw(st.integers(0, num_experts - 1))] += 1  # some load there is
    given = draw(st.lists(st.sampled_from([1.0, 0.8, 2.0]), min_size=num_gpus, max_size=num_gpus))
    nodes = [n for n in (1, 2, 3) if num_gpus % n == 0] if ruled else [1]
    machine = Machine(
        num_gpus, slots, draw(st.sampled_from(nodes)), tuple(given) if speeds else None
    )
    rules = NO_RULES
    if ruled:
        pairs = st.lists(st.sampled_from(list(combinations(range(num_experts), 2))), max_size=2)
        groups = [
            n for n in (1, 2, 3, 4, 6) if num_experts % n == 0 and n % machine.num_nodes == 0
        ] or [1]
        rules = Rules(draw(st.booleans()), tuple(draw(pairs)), draw(st.sampled_from(groups)))
    return LayerTask(np.array(load, dtype=float), machine, rules)


@pytest.fixture(scope="session")
def small_layers() -> Callable[..., st.SearchStrategy[LayerTask]]:
    """Return a strategy of small layers; ruled: with rules and nodes, speeds: with unlike GPUs."""
    return _small_layers
