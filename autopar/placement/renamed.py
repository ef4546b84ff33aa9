"""The same placement with its GPUs renamed, so that fewest replicas move.

GPUs that are alike may exchange all that they hold: that changes no load and no rule, and may save
most of the moves of a placement that was made anew.
"""

from typing import Any

import numpy as np

from autopar.placement.machine import IntArray, Machine

_NEVER = 1 << 20  # moves: of GPUs that are not alike


def renamed(slots: IntArray, current: IntArray, machine: Machine) -> IntArray:
    """Return the slots of a layer, GPU by GPU in the order that keeps most experts where they are.

    slots, current: the expert in each slot, shape (slots,). GPUs are alike on one node with one
    speed. Exact, by the assignment problem.
    """
    new, now = (some.reshape(machine.num_gpus, -1) for some in (slots, current))
    num_experts = int(max(new.max(), now.max())) + 1
    held = np.zeros((2, machine.num_gpus, num_experts), dtype=np.int64)
    np.put_along_axis(held[0], new, 1, axis=1)
    np.put_along_axis(held[1], now, 1, axis=1)
    moves = machine.slots_per_gpu - held[0] @ held[1].T  # of a new content on an old GPU
    alike = machine.node_of[:, None] == machine.node_of[None]
    alike &= machine.speed[:, None] == machine.speed[None]
    order = _assigned(np.where(alike, moves, _NEVER))
    placed = np.empty_like(new)
    placed[order] = new
    return placed.ravel()


def _assigned(costs: IntArray) -> IntArray:
    """Return the column of each row, all different, with the least sum."""
    # Untyped, and not always needed.
    from ortools.graph.python import (  # type: ignore[import-untyped]  # noqa: PLC0415
        linear_sum_assignment,
    )

    solver: Any = linear_sum_assignment.SimpleLinearSumAssignment()
    rows, columns = np.indices(costs.shape)
    solver.add_arcs_with_cost(rows.ravel(), columns.ravel(), costs.ravel())
    assert solver.solve() == solver.OPTIMAL  # every row may take its own column
    return np.array([solver.right_mate(row) for row in range(len(costs))])
