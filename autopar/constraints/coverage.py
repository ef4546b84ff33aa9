"""Coverage: partition (one expert shard on every GPU), every_gpu (none idle), up_to."""

from collections import Counter
from collections.abc import Iterator

from autopar.constraints.base import Constraint
from autopar.problem import BoolArray, Candidates, Plan, Problem
from autopar.specs import Scenario
from autopar.units import plural


class Coverage(Constraint):
    """Which GPUs may stay idle, and how many shards a GPU may hold."""

    name = "coverage"
    because = "the scenario says which GPUs must work"

    def states(self, scenario: Scenario) -> str:
        """Name the coverage, and what a partition fixes."""
        llm, num_gpus = scenario.llm, scenario.cluster.num_gpus
        match scenario.requirements.coverage:
            case "up_to":
                return f"at most the {plural(num_gpus, 'GPU')} of the cluster"
            case "every_gpu":
                return f"none of the {plural(num_gpus, 'GPU')} idle"
        shards = num_gpus / (llm.num_layers * llm.num_experts)
        return (
            f"partition: one expert shard on each of {num_gpus:,} GPUs, so {llm.num_layers} layers "
            f"x {llm.num_experts} experts leave {shards:g} GPUs per expert and "
            f"{num_gpus / llm.num_layers:g} per layer"
        )

    def allowed_rows(self, problem: Problem, rows: Candidates) -> BoolArray:
        """Candidates that use the GPUs that the coverage demands."""
        coverage = problem.scenario.requirements.coverage
        used = rows.gpus_used(problem.num_layers)
        allowed: BoolArray = used <= problem.num_gpus
        if coverage != "up_to":
            allowed &= used == problem.num_gpus
        if coverage == "partition":
            grid_per_layer = (rows.spread == 0) | (rows.spread * rows.pp == problem.num_layers)
            allowed &= grid_per_layer & (rows.ep == problem.num_experts) & (rows.replicas == 1)
        return allowed

    def check(self, plan: Plan, problem: Problem) -> Iterator[str]:
        """Count GPUs and the shards on each."""
        coverage = problem.scenario.requirements.coverage
        idle = problem.num_gpus - plan.num_gpus
        if coverage != "up_to" and idle:
            yield f"{idle} of {problem.num_gpus} GPUs are idle"
        if coverage != "partition":
            return
        if plan.replicas != 1:
            yield f"{plan.replicas} replicas, but a partition is one copy of the model"
        shards = Counter(plan.placement[:, 4].tolist())
        crowded = [gpu for gpu, count in shards.items() if count > 1]
        if crowded:
            first = min(crowded)
            yield f"{len(crowded)} GPUs hold more than one expert shard, the first is {first}"
        if len(shards) < plan.num_gpus:
            yield f"{plan.num_gpus - len(shards)} GPUs hold no expert shard"
