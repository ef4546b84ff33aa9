"""The analytic cost model, walked layer by layer and GPU by GPU (docs/model.md, "Analytic").

Work is dealt out as an engine would: sequences over attention groups, experts where the placement
says they are. A stage waits for its busiest GPU in every step, so its time is a maximum over what
was dealt, and its memory is known for every GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from autopar.costs.operations import parts
from autopar.problem import Plan, Stage
from autopar.specs import Cluster, ExpertFeedForward, Layer, Scenario
from autopar.units import format_us
from autopar.verifier.kinds import Bench
from autopar.verifier.layout import IntArray, Layout
from autopar.verifier.loads import Loads
from autopar.verifier.question import SCALE_BLOCK, Question, question
from autopar.verifier.reach import Reach, reach_notes, reaches
from autopar.verifier.storage import Held, experts_held, stored
from autopar.verifier.work import FloatArray, Work, work_of

_US_PER_S = 1e6


def analytic_loads(scenario: Scenario, plan: Plan, layout: Layout) -> Loads:
    """Return times and bytes of a plan under the analytic cost model.

    A replica is as fast as its slowest stage: in each of these, the tokens of one step take the
    time of one step.
    Raises SpecError if the scenario lacks the architecture, the memory bandwidth or the links.
    """
    ask = question(scenario, plan)
    works = [work_of(scenario.workload, plan, stage) for stage in plan.stages]
    held = experts_held(ask, plan)
    tick_us, passing_us, longest_us = _stage_times(ask, scenario.cluster, plan, layout, works, held)
    tokens = np.array([work.tokens for work in works])
    weights, caches, buffers = stored(ask, plan, layout, works, held, scenario.cluster.num_gpus)
    return Loads(
        tick_us=tick_us,
        passing_us=passing_us,
        tokens_per_s=float((tokens / tick_us).min(axis=1).sum() * _US_PER_S),
        weights_bytes=weights,
        kv_cache_bytes=caches,
        activation_bytes=buffers,
        reserved_bytes=parts.RUNTIME_RESERVE_BYTES,
        notes=(
            *reach_notes(scenario, plan, layout),
            *_fabric_notes(scenario, plan),
            *_block_notes(scenario, plan),
            *_uneven_notes(scenario, plan, passing_us, longest_us),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Pace:
    """Times of the parts of one stage, shape (turns,), on its slowest group; each found once."""

    benches: tuple[Bench, ...]  # one per turn
    known: dict[tuple[Layer, int], FloatArray] = field(default_factory=dict)

    def layer_us(self, kind: Layer, fullest: int) -> FloatArray:
        """Time of a layer whose fullest GPU holds so many of its expert shards."""
        if (kind, fullest) not in self.known:
            self.known[kind, fullest] = np.array(
                [bench.layer_us(kind, fullest).max() for bench in self.benches]
            )
        return self.known[kind, fullest]

    def ends_us(self, *, is_first: bool, is_last: bool) -> FloatArray:
        """Time of the embedding, of the head with the drafts or else of the hop, of the host."""
        total = np.zeros(len(self.benches))
        for turn, bench in enumerate(self.benches):
            if is_first:
                total[turn] += bench.embedding_us().max()
            if is_last:
                total[turn] += (bench.head_us() + bench.drafts_us()).max()
            else:
                total[turn] += bench.hop_us().max()
            total[turn] += bench.host_us().max()
        return total


def _stage_times(
    ask: Question, cluster: Cluster, plan: Plan, layout: Layout, works: list[Work], held: Held
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mean time of a step, the passing time and that of the step with most tokens.

    Each has shape (replicas, stages), us.
    """
    fullest = np.zeros((len(layout.own), ask.llm.num_layers), dtype=np.int64)
    np.maximum.at(fullest, (np.searchsorted(layout.own, held.copy), held.layer), held.shards)
    holder = np.zeros(len(plan.gpus), dtype=np.int64)  # followers hold what the first one does
    holder[layout.own] = np.arange(len(layout.own))
    times_us = np.zeros((3, len(plan.gpus), len(plan.stages)))
    tick_us, passing_us, longest_us = times_us
    for position, (stage, work) in enumerate(zip(plan.stages, works, strict=True)):
        found, which = reaches(cluster, stage, layout, position)
        for index, reach in enumerate(found):
            copies = np.flatnonzero(which == index)
            holders, same = np.unique(holder[copies], return_inverse=True)
            turns_us = _stage_us(ask, stage, work, fullest[holders], reach)[same.reshape(-1)]
            tick_us[copies, position] = (turns_us * work.tick).sum(axis=1)
            passing_us[copies, position] = (turns_us * work.passing).sum(axis=1)
            longest_us[copies, position] = turns_us[:, -1]
    return tick_us, passing_us, longest_us


def _stage_us(
    ask: Question, stage: Stage, work: Work, fullest: IntArray, reach: Reach
) -> FloatArray:
    """Time of a stage in each of its turns, shape (replicas, turns).

    fullest: shape (replicas, layers), expert shards of a layer on the GPU that holds most.
    """
    pace = _Pace(tuple(Bench(ask, stage, turn, reach) for turn in work.turns))
    ends_us = pace.ends_us(
        is_first=0 in stage.layers, is_last=ask.llm.num_layers - 1 in stage.layers
    )
    total = np.tile(ends_us, (len(fullest), 1))
    for layer in stage.layers:
        counts, which = np.unique(fullest[:, layer], return_inverse=True)
        times = np.stack([pace.layer_us(ask.kind(layer), n) for n in counts.tolist()])
        total += times[which.reshape(-1)]
    return total


# Of the stated TTFT; less is lost among the errors of kernels.
_WORTH_SAYING = 0.01


def _uneven_notes(
    scenario: Scenario, plan: Plan, passing_us: FloatArray, longest_us: FloatArray
) -> Iterator[str]:
    """Yield by how much TTFT grows because the parts of a prompt queue before the slowest stage.

    They are charged with the mean of the stages: c parts through stages of t_s take the sum of t_s
    and c - 1 times the longest, of which the metric has the mean.
    """
    work = scenario.workload
    if work.phase == "decode" or not work.is_open or plan.chunks < 2:
        return
    more_us = longest_us.max(axis=1) - longest_us.mean(axis=1)
    more_us = more_us * (plan.chunks - 1) * (1 + work.prompts_ahead)
    worst = int(np.argmax(passing_us.sum(axis=1) + more_us))
    if more_us[worst] > _WORTH_SAYING * passing_us[worst].sum():
        yield (
            f"the {plan.chunks} parts of a prompt are charged with the mean time of the "
            f"{plan.pp} stages; they queue before the slowest one, which makes TTFT "
            f"{format_us(float(more_us[worst]))} longer than stated"
        )


def _fabric_notes(scenario: Scenario, plan: Plan) -> Iterator[str]:
    """Yield groups whose collectives cross the fabric in every layer, which nobody measured."""
    cluster = scenario.cluster
    unit = max(cluster.gpus_per_node, cluster.domain_gpus)
    for key in ("tp", "etp") if scenario.llm.is_moe else ("tp",):
        widest = max(getattr(stage, key) for stage in plan.stages)
        if widest > unit:
            yield (
                f"{key} groups of {widest} GPUs cross the fabric between domains of {unit}: their "
                "all-reduces are worked out from its latency and bandwidth, not measured "
                "(--robust moves them apart, as fabric_collectives; "
                "requirements.tensor_parallel_within=domain keeps them inside)"
            )


def _block_notes(scenario: Scenario, plan: Plan) -> Iterator[str]:
    """Yield that vLLM takes experts cut inside of their scale blocks, but not with fast kernels.

    Source: vLLM 0.33.0, model_executor/layers/fused_moe/oracle/fp8.py, refine_fp8_moe_block_shape.
    """
    shapes, block = scenario.llm.architecture, SCALE_BLOCK.get(scenario.llm.precisions.experts)
    engines = {pack.name for pack in scenario.rule_packs}
    engines |= set() if scenario.engine is None else {scenario.engine.name}
    if shapes is None or block is None or "vllm" not in engines:
        return
    parts = (shapes.feed_forward_of(layer) for layer in shapes.layer_kinds)
    sizes = {part.expert_size for part in parts if isinstance(part, ExpertFeedForward)}
    cuts = {(size, stage.etp) for size in sizes for stage in plan.stages}
    for size, etp in sorted(cuts):
        if size % (block * etp):
            yield (
                f"etp {etp} leaves {size / etp:g} of {size} columns of an expert on a GPU, not "
                f"whole FP8 scale blocks of {block}: vLLM reads such experts with Triton kernels "
                "alone, which are slower than the times stated"
            )
