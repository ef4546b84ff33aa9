"""What the walk of the analytic cost model needs of a scenario, checked."""

from dataclasses import dataclass

from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.costs.operations.loads import Law, RankFactors
from autopar.errors import SpecError
from autopar.problem import Plan
from autopar.specs import LLM, Architecture, Layer, Precisions, Scenario, Workload
from autopar.verifier.expert_loads import law_of_plan

SCALE_BLOCK = {"fp8_block": 128}  # columns per scale: the format's name in `specs.architecture`


@dataclass(frozen=True, slots=True)
class Question:
    """A model with its shapes, the work, and the hardware under it; law: of expert loads."""

    llm: LLM
    architecture: Architecture
    workload: Workload
    law: Law | RankFactors
    device: Device
    network: Network

    @property
    def precisions(self) -> Precisions:
        """How the parts of the model are stored."""
        return self.llm.precisions

    @property
    def hidden(self) -> int:
        """Width of the residual."""
        return self.architecture.hidden_size

    @property
    def num_drafts(self) -> int:
        """Tokens that are drafted per sequence and step."""
        speculation = self.workload.speculation
        return 0 if speculation is None else speculation.draft_tokens

    def kind(self, layer: int) -> Layer:
        """Return what one layer is made of."""
        return self.architecture.layer_kinds[self.architecture.kind_of_layer[layer]]


def question(scenario: Scenario, plan: Plan | None = None) -> Question:
    """Return the question of a scenario, and of the plan where something depends on it.

    Raises SpecError if it lacks the architecture, layers to draft with, the memory bandwidth or the
    links.
    """
    llm, work = scenario.llm, scenario.workload
    if llm.architecture is None:
        raise SpecError(
            f"llm.architecture: missing for model {llm.name!r}; cost_model 'analytic' needs it"
        )
    if work.speculation is not None and llm.architecture.next_token_prediction is None:
        raise SpecError(
            f"workload.speculation: model {llm.name!r} has no layers that draft tokens "
            "(llm.architecture.next_token_prediction)"
        )
    return Question(
        llm=llm,
        architecture=llm.architecture,
        workload=work,
        law=law_of_plan(work, llm, plan),
        device=Device.of(scenario.cluster.gpu, scenario.cost_factors, scenario.engine),
        network=Network.of(scenario.cluster, scenario.cost_factors, scenario.engine),
    )
