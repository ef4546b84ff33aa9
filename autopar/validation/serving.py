"""What the analytic cost model predicts for one measured run of a serving engine.

`docs/measured.md`, "Measured runs", has the formulas. A stage's time comes from `AnalyticCosts`
under the phase that the run was in; what a benchmark does with it (a closed loop, a static batch)
is arithmetic on such times.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from autopar.catalog import load_scenario
from autopar.costs.analytic import AnalyticCosts
from autopar.problem import Candidate, Candidates, IntArray, StageCosts
from autopar.specs import (
    LLM,
    Cluster,
    Engine,
    Recipe,
    Scenario,
    ServingCase,
    ServingRow,
    Workload,
)
from autopar.specs.workload import MAX_BATCH_SEQUENCES, ExpertLoad

# Clients of a closed loop that hardly queue: their TTFT is that of requests that come at random.
FEW = 4
_RECIPE = Recipe.model_validate({"name": "measured"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted figures of one row, in the units of the row; None where it has no such figure.

    ttft_few_ms: TTFT of two to four clients, as answers of `solve` state it. prompt_ms: of a prompt
    that is alone. batch: running sequences of one attention group that the prediction is for, less
    than the concurrency where memory holds no more.
    """

    ttft_ms: float | None = None
    ttft_few_ms: float | None = None
    tpot_ms: float | None = None
    e2e_s: float | None = None
    tokens_per_s_per_gpu: float | None = None
    prompt_ms: float | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """The model, the GPUs, the engine and the routing of a case; one object for each of these."""

    llm: LLM
    cluster: Cluster
    engine: Engine | None
    expert_load: ExpertLoad

    @property
    def prompts_first(self) -> bool:
        """Whether running sequences wait while prompts are computed."""
        return self.engine is not None and self.engine.prompts_first

    def with_engine(self, changes: Mapping[str, object]) -> "Setup":
        """Return the setup with some fields of its engine replaced."""
        engine = self.engine or Engine.model_validate({"name": "changed"})
        return replace(self, engine=engine.model_copy(update=dict(changes)))

    def costs(self, phase: str, **work: int) -> AnalyticCosts:
        """Return the cost model for a phase of work.

        Raises SpecError where the model cannot do such work.
        """
        return _costs(self, phase, tuple(sorted(work.items())))


def setup_of(case: ServingCase, num_gpus: int, *, bare: bool = False) -> Setup:
    """Return the parts of a case, from the catalogue, with nodes for `num_gpus` GPUs at least.

    bare: as if nobody had measured the kernels of the GPU.

    Raises SpecError for a name that the catalogue lacks.
    """
    precisions = () if case.precisions is None else tuple(case.precisions.model_dump().items())
    return _setup(case.llm, case.cluster, precisions, case.engine, case.expert_load, num_gpus, bare)


@lru_cache(maxsize=256)
def _setup(
    llm: str,
    cluster: str,
    precisions: tuple[tuple[str, str], ...],
    engine: str | None,
    expert_load: ExpertLoad,
    num_gpus: int,
    bare: bool,
) -> Setup:
    workload = "decode-256x4k"  # any; every prediction has a workload of its own
    parts = {"llm": llm, "cluster": cluster, "workload": workload}
    scenario = load_scenario(
        parts=parts if engine is None else parts | {"engine": engine},
        overrides=[f"llm.precisions.{part}={value}" for part, value in precisions],
    )
    nodes = -(-num_gpus // scenario.cluster.gpus_per_node)
    changes: dict[str, object] = {"num_nodes": max(nodes, scenario.cluster.num_nodes)}
    if bare:
        changes["gpu"] = scenario.cluster.gpu.model_copy(update={"kernels": None})
    wide = scenario.cluster.model_copy(update=changes)
    return Setup(scenario.llm, wide, scenario.engine, expert_load)


@lru_cache(maxsize=1024)
def _costs(setup: Setup, phase: str, work: tuple[tuple[str, int], ...]) -> AnalyticCosts:
    fields: dict[str, str | int] = {"name": "measured", "phase": phase, **dict(work)}
    if setup.llm.is_moe:
        fields["expert_load"] = setup.expert_load
    scenario = {
        "name": "measured",
        "llm": setup.llm.model_copy(update={"max_context_tokens": None}),
        "cluster": setup.cluster,
        "workload": Workload.model_validate(fields),
        "engine": setup.engine,
        "recipe": _RECIPE,
    }
    return AnalyticCosts(Scenario.model_validate(scenario))


def predict(setup: Setup, mode: str, row: ServingRow) -> Prediction:
    """Return what the cost model predicts for a row of a case with this mode.

    Raises SpecError where the model does not fit the layout.
    """
    match mode:
        case "closed_loop":
            return _closed_loop(setup, row)
        case "static":
            return _static(setup, row)
        case "prefill":
            return _prefill(setup, row)
        case _:
            return _decode(setup, row)


def _closed_loop(setup: Setup, row: ServingRow) -> Prediction:
    """So many clients, each with one request at a time.

    A request meets the prompts of the other clients, not its own, once each while it runs. Where
    prompts go first and requests of equal length start together, they stay together: half of the
    prompts of the others are computed before a request's first token, half after it.
    """
    clients = max(1, -(-row.concurrency // (row.attn_dp * row.replicas)))
    lengths = {"input_tokens": row.input_tokens, "output_tokens": row.output_tokens}
    most = {"max_batch_sequences": max(clients, MAX_BATCH_SEQUENCES)}
    serving = setup.costs("serving", **lengths, **most)
    clients = max(1, -(-clients // row.pp))  # of one micro-batch
    batch = _fitting(serving, setup, row, clients)
    mixed = _stages(serving, row, [batch])
    quiet = _stages(setup.costs("decode", **lengths, **most), row, [batch])
    assert mixed.tpot_us is not None
    assert quiet.tpot_us is not None
    prompts_us = mixed.tpot_us.max() - quiet.tpot_us.max()
    met = (1 - 1 / batch) * (0.5 if setup.prompts_first else 1.0)
    tpot_us = float(quiet.tpot_us.max() + met * prompts_us)
    alone = _stages(setup.costs("prefill", input_tokens=row.input_tokens), row, [1])
    prompt_ms = float(alone.time_us.sum()) / 1e3
    request_us = (row.output_tokens - 1) * (quiet.tpot_us.max() + prompts_us)
    rate = row.attn_dp * row.replicas * row.pp * batch * row.output_tokens / request_us * 1e6
    return Prediction(
        ttft_ms=prompt_ms if row.concurrency == 1 else None,
        ttft_few_ms=float(mixed.time_us.sum()) / 1e3 if 1 < row.concurrency <= FEW else None,
        tpot_ms=tpot_us / 1e3 if row.output_tokens > 1 else None,
        tokens_per_s_per_gpu=rate / row.num_gpus if row.output_tokens > 1 else None,
        prompt_ms=prompt_ms,
        batch=batch,
    )


def _static(setup: Setup, row: ServingRow) -> Prediction:
    """One batch: all prompts in one pass, then a step for every further token of the answers."""
    batch = row.concurrency
    prompts = setup.costs(
        "prefill", batch_tokens=batch * row.input_tokens, sequence_tokens=row.input_tokens
    )
    first_us = float(_stages(prompts, row, [0]).time_us.sum())
    if row.output_tokens == 1:
        return Prediction(ttft_ms=first_us / 1e3, e2e_s=first_us / 1e6, batch=batch)
    tpot_us = _mean_step_us(setup, row, batch)
    total_us = first_us + (row.output_tokens - 1) * tpot_us
    return Prediction(
        ttft_ms=first_us / 1e3,
        tpot_ms=tpot_us / 1e3,
        e2e_s=total_us / 1e6,
        tokens_per_s_per_gpu=batch * row.output_tokens / total_us * 1e6 / row.num_gpus,
        batch=batch,
    )


def _prefill(setup: Setup, row: ServingRow) -> Prediction:
    """Prompts alone, of `step_tokens` tokens on each GPU in a step."""
    tokens = (row.step_tokens or row.input_tokens) * row.stage_gpus
    length = min(row.input_tokens, tokens)
    costs = setup.costs("prefill", batch_tokens=tokens, sequence_tokens=length)
    rate = float(_stages(costs, row, [0]).tokens_per_s.min())
    return Prediction(tokens_per_s_per_gpu=rate / row.num_gpus)


def _decode(setup: Setup, row: ServingRow) -> Prediction:
    """Running sequences alone, so many in all, in the middle of their answers."""
    sequences = row.concurrency // row.replicas
    tpot_us = _mean_step_us(setup, row, sequences)
    rate = sequences * row.replicas / tpot_us * 1e6
    return Prediction(tpot_ms=tpot_us / 1e3, tokens_per_s_per_gpu=rate / row.num_gpus)


def _mean_step_us(setup: Setup, row: ServingRow, sequences: int) -> float:
    """Time per output token of a given batch whose answers are half written."""
    length = row.input_tokens + row.output_tokens // 2
    costs = setup.costs("decode", batch_sequences=sequences, sequence_tokens=length)
    tpot_us = _stages(costs, row, [0]).tpot_us
    assert tpot_us is not None
    return float(tpot_us.max())


def _fitting(costs: AnalyticCosts, setup: Setup, row: ServingRow, clients: int) -> int:
    """Return how many of the clients' sequences memory holds at their full length, at least 1."""
    room = setup.cluster.gpu.memory_bytes
    low, high = 0, clients
    if _fullest_bytes(costs, row, high) <= room:
        return clients
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fullest_bytes(costs, row, middle) <= room else (low, middle)
    return max(low, 1)


def _fullest_bytes(costs: AnalyticCosts, row: ServingRow, batch: int) -> float:
    return float(_stages(costs, row, [batch]).memory_bytes.max())


def _stages(costs: AnalyticCosts, row: ServingRow, batch: list[int]) -> StageCosts:
    """Return the costs of all stages of a row, the layers dealt as evenly as can be."""
    first, stop = _even_split(costs.num_layers, row.pp)
    rows = Candidates.of([_candidate(costs, row, n) for n in batch for _ in range(row.pp)])
    return costs.stage_costs(rows, first, stop)


def _candidate(costs: AnalyticCosts, row: ServingRow, batch: int) -> Candidate:
    """Return the degrees of a row as a candidate; a dense model tiles a stage by tp alone."""
    if costs.is_moe:
        ep, etp, spread = row.ep, row.etp or max(row.stage_gpus // row.ep, 1), 1
    else:
        ep, etp, spread = 1, row.tp, row.cp * row.attn_dp
    return Candidate(
        replicas=row.replicas,
        pp=row.pp,
        tp=row.tp,
        cp=row.cp,
        attn_dp=row.attn_dp,
        ep=ep,
        etp=etp,
        spread=spread,
        batch=batch,
        chunks=costs.fewest_chunks,
    )


def _even_split(num_layers: int, pp: int) -> tuple[IntArray, IntArray]:
    edges = np.array([-(-num_layers * i // pp) for i in range(pp + 1)], dtype=np.int64)
    return edges[:-1], edges[1:]


def bytes_read_us(setup: Setup, row: ServingRow, batch: int) -> float:
    """Time to read weights and cache once at full bandwidth: what a trivial model knows."""
    length = row.input_tokens + row.output_tokens // 2
    sequences = batch * row.attn_dp * row.pp
    costs = setup.costs("decode", batch_sequences=sequences, sequence_tokens=length)
    stages = _stages(costs, row, [0])
    assert stages.kv_cache_bytes is not None
    bandwidth = setup.cluster.gpu.memory_bandwidth_bytes_per_s or 1.0
    return float((stages.weights_bytes + stages.kv_cache_bytes).sum() / bandwidth * 1e6)
