"""The layouts that `solve` searches, in words, and whether an explicit plan is one of them.

What `verify` accepts is wider: a plan may be right and lie outside. Bounds, "optimal", "unique" and
"infeasible" speak of the layouts searched, so every answer names them, and a comparison says which
plans they do not cover.
"""

from autopar.candidates import most_spread
from autopar.problem import AnyPlan, DisaggregatedPlan
from autopar.spans import ill_placed
from autopar.specs import Scenario
from autopar.specs.roles import ROLES, role_scenario


def searched(scenario: Scenario) -> str:
    """Return the kind of layouts that the scenario's coverage makes `solve` search."""
    widest = scenario.requirements.max_context_parallel_size
    same = f"all stages with the same tp, cp (at most {widest}), ep and etp"
    if scenario.requirements.coverage == "partition":
        return f"searched: one expert grid per layer, tiled by tp x cp; {same}" + _places(scenario)
    most = f" (at most {most_spread(scenario)})" if scenario.llm.is_moe else ""
    searched_stages = f"searched: stages of equal GPU count; {same}, attn_dp and spread{most}"
    searched_stages += _places(scenario) + _parts(scenario)
    if scenario.workload.phase == "disaggregated":
        return (
            f"{searched_stages}; all replicas of a role alike; prefill on the first GPUs, decode "
            "on the next ones that are whole units of its groups and stages"
        )
    return searched_stages


def _places(scenario: Scenario) -> str:
    """Say where groups lie, in clusters that have more than one place for them."""
    cluster = scenario.cluster
    if scenario.cost_model == "declared" or cluster.num_gpus <= cluster.gpus_per_node:
        return ""
    return "; groups inside a node or domain that has room for them, else evenly over domains"


def _parts(scenario: Scenario) -> str:
    work = scenario.workload
    if not work.is_open or work.phase == "decode":
        return ""
    *others, last = map(str, work.chunk_counts)
    counts = f"{', '.join(others)} or {last}" if others else last
    return f"; prompts in {counts} part{'s' * (counts != '1')}"


def outside(plan: AnyPlan, scenario: Scenario) -> str:
    """Return why a plan is none of the layouts that `solve` searches; empty if it is one."""
    if isinstance(plan, DisaggregatedPlan):
        return _pair_outside(plan, scenario)
    keys = ["tp", "cp", "ep", "etp"]
    partition = scenario.requirements.coverage == "partition"
    if not partition:
        keys += ["attn_dp", "spread"]
    differing = [key for key in keys if len({getattr(s, key) for s in plan.stages}) > 1]
    if differing:
        return f"{', '.join(differing)} differ between its stages"
    work = scenario.workload
    if work.is_open and work.phase != "decode" and plan.chunks not in work.chunk_counts:
        found = ", ".join(map(str, work.chunk_counts))
        return f"its prompts are in {plan.chunks} parts; searched are {found}"
    for stage in plan.stages:
        if stage.cp > scenario.requirements.max_context_parallel_size:
            return f"cp {stage.cp} is more than requirements.max_context_parallel_size"
        if not partition and scenario.llm.is_moe and stage.spread > most_spread(scenario):
            return f"spread {stage.spread} is more than is searched; see requirements.max_spread"
        if partition and stage.spread != len(stage.layers):
            return f"stage {stage.index} has not one expert grid per layer"
        if partition and stage.ep * stage.etp % (stage.tp * stage.cp):
            return "tp x cp does not tile the grid of one layer"
        if partition and _is_ragged(stage.num_gpus, scenario):
            return f"stage {stage.index} lies over three domains or more that are not whole"
        if not scenario.llm.is_moe and (stage.ep, stage.etp) != (1, stage.tp):
            return "the feed-forward of a dense model is not sharded by tp"
    return next(ill_placed(plan, scenario), "")


def _is_ragged(stage_gpus: int, scenario: Scenario) -> bool:
    """Whether a stage takes parts of more than two domains, where stages are laid out in a row."""
    cluster = scenario.cluster
    domain = max(cluster.gpus_per_node, cluster.domain_gpus)
    charged = scenario.cost_model != "declared"
    return charged and stage_gpus > 2 * domain and stage_gpus % domain != 0


def _pair_outside(plan: DisaggregatedPlan, scenario: Scenario) -> str:
    for role in ROLES:
        why = outside(plan.roles[role], role_scenario(scenario, role))
        if why:
            return f"{role}: {why}"
    last = max((g for replica in plan.prefill.gpus for s in replica for g in s), default=-1)
    first = min((g for replica in plan.decode.gpus for s in replica for g in s), default=last + 1)
    return "" if last < first else "decode does not lie after prefill"
