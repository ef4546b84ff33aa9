"""What to measure for one kind of cost: its operation, with the size that it has in a plan."""

from dataclasses import dataclass, replace

import numpy as np

from autopar.costs.operations.precisions import ACTIVATION_BYTES
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
            if (words := _Work.of(part, candidate).says(kind))
        ]
        if said:
            return tuple(said)
    return (_NAMES[kind],)


@dataclass(frozen=True, slots=True)
class _Work:
    """The most frequent step of one layout."""

    scenario: Scenario
    shape: Shape
    candidate: Candidate
    step: Step
    groups: int

    @classmethod
    def of(cls, scenario: Scenario, candidate: Candidate) -> "_Work":
        """Return the step that a stage takes most often: of running sequences, if there are any."""
        shape = Shape.of(scenario.llm, scenario.workload)
        layers = -(-shape.num_layers // candidate.pp)
        groups = candidate.stage_attn_dp(layers)
        row = replace(candidate, attn_dp=groups, spread=candidate.stage_spread(layers))
        steps = Steps.of(shape, Candidates.of([row]), np.array([groups]))
        step = steps.quiet if steps.quiet is not None and steps.share[0] < 0.5 else steps.loaded
        step = step or steps.fullest
        return cls(scenario, shape, row, step, groups)

    def says(self, kind: str) -> str:
        """Return the operation with its size; empty where the layout has none of the kind."""
        one, hidden = self.candidate, self.shape.architecture.hidden_size
        tokens = round(float(self.step.rank_tokens[0]))
        size = format_bytes(tokens * hidden * ACTIVATION_BYTES)
        match kind:
            case "all_reduce" if one.tp > 1:
                return f"all-reduce of {size} over {one.tp} GPUs"
            case "gather" if one.tp * one.cp > 1:
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
                return f"matrix products of {rows}, {hidden:,} wide, sharded by TP{one.tp}"
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

    def _attention(self) -> str:
        sequences = round(float(self.step.sequences[0]))
        if sequences:
            context = plural(round(float(self.step.context[0])), "token")
            count = plural(sequences, "running sequence")
            return f"attention of {count} with {context} of context, TP{self.candidate.tp}"
        tokens = plural(round(float(self.step.prompt_tokens[0])), "token")
        return f"attention of prompts of {tokens} in a step, TP{self.candidate.tp}"
