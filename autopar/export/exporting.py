"""A plan and its scenario -> what starts it on an engine."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from autopar.errors import InexpressibleError
from autopar.export import megatron, sglang, trtllm, vllm
from autopar.export.hostfile import hostfiles
from autopar.export.judging import broken_rules
from autopar.export.kubernetes import manifests, placed_for_pods
from autopar.export.launch import Export, Launch, Written
from autopar.export.layout import Layout, layouts_of
from autopar.export.options import (
    NAMES,
    VERSIONS,
    Engine,
    Options,
    Target,
    checked_word,
    version_of,
)
from autopar.export.ranks import Rank
from autopar.export.releases import of_release
from autopar.export.router import reached, router_of
from autopar.export.stage_room import StageRoom, stage_rooms
from autopar.pairs import explicit_plan
from autopar.problem import AnyPlan, DisaggregatedPlan, Metrics, Plan
from autopar.results import VerifyReport
from autopar.specs import PlanSpec, Scenario
from autopar.specs.roles import ROLES, role_scenario
from autopar.trust import second_opinion
from autopar.verifier.layout import layout_of
from autopar.verifier.metrics import FloatArray, measure

_Parts = tuple[list[Launch], list[Written], list[Rank], list[str]]
_ENGINES: dict[Engine, Callable[[Layout, Options, int], _Parts]] = {
    "vllm": vllm.launches,
    "sglang": sglang.launches,
    "trtllm": trtllm.launches,
    "megatron": megatron.launches,
}


def export(
    scenario: Scenario, plan: PlanSpec | AnyPlan, target: Target, options: Options
) -> Export:
    """Return the commands, files and ranks that start a plan.

    Raises InexpressibleError if the engine has no words for it; SpecError if the plan cannot be
    read.
    """
    explicit = explicit_plan(plan, scenario) if isinstance(plan, PlanSpec) else plan
    options = completed(options, scenario)
    report = second_opinion(scenario, explicit)
    fullest, rooms = _fullest_parts(scenario, explicit, report)
    layouts, reasons = layouts_of(explicit, scenario, fullest)
    layouts = tuple(
        replace(one, capacity=replace(one.capacity, stages=rooms.get(one.role, ())))
        for one in layouts
    )
    broken, unsure = broken_rules(scenario, explicit, options.engine)
    if reasons or broken:
        raise InexpressibleError(NAMES[options.engine], reasons or broken)
    notes = _said(report)
    if unsure:
        notes.append(
            "not judged, as the model does not state its architecture: " + ", ".join(unsure)
        )
    return written(layouts, target, options, notes)


def written(
    layouts: Sequence[Layout], target: Target, options: Options, notes: Sequence[str] = ()
) -> Export:
    """Return layouts in the words of an engine.

    Raises InexpressibleError if it has none for them; SpecError if the version asked for lacks
    what they need.
    """
    cluster = layouts[0].cluster
    own = placed_for_pods(options, cluster.num_nodes) if target == "lws" else options
    launches, files, ranks, more = _parts(layouts, own)
    roles = _roles(launches)
    launches, of_version = of_release(options, launches)
    more = [*of_version, *more]
    router = None
    if target == "lws":
        name = layouts[0].name
        made, said = manifests(launches, files, own, name, cluster.gpus_per_node)
        launches, files, more = [], [made], [*more, *said]
    elif target == "hostfile":
        files = hostfiles(ranks, roles, options, cluster.gpus_per_node)
        launches = []
    else:
        router, beside, said = router_of(launches, own)
        files, more = [*files, *beside], [*more, *said, *reached(launches, router)]
    return Export(
        target=target,
        engine=options.engine,
        version=options.version,
        launches=tuple(launches),
        files=tuple(files),
        ranks=tuple(ranks),
        roles=roles,
        notes=tuple(dict.fromkeys((*notes, *more))),
        router=router,
        lacks=megatron.lacks(layouts[0])
        if options.engine == "megatron" and target != "hostfile"
        else "",
    )


def _roles(launches: Sequence[Launch]) -> tuple[str, ...]:
    """Return the role of each server, in the order of their numbers."""
    roles = {launch.server: launch.role for launch in launches}
    return tuple(roles[server] for server in sorted(roles))


def completed(options: Options, scenario: Scenario) -> Options:
    """Return options with what was not given: the newest version that is known, the model's name.

    Raises SpecError for a version or a path that is none.
    """
    version = options.version or VERSIONS[options.engine]
    version_of(version)
    path = options.model_path or scenario.llm.name
    return replace(options, version=version, model_path=checked_word(path, "--model-path"))


def _parts(layouts: Sequence[Layout], options: Options) -> _Parts:
    """Return commands, files, ranks and notes of all layouts, servers counted through."""
    commands: list[Launch] = []
    files: list[Written] = []
    ranks: list[Rank] = []
    notes: list[str] = []
    first = 0
    for layout in layouts:
        found = _ENGINES[options.engine](layout, options, first)
        commands += found[0]
        files += found[1]
        ranks += found[2]
        notes += found[3]
        first += layout.replicas
    return commands, files, ranks, notes


def _fullest_parts(
    scenario: Scenario, plan: AnyPlan, report: VerifyReport
) -> tuple[dict[str, Metrics | None], dict[str, tuple[StageRoom, ...]]]:
    """Return the metrics of each role with every part of memory on the GPU that has most of it.

    That is not always the GPU which is fullest altogether, and engines have one size for all.
    Besides, what each stage of a role has for its cache.
    """
    parts: dict[str, tuple[Plan, Scenario]] = {}
    if isinstance(plan, DisaggregatedPlan):
        parts = {role: (plan.roles[role], role_scenario(scenario, role)) for role in ROLES}
    else:
        parts = {"": (plan, scenario)}
    found: dict[str, Metrics | None] = {"": report.metrics, **report.roles}
    rooms: dict[str, tuple[StageRoom, ...]] = {}
    for role, (own, asked) in parts.items():
        metrics = found.get(role)
        if metrics is None:
            continue
        measured = measure(asked, own, layout_of(own, scenario.llm.num_layers))
        if measured is not None:
            loads = measured.loads
            rooms[role] = stage_rooms(own, loads, scenario.cluster.gpu.memory_bytes)
            found[role] = replace(
                metrics,
                weights_bytes=float(loads.weights_bytes.max()),
                kv_cache_bytes=_most(loads.kv_cache_bytes),
                activation_bytes=_most(loads.activation_bytes),
            )
    return found, rooms


def _most(per_gpu: FloatArray | None) -> float | None:
    return None if per_gpu is None else float(per_gpu.max())


def _said(report: VerifyReport) -> list[str]:
    """Return what is wrong with a plan that engines would start all the same."""
    return [f"the plan breaks its scenario: {v.kind}: {v.message}" for v in report.violations]
