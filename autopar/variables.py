"""The CP-SAT variables of a plan, named; fixed, hinted and read back here and nowhere else.

One model holds everything: `pick[row]` chooses a candidate and with it every degree;
`segment[group][i,j)` makes layers i..j-1 a stage; `layer_stage[l]` and `layer_block[l]` say where a
layer runs; `expert_rank[l][e]` and the affine `expert_gpu(l, e, shard)` where an expert lives.

Symmetry. Layers are alike, GPUs of a block are alike, experts of a layer are alike. In `canonical`
mode blocks are taken in order and experts sit in rank order, so the last three are constants or
functions of the first two; in `explicit` mode, with one expert grid per layer, each is a free
variable. Both have the same optimum (docs/adr/0003).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.problem import BoolArray, Candidate, Candidates, IntArray, Problem
from autopar.segments import SegmentTable

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

DEGREES = ("replicas", "pp", "tp", "cp", "ep", "etp")


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """A segment table with one literal per segment."""

    table: SegmentTable
    segments: list[Any]

    @property
    def members(self) -> tuple[int, ...]:
        """Rows of the variables' candidate table that the group belongs to."""
        return self.table.members

    @property
    def first(self) -> IntArray:
        """First layer of each segment."""
        return self.table.first

    @property
    def stop(self) -> IntArray:
        """One past the last layer of each segment."""
        return self.table.stop

    def pair_rows(self, rows: Candidates) -> Candidates:
        """Return the group's candidate, once per segment."""
        return self.table.pair_rows(rows)


@dataclass(frozen=True, slots=True)
class Choice:
    """A point of the model: a candidate, the layers per stage, and what else was free."""

    row: int  # in the variables' candidate table
    candidate: Candidate
    split: tuple[int, ...]
    layer_blocks: tuple[int, ...] | None = None
    expert_ranks: IntArray | None = None


@dataclass(frozen=True, slots=True)
class PairChoice:
    """A point of the model of a disaggregated service: one choice for each role.

    load: share of the time in which prefill works, in percent.
    """

    prefill: Choice
    decode: Choice
    load: int


class PlanVariables:
    """All variables of one model, or of one role of it.

    rows: the candidates in the model. groups: their segments, with literals. prefix: of the names.
    replicas, pp, tp, cp, ep, etp, attn_dp, spread: integer variables; attn_dp and spread are 0
    where the stages differ.
    """

    def __init__(
        self,
        model: "cp_model.CpModel",
        problem: Problem,
        rows: Candidates,
        tables: Sequence[SegmentTable],
        prefix: str = "",
    ) -> None:
        self.model = model
        self.prefix = prefix
        self.problem = problem
        self.rows = rows
        self.pick = [model.new_bool_var(f"{prefix}pick[{i}]") for i in range(len(rows))]
        self.groups = [
            SegmentGroup(
                table,
                [
                    model.new_bool_var(f"{prefix}segment[{g}][{i},{j})")
                    for i, j in zip(table.first.tolist(), table.stop.tolist(), strict=True)
                ],
            )
            for g, table in enumerate(tables)
        ]
        self.explicit_blocks = (
            problem.scenario.recipe.cp_sat.symmetry == "explicit"
            and len(rows) > 0
            and bool((rows.spread == 0).all())
        )
        self._degrees = {key: self._degree(key) for key in (*DEGREES, "attn_dp", "spread")}
        self._starts: list[Any] | None = None
        self._stages: list[Any] | None = None
        self.layer_block = self._layer_blocks()
        self.expert_rank = self._expert_ranks()

    def __getattr__(self, name: str) -> Any:
        degrees = self.__dict__.get("_degrees", {})
        if name in degrees:
            return degrees[name]
        raise AttributeError(f"no variable {name!r}; degrees are {', '.join(degrees)}")

    def _degree(self, key: str) -> Any:
        column = getattr(self.rows, key).tolist()
        low, high = (min(column), max(column)) if column else (0, 0)
        if low == high:
            return self.model.new_constant(low)
        variable = self.model.new_int_var(low, high, f"{self.prefix}{key}")
        self.model.add(variable == sum(v * p for v, p in zip(column, self.pick, strict=True) if v))
        return variable

    @property
    def starts_stage(self) -> list[Any]:
        """For each layer, a Boolean: whether a stage begins with it."""
        if self._starts is None:
            self._starts = []
            by_layer: list[list[Any]] = [[] for _ in range(self.problem.num_layers)]
            for group in self.groups:
                for first, literal in zip(group.first.tolist(), group.segments, strict=True):
                    by_layer[first].append(literal)
            for layer, literals in enumerate(by_layer):
                start = self.model.new_bool_var(f"{self.prefix}starts_stage[{layer}]")
                self.model.add(start == sum(literals))
                self._starts.append(start)
        return self._starts

    @property
    def layer_stage(self) -> list[Any]:
        """For each layer, an integer variable: the index of its pipeline stage."""
        if self._stages is None:
            starts = self.starts_stage
            stages: list[Any] = []
            for layer in range(self.problem.num_layers):
                stage = self.model.new_int_var(0, layer, f"{self.prefix}layer_stage[{layer}]")
                before = stages[layer - 1] + starts[layer] if layer else 0
                self.model.add(stage == before)
                stages.append(stage)
            self._stages = stages
        return self._stages

    def _layer_blocks(self) -> list[Any]:
        """The GPU block of each layer in the first replica: its stage's, or its own grid's."""
        layers = range(self.problem.num_layers)
        if len(self.rows) == 0 or not (self.rows.spread == 0).all():
            return []  # equal stages take blocks in order: the block is the stage
        if not self.explicit_blocks:
            return [self.model.new_constant(layer) for layer in layers]
        last = self.problem.num_layers - 1
        return [self.model.new_int_var(0, last, f"layer_block[{layer}]") for layer in layers]

    def _expert_ranks(self) -> list[list[Any]]:
        """The rank of each expert in its layer's grid; with one expert per rank, a permutation."""
        experts = range(self.problem.num_experts)
        if not self.layer_block:
            return []
        if not self.explicit_blocks:
            in_order = [self.model.new_constant(expert) for expert in experts]
            return [in_order for _ in self.layer_block]
        last = self.problem.num_experts - 1
        return [
            [self.model.new_int_var(0, last, f"expert_rank[{layer},{e}]") for e in experts]
            for layer in range(self.problem.num_layers)
        ]

    def expert_gpu(self, layer: int, expert: int, shard: int) -> Any:
        """Return the GPU of one expert shard as a linear expression, or as a variable.

        With one grid per layer it is affine in the layer's block and the expert's rank. Otherwise
        experts sit on ranks in runs, and the GPU follows from the candidate and the layer's stage;
        asking for it rules out candidates that have no such shard.
        """
        if self.layer_block:
            ep, etp = int(self.rows.ep[0]), int(self.rows.etp[0])
            return (self.layer_block[layer] * ep + self.expert_rank[layer][expert]) * etp + shard
        return self._unfolded_expert_gpu(layer, expert, shard)

    def _unfolded_expert_gpu(self, layer: int, expert: int, shard: int) -> Any:
        from autopar.unfold import expert_gpu  # noqa: PLC0415  only this rare view needs it

        name = f"{self.prefix}expert_gpu[{layer},{expert},{shard}]"
        gpu = self.model.new_int_var(0, self.problem.num_gpus - 1, name)
        stage_of = self.layer_stage[layer]
        for group in self.groups:
            for first, stop, literal in zip(
                group.first.tolist(), group.stop.tolist(), group.segments, strict=True
            ):
                if not first <= layer < stop:
                    continue
                for row in group.members:
                    candidate = self.rows.row(row)
                    for stage in range(candidate.pp):
                        where = expert_gpu(
                            self.problem, candidate, stage, (first, stop), (layer, expert, shard)
                        )
                        here = self.model.new_bool_var(f"{name}@{row},{stage},{first}")
                        self.model.add(stage_of == stage).only_enforce_if(here)
                        self.model.add(stage_of != stage).only_enforce_if(
                            ~here, literal, self.pick[row]
                        )
                        if where is None:
                            self.model.add_bool_or(~here, ~literal, ~self.pick[row])
                        else:
                            self.model.add(gpu == where).only_enforce_if(
                                here, literal, self.pick[row]
                            )
        return gpu

    def forbid_rows(self, forbidden: BoolArray) -> None:
        """Rule candidates out."""
        for index in np.flatnonzero(forbidden).tolist():
            self.model.add(self.pick[index] == 0)

    def forbid_segments(self, group: SegmentGroup, forbidden: BoolArray) -> None:
        """Rule segments of a group out."""
        for index in np.flatnonzero(forbidden).tolist():
            self.model.add(group.segments[index] == 0)

    def total_time(self) -> Any:
        """Return the sum of the times of all stages, in the quanta of `costs.scaling`."""
        return sum(
            int(t) * literal
            for group in self.groups
            for t, literal in zip(group.table.time.tolist(), group.segments, strict=True)
        )

    def hint(self, choice: Choice) -> None:
        """Give the solver a complete starting point."""
        model = self.model
        for row, literal in enumerate(self.pick):
            model.add_hint(literal, row == choice.row)
        stops = np.cumsum(choice.split).tolist()
        chosen = set(zip([0, *stops[:-1]], stops, strict=True))
        for group in self.groups:
            here = choice.row in group.members
            for i, j, literal in zip(
                group.first.tolist(), group.stop.tolist(), group.segments, strict=True
            ):
                model.add_hint(literal, here and (i, j) in chosen)
        if self.explicit_blocks:
            blocks = choice.layer_blocks or range(self.problem.num_layers)
            for variable, block in zip(self.layer_block, blocks, strict=True):
                model.add_hint(variable, block)
            for layer, ranks in enumerate(self.expert_rank):
                for expert, rank in enumerate(ranks):
                    given = choice.expert_ranks
                    model.add_hint(rank, expert if given is None else int(given[layer, expert]))

    def fix(self, choice: Choice) -> None:
        """Force the model to one candidate and one split; blocks and ranks stay free."""
        self.model.add(self.pick[choice.row] == 1)
        stops = np.cumsum(choice.split).tolist()
        chosen = set(zip([0, *stops[:-1]], stops, strict=True))
        for group in self.groups:
            here = choice.row in group.members
            found = set()
            for i, j, literal in zip(
                group.first.tolist(), group.stop.tolist(), group.segments, strict=True
            ):
                use = here and (i, j) in chosen
                self.model.add(literal == int(use))
                found |= {(i, j)} if use else set()
            if here and found != chosen:  # a filter has already removed a segment it needs
                self.model.add_bool_or([])

    def extract(self, solver: "cp_model.CpSolver | cp_model.CpSolverSolutionCallback") -> Choice:
        """Read the chosen point."""
        row = next(i for i, p in enumerate(self.pick) if solver.value(p))
        pieces = []
        for group in self.groups:
            pieces += [
                (i, j)
                for i, j, literal in zip(
                    group.first.tolist(), group.stop.tolist(), group.segments, strict=True
                )
                if solver.value(literal)
            ]
        split = tuple(j - i for i, j in sorted(pieces))
        if not self.explicit_blocks:
            return Choice(row, self.rows.row(row), split)
        blocks = tuple(int(solver.value(b)) for b in self.layer_block)
        ranks = np.array([[solver.value(r) for r in layer] for layer in self.expert_rank])
        return Choice(row, self.rows.row(row), split, blocks, ranks.astype(np.int64))
