"""What ties the two roles together: GPUs, their coverage, the rate of the pair, its TTFT.

Each is posted on the variables of both roles, says in plain Python whether two layouts may go
together (`may_hold`, over bounds or over exact values), and checks an explicit plan. They bear the
names of the constraints that they are for one layout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autopar.costs.scaling import rates_to_int, times_to_int
from autopar.disaggregated.compatible import Compatibility
from autopar.disaggregated.objectives import gpus, rate
from autopar.disaggregated.queue import Queue, ttft
from autopar.disaggregated.values import Values
from autopar.pair_rules import PairRule
from autopar.problem import BoolArray, Candidates, DisaggregatedPlan, IntArray, Plan, Problem
from autopar.segments import plan_costs
from autopar.specs import Scenario
from autopar.topology import Footprint
from autopar.units import format_us

if TYPE_CHECKING:
    from autopar.disaggregated.variables import PairVariables


class PairConstraint:
    """Base: holds for everything."""

    name = ""

    def __init__(self, scenario: Scenario, queue: Queue) -> None:
        self.scenario = scenario
        self.queue = queue

    def least_rate(self) -> int:
        """Return the integer rate that both roles must reach, whatever their GPUs."""
        return 0

    def needed_rate(self, prefill: Values, decode: Values) -> IntArray:
        """Return the integer rate that pairs must reach."""
        return np.full(len(prefill.gpus), self.least_rate())

    def may_hold(self, prefill: Values, decode: Values) -> BoolArray:
        """Whether two roles can go together, by values that no plan of theirs beats."""
        return np.ones(len(prefill.gpus), dtype=np.bool_)

    def allows_gpus(self, counts: IntArray) -> BoolArray:
        """Whether a pair may have so many GPUs, shape (counts,)."""
        return np.ones(len(counts), dtype=np.bool_)

    def post(self, pair: "PairVariables") -> None:
        """Add the constraint to the CP-SAT model."""
        raise NotImplementedError

    def check(self, plan: DisaggregatedPlan, problems: "Problems") -> Iterator[str]:
        """Yield a sentence for every way in which an explicit plan breaks the constraint."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Problems:
    """The problems of both roles."""

    prefill: Problem
    decode: Problem

    def rate(self, plan: DisaggregatedPlan) -> float:
        """Return the output tokens per second that the cost tables say of a plan."""
        assert plan.load is not None  # plans of ours state it
        pairs = ((plan.prefill, self.prefill, plan.load / 100), (plan.decode, self.decode, 1.0))
        return min(
            float(np.min(plan_costs(p, problem).tokens_per_s)) * share
            for p, problem, share in pairs
        )

    def ttft_us(self, plan: DisaggregatedPlan) -> float:
        """Return the TTFT that the cost tables say of a plan."""
        assert plan.load is not None  # plans of ours state it
        prefill, decode = (
            plan_costs(p, problem)
            for p, problem in ((plan.prefill, self.prefill), (plan.decode, self.decode))
        )
        assert prefill.handover_us is not None
        assert decode.handover_us is not None
        handover_us = max(float(prefill.handover_us.max()), float(decode.handover_us.max()))
        assert prefill.service_us is not None
        share = plan.load / 100
        waiting_us = float(prefill.service_us.max()) * share / (2 * (1 - share))
        return waiting_us + float(prefill.time_us.sum()) + handover_us


class SharedGpus(PairConstraint):
    """Prefill takes GPUs from the first one on, decode from the last one back."""

    name = "gpu_blocks"

    def allows_gpus(self, counts: IntArray) -> BoolArray:
        """No more than there are."""
        result: BoolArray = counts <= self.scenario.cluster.num_gpus
        return result

    def post(self, pair: "PairVariables") -> None:
        """What both take does not overlap."""
        taken = [
            taken_gpus(problem, role.rows, footprint(problem, role.rows), is_first=is_first)
            for problem, role, is_first in zip(
                pair.problems, pair.roles, (True, False), strict=True
            )
        ]
        pair.model.add(pair.per_row(taken) <= self.scenario.cluster.num_gpus)

    def check(self, plan: DisaggregatedPlan, problems: Problems) -> Iterator[str]:
        """No GPU is in both roles."""
        shared = sorted(_ids(plan.prefill) & _ids(plan.decode))
        if shared:
            yield f"{len(shared)} GPUs are in both roles, the first is {shared[0]}"


class EveryGpu(PairConstraint):
    """Coverage every_gpu: no GPU is idle."""

    name = "coverage"

    def may_hold(self, prefill: Values, decode: Values) -> BoolArray:
        """Both together have no more than there are."""
        result: BoolArray = gpus(prefill, decode) <= self.scenario.cluster.num_gpus
        return result

    def allows_gpus(self, counts: IntArray) -> BoolArray:
        """As many as there are."""
        result: BoolArray = counts == self.scenario.cluster.num_gpus
        return result

    def post(self, pair: "PairVariables") -> None:
        """Both together have as many as there are."""
        pair.model.add(pair.gpus == self.scenario.cluster.num_gpus)

    def check(self, plan: DisaggregatedPlan, problems: Problems) -> Iterator[str]:
        """Count them."""
        idle = self.scenario.cluster.num_gpus - plan.num_gpus
        if idle:
            yield f"{idle} of {self.scenario.cluster.num_gpus} GPUs are idle"


class PairThroughput(PairConstraint):
    """The rate of the pair, in total and per GPU."""

    name = "throughput"

    def __init__(self, scenario: Scenario, queue: Queue) -> None:
        super().__init__(scenario, queue)
        limits = scenario.requirements
        self.total, self.per_gpu = limits.min_tokens_per_s, limits.min_tokens_per_s_per_gpu

    def least_rate(self) -> int:
        """The required rate."""
        return 0 if self.total is None else int(rates_to_int(np.array([self.total]))[0])

    def needed_rate(self, prefill: Values, decode: Values) -> IntArray:
        """The required rate, that for the GPUs used included."""
        needed = super().needed_rate(prefill, decode)
        if self.per_gpu is not None:
            total = gpus(prefill, decode).astype(np.float64)
            needed = np.maximum(needed, rates_to_int(self.per_gpu * total))
        return needed

    def may_hold(self, prefill: Values, decode: Values) -> BoolArray:
        """Both roles can reach the rate, prefill at the largest load."""
        reached = rate(prefill, decode, self.queue.most(prefill, decode))
        result: BoolArray = reached >= self.needed_rate(prefill, decode)
        return result

    def post(self, pair: "PairVariables") -> None:
        """The rate is at least that, in the integers of the tables."""
        if self.total is not None:
            pair.model.add(pair.rate >= self.least_rate())
        if self.per_gpu is None:
            return
        for count, here in pair.gpu_counts:  # rounding: the rate is no multiple of the GPUs
            needed = int(rates_to_int(np.array([self.per_gpu * count]))[0])
            pair.model.add(pair.rate >= needed).only_enforce_if(here)

    def check(self, plan: DisaggregatedPlan, problems: Problems) -> Iterator[str]:
        """The slower role sets the rate."""
        reached = problems.rate(plan)
        needed = max(self.total or 0.0, (self.per_gpu or 0.0) * plan.num_gpus)
        if reached < needed * (1 - 1e-9) - 1e-3:
            yield f"{reached:,.3f} tokens/s is below the required {needed:,.3f}"


class PairTtft(PairConstraint):
    """The wait for prefill, the prompt through it, its cache to decode: within the limit."""

    name = "ttft"

    def __init__(self, scenario: Scenario, queue: Queue) -> None:
        super().__init__(scenario, queue)
        self.limit_us = scenario.requirements.max_ttft_us or 0.0
        self._limit = int(times_to_int(np.array([self.limit_us]))[0])

    def may_hold(self, prefill: Values, decode: Values) -> BoolArray:
        """Both together are fast enough for a prompt now and then."""
        result: BoolArray = ttft(prefill, decode, np.ones_like(prefill.rate)) <= self._limit
        return result

    def post(self, pair: "PairVariables") -> None:
        """The sum is within the limit."""
        pair.model.add(pair.ttft <= self._limit)

    def check(self, plan: DisaggregatedPlan, problems: Problems) -> Iterator[str]:
        """Add up."""
        ttft_us = problems.ttft_us(plan)
        slack_us = 1e-3 * (plan.prefill.pp + 1 + self.queue.terms)
        if ttft_us > self.limit_us * (1 + 1e-9) + slack_us:
            yield f"TTFT {format_us(ttft_us)} is over the limit of {format_us(self.limit_us)}"


class BothRoles(PairConstraint):
    """A rule that relates both roles."""

    def __init__(self, scenario: Scenario, queue: Queue, rule: PairRule) -> None:
        super().__init__(scenario, queue)
        self.name = rule.name
        self.rule = rule

    def post(self, pair: "PairVariables") -> None:
        """Two kinds of layouts are not chosen together, or not with such splits."""
        rows = [role.rows for role in pair.roles]
        said = Compatibility.of((self.rule,), self.scenario, rows)
        prefill, decode = (
            [
                sum(p for p, own in zip(role.pick, kinds, strict=True) if own == kind)
                for kind in range(len(of_role))
            ]
            for role, of_role in zip(pair.roles, said.kinds, strict=True)
            for kinds in [of_role.of_rows(role.rows).tolist()]
        )
        for kind, mine in enumerate(prefill):
            never = [
                theirs for theirs, may in zip(decode, said.together[kind], strict=True) if not may
            ]
            if never:
                pair.model.add(mine + sum(never) <= 1)
            for other in np.flatnonzero(said.needs_same[kind]).tolist():
                pair.model.add(mine + decode[other] <= 1 + pair.same_stages)
            for other in np.flatnonzero(said.needs_other[kind]).tolist():
                pair.model.add(mine + decode[other] <= 2 - pair.same_stages)

    def check(self, plan: DisaggregatedPlan, problems: Problems) -> Iterator[str]:
        """Ask the rule of the stages of both."""
        return self.rule.check_pair(plan, {"prefill": problems.prefill, "decode": problems.decode})


def pair_constraints(
    scenario: Scenario, names: set[str], queue: Queue, rules: Sequence[PairRule] = ()
) -> tuple[PairConstraint, ...]:
    """Return the constraints of the pair; names: of the scenario's constraints that hold."""
    found: list[PairConstraint] = [SharedGpus(scenario, queue)]
    if "coverage" in names and scenario.requirements.coverage == "every_gpu":
        found.append(EveryGpu(scenario, queue))
    if "throughput" in names:
        found.append(PairThroughput(scenario, queue))
    if "ttft" in names:
        found.append(PairTtft(scenario, queue))
    found += [BothRoles(scenario, queue, rule) for rule in rules]
    return tuple(found)


def footprint(problem: Problem, rows: Candidates) -> Footprint:
    """Return what stages of a role's candidates need of the containers."""
    stage_gpus = rows.stage_gpus(np.ones_like(rows.pp))
    return problem.topology.footprint(rows.tp, rows.cp, rows.etp, stage_gpus)


def taken_gpus(problem: Problem, rows: Candidates, needs: Footprint, *, is_first: bool) -> IntArray:
    """Return the GPUs that a role takes away from the other, its own and those left unusable.

    needs: of each row. is_first: whether it takes them from the first GPU on, else from the last
    one back.
    """
    topology = problem.topology
    take = topology.taken_from_the_first if is_first else topology.taken_from_the_last
    return take(needs, rows.replicas * rows.pp)


def _ids(plan: Plan) -> set[int]:
    return {gpu for replica in plan.gpus for stage in replica for gpu in stage}
