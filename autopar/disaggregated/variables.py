"""The CP-SAT variables of a pair: those of both roles, and what ties them together.

Every quantity of the pair is a linear expression or a variable that is made when it is first asked
for; `hint` gives all that were made a value.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autopar.disaggregated.queue import served, wait
from autopar.disaggregated.values import Values
from autopar.objectives.counted import Gpus, Traffic
from autopar.objectives.throughput import Throughput
from autopar.objectives.worst_stage import Memory, Tpot
from autopar.ortools_loader import load_cp_model
from autopar.problem import BoolArray, Candidates, IntArray, Problem
from autopar.segments import SegmentTable
from autopar.specs.roles import ROLES
from autopar.variables import PairChoice, PlanVariables

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

LARGEST_COST = 2**50
_LARGEST_PRODUCT = 2**61


class PairVariables:
    """All variables of a pair.

    prefill, decode: those of the roles, named `prefill.` and `decode.`.
    loads: those of prefill that the model may choose, in percent. allows_gpus: which numbers of
    GPUs both may have together; those that they cannot have are not told apart.
    """

    def __init__(
        self,
        model: "CpModel",
        problems: Sequence[Problem],
        rows: Sequence[Candidates],
        tables: Sequence[Sequence[SegmentTable]],
        loads: range,
        allows_gpus: Callable[[IntArray], BoolArray],
    ) -> None:
        self.model: Any = model
        self.loads = loads
        self._allows_gpus = allows_gpus
        self.problems = problems
        self.prefill, self.decode = (
            PlanVariables(model, problem, candidates, segments, f"{role}.")
            for role, problem, candidates, segments in zip(
                ROLES, problems, rows, tables, strict=True
            )
        )
        self._made: dict[str, Any] = {}

    @property
    def roles(self) -> tuple[PlanVariables, PlanVariables]:
        """The variables of prefill and of decode."""
        return self.prefill, self.decode

    def per_row(self, columns: Sequence[IntArray]) -> Any:
        """Return the sum over the roles of a number that each candidate fixes."""
        return sum(
            int(value) * pick
            for role, column in zip(self.roles, columns, strict=True)
            for value, pick in zip(column.tolist(), role.pick, strict=True)
        )

    @cached_property
    def rate(self) -> Any:
        """At most the rate of either role."""
        rates = [
            Throughput().post(self.model, role, problem)
            for role, problem in zip(self.roles, self.problems, strict=True)
        ]
        tops = [int(g.table.rate.max(initial=0)) for role in self.roles for g in role.groups]
        least = self._variable("rate", 0, max(tops, default=0))
        self.model.add(100 * least <= self.loads[-1] * rates[0])
        self.model.add(least <= rates[1])
        cp = load_cp_model()  # else CP-SAT may take the least rate that a choice allows
        self.model.add_decision_strategy([*rates, least], cp.CHOOSE_FIRST, cp.SELECT_MAX_VALUE)
        self._made |= {f"{n}.rate": v for n, v in zip(ROLES, rates, strict=True)}
        return least

    @cached_property
    def gpus(self) -> Any:
        """GPUs of both roles."""
        counted = Gpus()
        return sum(
            counted.post(self.model, role, problem)
            for role, problem in zip(self.roles, self.problems, strict=True)
        )

    @cached_property
    def boundaries(self) -> Any:
        """Stage boundaries of both roles."""
        counted = Traffic()
        return sum(
            counted.post(self.model, role, problem)
            for role, problem in zip(self.roles, self.problems, strict=True)
        )

    @cached_property
    def memory(self) -> Any:
        """At least the bytes on the fullest GPU of either role."""
        worst = [
            Memory().post(self.model, role, problem)
            for role, problem in zip(self.roles, self.problems, strict=True)
        ]
        tops = [int(g.table.memory.max(initial=0)) for role in self.roles for g in role.groups]
        most = self._variable("memory", 0, max(tops, default=0))
        for value in worst:
            self.model.add(most >= value)
        self._made |= {f"{n}.memory": v for n, v in zip(ROLES, worst, strict=True)}
        return most

    @cached_property
    def tpot(self) -> Any:
        """That of decode."""
        self._made["decode.tpot"] = Tpot().post(self.model, self.decode, self.problems[1])
        return self._made["decode.tpot"]

    @cached_property
    def handover(self) -> Any:
        """At least the time of every chosen stage to send or to receive."""
        columns = [
            (g.table.handover, g.segments)
            for role in self.roles
            for g in role.groups
            if g.table.handover is not None
        ]
        top = max((int(column.max(initial=0)) for column, _ in columns), default=0)
        slowest = self._variable("handover", 0, top)
        for column, segments in columns:
            for value, literal in zip(column.tolist(), segments, strict=True):
                self.model.add(slowest >= value).only_enforce_if(literal)
        return slowest

    @cached_property
    def load(self) -> list[Any]:
        """A literal for every load of prefill, at which it must serve the rate of the pair."""
        literals = [self.model.new_bool_var(f"load == {load}") for load in self.loads]
        self.model.add_exactly_one(literals)
        rate = self.rate
        for load, here in zip(self.loads, literals, strict=True):
            enough = 100 * rate <= load * self._made["prefill.rate"]
            self.model.add(enough).only_enforce_if(here)
        return literals

    @cached_property
    def wait(self) -> Any:
        """At least the time that a prompt waits for prefill at the chosen load."""
        columns = [
            (g.table.service, g.segments)
            for g in self.prefill.groups
            if g.table.service is not None
        ]
        top = max((int(column.max(initial=0)) for column, _ in columns), default=0)
        service = self._variable("service", 0, top)
        for column, segments in columns:
            for value, literal in zip(column.tolist(), segments, strict=True):
                self.model.add(service >= value).only_enforce_if(literal)
        longest = int(wait(np.array(self.loads[-1]), np.array(top)))
        waiting = self._variable("wait", 0, longest)
        for load, here in zip(self.loads, self.load, strict=True):
            long_enough = 2 * (100 - load) * waiting >= load * service
            self.model.add(long_enough).only_enforce_if(here)
        return waiting

    @cached_property
    def same_stages(self) -> Any:
        """A literal that says whether both roles cut the layers into the same stages."""
        same = self.model.new_bool_var("same_stages")
        differs = []
        both = zip(self.prefill.starts_stage, self.decode.starts_stage, strict=True)
        for layer, (mine, theirs) in enumerate(both):
            differ = self.model.new_bool_var(f"stages_differ[{layer}]")
            self.model.add(mine + theirs == 1).only_enforce_if(differ)
            self.model.add(mine == theirs).only_enforce_if(same)
            differs.append(differ)
        self.model.add_bool_or(same, *differs)
        self._made["same_stages"] = same
        return same

    def extract_load(self, solver: Any) -> int | None:
        """Read the chosen load; None where the model has no use for it."""
        literals = self.__dict__.get("load")
        if literals is None:
            return None
        return next(
            load for load, here in zip(self.loads, literals, strict=True) if solver.value(here)
        )

    @cached_property
    def ttft(self) -> Any:
        """The wait for prefill, the prompt through it, and its cache to decode."""
        return self.prefill.total_time() + self.handover + self.wait

    def rate_per_gpu(self, finer: int) -> Any:
        """At most the rate over the GPUs, `finer` times as fine as the rate."""
        worst = self._worst("rate_per_gpu", lambda rate, gpus: -(rate * finer // gpus), 0)
        for count, here in self.gpu_counts:
            self.model.add(-count * worst <= finer * self.rate).only_enforce_if(here)
        return -worst

    def cost(self, unit: int) -> Any:
        """At least `unit` times the GPUs over the rate."""
        tops = [int(g.table.rate.max(initial=1)) for role in self.roles for g in role.groups]
        most = min(LARGEST_COST, _LARGEST_PRODUCT // max(tops, default=1))
        worst = self._worst("cost", lambda rate, gpus: cost_of(unit, rate, gpus), most)
        product = self._variable("cost * rate", 0, _LARGEST_PRODUCT)
        self.model.add_multiplication_equality(product, [worst, self.rate])
        self.model.add(product >= unit * self.gpus)
        return worst

    def _worst(self, name: str, of: Callable[[IntArray, int], IntArray], most: int) -> Any:
        """Return a variable that is at least the value of every chosen segment on the GPUs used.

        Those of prefill count with their rates at the largest load.
        of: the value of segments by their rates, on so many GPUs; less is better. most: that the
        variable takes.
        """
        tables = [(group.table, group.segments) for role in self.roles for group in role.groups]
        busy = [self.loads[-1]] * len(self.prefill.groups) + [100] * len(self.decode.groups)
        rates = np.concatenate(
            [served(load, table.rate) for load, (table, _) in zip(busy, tables, strict=True)]
        )
        spans = [(of(rates, count), count, here) for count, here in self.gpu_counts]
        low = min((int(values.min()) for values, _, _ in spans), default=0)
        worst = self._variable(name, min(low, most), most)
        literals = [literal for _, segments in tables for literal in segments]
        for values, count, here in spans:
            for index, value in enumerate(values.tolist()):
                if value > low:
                    # One literal, not two: OR-Tools 9.15 calls a model infeasible whose objective
                    # is bounded by constraints that two literals enforce.
                    both = self.model.new_bool_var(f"{name}[{count},{index}]")
                    self.model.add_bool_or(both, ~here, ~literals[index])
                    self.model.add(worst >= value).only_enforce_if(both)
        return worst

    def hint(self, choice: PairChoice, prefill: Values, decode: Values) -> None:
        """Give the solver a complete starting point.

        prefill, decode: the values of the choice's roles, shape (1,).
        """
        self.prefill.hint(choice.prefill)
        self.decode.hint(choice.decode)
        rates = int(prefill.rate[0]), int(decode.rate[0])
        sizes = int(prefill.memory[0]), int(decode.memory[0])
        total = int(prefill.gpus[0] + decode.gpus[0])
        for count, here in self.__dict__.get("gpu_counts", ()):
            self.model.add_hint(here, count == total)
        known = {
            "prefill.rate": rates[0],
            "decode.rate": rates[1],
            "rate": min(rates[0] * choice.load // 100, rates[1]),
            "prefill.memory": sizes[0],
            "decode.memory": sizes[1],
            "memory": max(sizes),
            "decode.tpot": int(decode.tpot[0]),
            "handover": int(max(prefill.handover[0], decode.handover[0])),
            "service": int(prefill.service[0]),
            "same_stages": int(choice.prefill.split == choice.decode.split),
            "wait": int(wait(np.array(choice.load), prefill.service)[0]),
        }
        for load, here in zip(self.loads, self.__dict__.get("load", ()), strict=False):
            self.model.add_hint(here, load == choice.load)
        for name, value in known.items():
            if name in self._made:
                self.model.add_hint(self._made[name], value)

    @cached_property
    def gpu_counts(self) -> list[tuple[int, Any]]:
        """Every number of GPUs that a pair may have, with a literal that says that it has."""
        prefill, decode = ({g.table.gpus for g in role.groups} for role in self.roles)
        counts = np.array(sorted({p + d for p in prefill for d in decode}), dtype=np.int64)
        found = []
        for count in counts[self._allows_gpus(counts)].tolist():
            here = self.model.new_bool_var(f"gpus == {count}")
            self.model.add(self.gpus == count).only_enforce_if(here)
            found.append((count, here))
        self.model.add_exactly_one([here for _, here in found])
        return found

    def _variable(self, name: str, low: int, high: int) -> Any:
        self._made[name] = self.model.new_int_var(low, high, name)
        return self._made[name]


def cost_of(unit: int, rate: IntArray, gpus: IntArray | int) -> IntArray:
    """Return the cost of GPUs at a rate, rounded up; unit: that of one GPU at a rate of 1."""
    return np.minimum(-(-unit * gpus // np.maximum(rate, 1)), LARGEST_COST)


def chosen_values(
    problem: Problem, row: Candidates, table: SegmentTable, chosen: IntArray
) -> Values:
    """Return the values of one candidate with the chosen segments of its table, shape (1,)."""
    assert table.handover is not None  # tables of a role state it
    assert table.service is not None
    tpot = 0 if table.tpot is None else int(table.tpot[chosen].max())
    is_prefill = problem.scenario.workload.is_prefill
    numbers = (
        table.rate[chosen].min(),
        table.time[chosen].sum() if is_prefill else 0,
        table.handover[chosen].max(),
        tpot,
        len(chosen) - 1,
        table.memory[chosen].max(),
        row.gpus_used(problem.num_layers)[0],
        table.service[chosen].max(),
    )
    return Values(*(np.array([int(n)], dtype=np.int64) for n in numbers))
