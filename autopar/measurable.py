"""What to measure for one kind of cost: its operation, with the size that it has in a plan.

Steps of running sequences alone and steps with prompts do the same operation at other sizes: named
is that of the steps which give the first objective more of the time of this kind.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from autopar.costs.operations.arrays import real
from autopar.costs.operations.precisions import ACTIVATION_BYTES
from autopar.costs.pieces import Physics
from autopar.costs.shape import Shape
from autopar.costs.steps import Step, Steps
from autopar.layouts import candidate_of
from autopar.problem import AnyPlan, Candidate, Candidates, DisaggregatedPlan
from autopar.specs import Scenario
from autopar.specs.roles import ROLES, role_scenario
from autopar.units import format_bytes, plural
from autopar.variables import Choice, PairChoice

# What every operation is called where its size is not told.
_NAMES = {
    "gemm": "matrix products",
    "experts": "grouped products of routed experts",
    "attention": "attention",
    "elementwise": "kernels that only move data",
    "all_reduce": "all-reduce",
    "gather": "all-gather and reduce-scatter",
    "fabric_collectives": "all-reduce over the fabric between domains",
    "all_to_all": "all-to-all between expert ranks",
    "point_to_point": "messages from GPU to GPU",
    "host": "the engine's host between steps",
}


def operations(
    scenario: Scenario, plan: AnyPlan, rival: Choice | PairChoice | None, kind: str
) -> tuple[str, ...]:
    """Return the operations of one kind in a plan, in words; the rival's, where it has none.

    rival: None where none wins.
    """
    partition = scenario.requirements.coverage == "partition"
    if isinstance(plan, DisaggregatedPlan):
        ours = [candidate_of(plan.roles[role], one_grid_per_layer=False) for role in ROLES]
        asked = [(f"{role}: ", role_scenario(scenario, role)) for role in ROLES]
    else:
        ours = [candidate_of(plan, one_grid_per_layer=partition)]
        asked = [("", scenario)]
    if isinstance(rival, PairChoice):
        theirs = [rival.prefill.candidate, rival.decode.candidate]
    else:
        theirs = [] if rival is None else [rival.candidate]
    for candidates in filter(None, (ours, theirs)):
        said = [
            f"{before}{words}"
            for (before, part), candidate in zip(asked, candidates, strict=True)
            if (words := _Work.of(part, candidate, kind).says(kind))
        ]
        if said:
            return tuple(said)
    return (_NAMES[kind],)


@dataclass(frozen=True)
class _Timed:
    """One layout of a scenario, whose steps are timed."""

    scenario: Scenario
    row: Candidate
    groups: int

    @cached_property
    def rows(self) -> Candidates:
        """The layout as a row of the cost tables."""
        return Candidates.of([self.row])

    @cached_property
    def steps(self) -> Steps:
        """Its steps."""
        shape = Shape.of(self.scenario.llm, self.scenario.workload)
        return Steps.of(shape, self.rows, np.array([self.groups]))

    def deciding(self, kind: str) -> Step:
        """Return the step that gives the first objective more of the time of a kind."""
        steps, each = self.steps, list(self._weighted())
        if not each:
            return steps.fullest
        times = [weight * self._time_us(step, kind) for step, weight in each]
        if max(times) <= 0:  # none takes any: the more frequent one
            times = [weight for _, weight in each]
        return each[times.index(max(times))][0]

    def _weighted(self) -> Iterator[tuple[Step, float]]:
        """Yield the steps with how often each counts in the first objective."""
        steps = self.steps
        share = float(steps.share[0])
        quiet, loaded = 1 - share, share  # of the time between two steps
        if self.scenario.recipe.objectives[0] == "ttft":
            waits = float(steps.waits[0])
            quiet, loaded = waits * quiet, float(steps.passes[0]) + waits * loaded
        if steps.quiet is not None:
            yield steps.quiet, quiet if steps.loaded is not None else 1.0
        if steps.loaded is not None:
            yield steps.loaded, loaded if steps.quiet is not None else 1.0

    def _time_us(self, step: Step, kind: str) -> float:
        """Time of one kind of operation in a step of the whole model: what a factor of 2 adds."""
        own = self.scenario.cost_factors
        double = own.model_copy(update={kind: 2 * getattr(own, kind)})
        moved = self.scenario.model_copy(update={"cost_factors": double})
        return self._step_us(moved, step) - self._step_us(self.scenario, step)

    def _step_us(self, scenario: Scenario, step: Step) -> float:
        physics, rows = Physics.of(scenario), self.rows
        clock, groups = physics.clock, np.array([float(self.groups)])
        total = clock.embedding_us(step) + clock.head_us(rows, step) + clock.host_us(step)
        total = total + clock.drafts_us(rows, groups, step)
        for layer, count in zip(physics.shape.kinds, physics.shape.counts[:, -1], strict=True):
            total = total + count * clock.layer_us(layer, rows, groups, step)
        if self.row.pp > 1:
            stage_gpus = real(rows.tp * rows.cp) * groups
            total = total + (self.row.pp - 1) * clock.hop_us(stage_gpus, step)
        return float(total[0])


@dataclass(frozen=True, slots=True)
class _Work:
    """The step of one layout that decides on one kind of cost."""

    scenario: Scenario
    shape: Shape
    candidate: Candidate
    step: Step
    groups: int

    @classmethod
    def of(cls, scenario: Scenario, candidate: Candidate, kind: str) -> "_Work":
        """Return the step that matters more to the first objective, by the time of a kind."""
        shape = Shape.of(scenario.llm, scenario.workload)
        layers = -(-shape.num_layers // candidate.pp)
        groups = candidate.stage_attn_dp(layers)
        row = replace(candidate, attn_dp=groups, spread=candidate.stage_spread(layers))
        step = _Timed(scenario, row, groups).deciding(kind)
        return cls(scenario, shape, row, step, groups)

    def says(self, kind: str) -> str:
        """Return the operation with its size; empty where the layout has none of the kind."""
        one, hidden = self.candidate, self.shape.architecture.hidden_size
        tokens = round(float(self.step.rank_tokens[0]))
        size = format_bytes(tokens * hidden * ACTIVATION_BYTES)
        match kind:
            case "all_reduce" if 1 < one.tp <= self._unit_gpus:
                return f"all-reduce of {size} over {one.tp} GPUs"
            case "fabric_collectives" if one.tp > self._unit_gpus:
                domains = -(-one.tp // self._unit_gpus)
                return f"all-reduce of {size} over {one.tp} GPUs in {domains} domains"
            case "fabric_collectives" if one.tp * one.cp > self._unit_gpus:
                return f"exchange of context over {one.cp} GPUs, {one.tp} apart, between domains"
            case "fabric_collectives" if self.scenario.llm.is_moe and one.etp > self._unit_gpus:
                return f"sums over the {one.etp} shards of an expert, between domains"
            case "gather" if 1 < one.tp * one.cp <= self._unit_gpus:
                return f"all-gather and reduce-scatter of {size} over {one.tp * one.cp} GPUs"
            case "all_to_all" if self.groups * one.cp > 1 and one.ep > 1:
                return (
                    f"dispatch and combine of {plural(tokens, 'token')} per GPU, {hidden:,} wide, "
                    f"to experts on {one.ep} GPUs"
                )
            case "point_to_point" if one.pp > 1:
                return f"a message of {size} from stage to stage"
            case "gemm":
                rows = plural(tokens, "row")
                what = f"matrix products of {rows}, {hidden:,} wide, sharded by TP{one.tp}"
                return f"{what}{self._of_which}"
            case "experts" if self.scenario.llm.is_moe:
                return self._experts()
            case "attention":
                return self._attention()
            case "elementwise":
                return f"normalisation of {plural(tokens, 'token')}, {hidden:,} wide"
            case "host" if self.scenario.engine is not None:
                count = plural(round(float(self.step.sequences[0])), "running sequence")
                return f"time of {self.scenario.engine.name} between two steps with {count}"
        return ""

    def _experts(self) -> str:
        llm = self.scenario.llm
        chosen = float(self.step.stage_tokens[0]) * (llm.experts_per_token or 1)
        held = -(-llm.num_experts // self.candidate.ep)
        each = max(1, round(chosen / llm.num_experts))
        return (
            f"grouped products of {plural(held, 'expert')} on one GPU, {plural(each, 'token')} each"
        )

    @property
    def _of_which(self) -> str:
        """What a step with prompts consists of, where it has running sequences too."""
        prompts, running = (
            round(float(tokens[0]))
            for tokens in (self.step.prompt_tokens, self.step.sequences * self.step.queries)
        )
        if not prompts or not running:
            return ""
        return f" ({prompts:,} tokens of prompts, {running:,} of running sequences)"

    @property
    def _unit_gpus(self) -> int:
        cluster = self.scenario.cluster
        return max(cluster.gpus_per_node, cluster.domain_gpus)

    def _attention(self) -> str:
        sequences = round(float(self.step.sequences[0]))
        tokens = plural(round(float(self.step.prompt_tokens[0])), "token")
        prompts = f"prompts of {tokens} in a step"
        if not sequences:
            return f"attention of {prompts}, TP{self.candidate.tp}"
        context = plural(round(float(self.step.context[0])), "token")
        running = f"{plural(sequences, 'running sequence')} with {context} of context"
        if float(self.step.prompt_tokens[0]):
            return f"attention of {prompts}, and of {running}, TP{self.candidate.tp}"
        return f"attention of {running}, TP{self.candidate.tp}"
