"""Measured rows with what was predicted for them, one figure each, and the trivial models beside.

A figure that a prediction is not about is not scored: TTFT under load holds the queue of a
benchmark that its source does not describe, so that it is scored for lone requests, and apart from
them for up to four clients.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from autopar.errors import SpecError
from autopar.specs import ServingCase, ServingRow, TrainingCase, TrainingRow
from autopar.specs.bands import TimeBand
from autopar.specs.counting import active_parameters
from autopar.unmeasured import Phase, Uses, assumed_operations
from autopar.validation.serving import (
    FEW,
    Prediction,
    Setup,
    bytes_read_us,
    predict,
    setup_of,
)
from autopar.validation.training import gpu_of, is_moe, training_figures

AnyCase = ServingCase | TrainingCase
# Names of the trivial models: all work at a share of the peak rate; the bytes of running sequences
# at a share of the bandwidth, with prompts at the peak.
FLOPS, BYTES = "flops", "bytes"
TRIVIAL = (FLOPS, BYTES)
# The figures of a prediction, and those of a row that they are compared with.
_METRICS = {
    "tpot_ms": "tpot_ms",
    "ttft_ms": "ttft_ms",
    "ttft_few_ms": "ttft_ms",
    "e2e_s": "e2e_s",
}

# The bands of answers (`autopar.bands.bands_for`) that figures of each metric are in.
_BANDS: Mapping[str, TimeBand] = {
    "tpot_ms": "tpot",
    "e2e_s": "static",
    "ttft_ms": "prompt",
    "ttft_few_ms": "ttft",
}

# What is scored of a run, by its mode, in words.
_WORDS: Mapping[str, str] = {
    "closed_loop": "neither TPOT, nor TTFT of up to four clients",
    "static": "no time of a static batch",
    "prefill": "no rate of prompts",
    "decode": "neither TPOT nor a rate",
}
# What is computed in a run, by its mode.
_PHASES: Mapping[str, Phase] = {
    "closed_loop": "serving",
    "static": "serving",
    "prefill": "prefill",
    "decode": "decode",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measured figure and its prediction, both in the unit that ends the metric's name.

    cell: source, model and kind of GPU. case: what plans have in common that compete. trivial:
    what each trivial model says but for one constant. rate: measured and predicted tokens/s per
    GPU, by which plans of a case are ordered; None where the row has none. is_held_back: whether
    requests waited for longer than the prompts of all clients take, so that the engine let fewer of
    them run than its source says, by a limit that is not stated. layout: the degrees of the run.
    """

    source: str
    row: str
    cell: str
    case: str
    llm: str
    gpu: str
    engine: str
    mode: str
    is_moe: bool
    has_kernels: bool
    metric: str
    predicted: float
    measured: float
    trivial: dict[str, float]
    rate: tuple[float, float] | None = None
    is_held_back: bool = False
    num_gpus: int = 1
    layout: str = ""

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted

    @property
    def band(self) -> TimeBand | None:
        """The error band that the figure is in; None for what no answer of `solve` states."""
        if self.metric == "us_per_token":
            return "prompt" if self.mode == "prefill" else "tpot"
        return _BANDS.get(self.metric)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scored figures, and why rows gave none, with their number."""

    outcomes: tuple[Outcome, ...]
    left_out: dict[str, int]


def evaluate(
    cases: Iterable[tuple[str, AnyCase]],
    *,
    bare: bool = False,
    engine: Mapping[str, object] | None = None,
) -> Evaluation:
    """Predict every row of the cases; each comes with the name of its source.

    bare: as if no kernel had been measured on any of the GPUs, to see how far off that is. engine:
    fields that replace those of every case's engine, for fits.
    """
    outcomes: list[Outcome] = []
    left_out: dict[str, int] = {}
    changed: dict[int, Setup] = {}  # setups live as long as this process
    for source, case in cases:
        for place in range(len(case.rows)):
            try:
                if isinstance(case, TrainingCase):
                    outcomes += _trained(source, case, case.rows[place])
                    continue
                row = case.rows[place]
                setup = setup_of(case, row.num_gpus, bare=bare)
                if engine is not None:
                    setup = changed.setdefault(id(setup), setup.with_engine(engine))
                own = list(_scored(source, case, row, setup, predict(setup, case.mode, row)))
                outcomes += own
                if not own:
                    reason = f"{_WORDS[case.mode]}: no figure of it is scored"
                    left_out[reason] = left_out.get(reason, 0) + 1
            except SpecError as error:
                reason = f"{case.llm} on {case.cluster}: {error}"
                left_out[reason] = left_out.get(reason, 0) + 1
    return Evaluation(tuple(outcomes), left_out)


def _trained(source: str, case: TrainingCase, row: TrainingRow) -> Iterator[Outcome]:
    tokens = row.global_batch_sequences * row.sequence_tokens / row.num_gpus
    gpu = gpu_of(case)
    question = f"{source} {case.llm} {row.global_batch_sequences} x {row.sequence_tokens}"
    build = partial(
        _outcome,
        source,
        case,
        row,
        cell=f"{source} {case.llm} {gpu}",
        case_name=f"{question} on {row.num_gpus}",
        gpu=gpu,
        is_moe=is_moe(case),
    )
    for metric, predicted, measured, trivial in training_figures(case, row):
        rate = (tokens / measured, tokens / predicted) if metric == "step_s" else None
        yield build(metric, predicted, measured, trivial=trivial, rate=rate)


def _scored(
    source: str, case: ServingCase, row: ServingRow, setup: Setup, found: Prediction
) -> Iterator[Outcome]:
    gpu = setup.cluster.gpu
    model = case.llm.removesuffix("-fp8").removesuffix("-nvfp4")  # a model is one in any precision
    shape = f"in {row.input_tokens}, out {row.output_tokens}, concurrency {row.concurrency}"
    stored = "" if case.precisions is None else str(sorted(case.precisions.model_dump().values()))
    rates = row.tokens_per_s_per_gpu, found.tokens_per_s_per_gpu
    build = partial(
        _outcome,
        source,
        case,
        row,
        cell=f"{source} {model} {gpu.name}",
        case_name=f"{source} {case.llm} {stored} {gpu.name} {case.engine} {case.date} {shape}",
        gpu=gpu.name,
        is_moe=setup.llm.is_moe,
        has_kernels=not assumed_operations(
            setup.llm, gpu, setup.engine, _PHASES[case.mode], _uses(row, is_moe=setup.llm.is_moe)
        ),
        is_held_back=_is_held_back(case, row, found),
        rate=(rates[0], rates[1]) if rates[0] is not None and rates[1] is not None else None,
    )
    for metric, predicted, measured in _figures(case, row, found):
        yield build(metric, predicted, measured, trivial=_trivial(metric, row, setup, found))


def _uses(row: ServingRow, *, is_moe: bool) -> Uses:
    """Return which GPUs of a run talk to each other."""
    etp = row.etp or max(row.stage_gpus // row.ep, 1)
    return Uses(
        sums=row.tp * row.cp > 1 or (is_moe and etp > 1),
        exchanges=is_moe and row.cp * row.attn_dp > 1,
    )


def _outcome(
    source: str,
    case: AnyCase,
    row: ServingRow | TrainingRow,
    metric: str,
    predicted: float,
    measured: float,
    *,
    cell: str,
    case_name: str,
    gpu: str,
    is_moe: bool,
    trivial: dict[str, float],
    rate: tuple[float, float] | None,
    has_kernels: bool = True,
    is_held_back: bool = False,
) -> Outcome:
    """Return one figure of a row with what every row says of itself."""
    return Outcome(
        source=source,
        row=row.id,
        cell=cell,
        case=case_name,
        llm=case.llm,
        gpu=gpu,
        engine=case.engine or "not named",
        mode=case.mode,
        is_moe=is_moe,
        has_kernels=has_kernels,
        metric=metric,
        predicted=predicted,
        measured=measured,
        trivial=trivial,
        rate=rate,
        is_held_back=is_held_back,
        num_gpus=row.num_gpus,
        layout=_layout(row),
    )


def _layout(row: ServingRow | TrainingRow) -> str:
    """Return the degrees of a run, and what else of a training run makes another plan."""
    said = f"TP{row.tp} PP{row.pp} CP{row.cp} DP{row.attn_dp} EP{row.ep} x {row.replicas}"
    if isinstance(row, ServingRow):
        return said
    return f"{said}, micro-batch {row.micro_batch_sequences}, {row.virtual_stages} chunks"


def _is_held_back(case: ServingCase, row: ServingRow, found: Prediction) -> bool:
    if case.mode != "closed_loop" or row.ttft_ms is None or found.prompt_ms is None:
        return False
    return row.concurrency > FEW and row.ttft_ms > row.concurrency * found.prompt_ms


def _figures(
    case: ServingCase, row: ServingRow, found: Prediction
) -> Iterator[tuple[str, float, float]]:
    """Yield the figures that both sides state; a rate alone counts as the time of a token."""
    stated = 0
    for metric, figure in _METRICS.items():
        predicted, measured = getattr(found, metric), getattr(row, figure)
        if predicted is not None and measured is not None:
            stated += 1
            yield metric, predicted, measured
    ours, theirs = found.tokens_per_s_per_gpu, row.tokens_per_s_per_gpu
    if not stated and case.mode in ("prefill", "decode") and ours and theirs:
        yield "us_per_token", 1e6 / ours, 1e6 / theirs


def _trivial(metric: str, row: ServingRow, setup: Setup, found: Prediction) -> dict[str, float]:
    """Return times in the metric's order of magnitude: work over peak, bytes over bandwidth."""
    architecture, gpu = setup.llm.architecture, setup.cluster.gpu
    assert architecture is not None  # predicted without it, nothing would have come of it
    per_token_us = 2e6 * active_parameters(architecture) / gpu.peak_flops_per_s / row.stage_gpus
    # Of one attention group of a replica; a phase alone states the sequences of all of them.
    own = found.batch or max(row.concurrency // (row.attn_dp * row.replicas), 1)
    batch, read_us = own * row.attn_dp, bytes_read_us(setup, row, own)
    if metric == "us_per_token":
        return {FLOPS: per_token_us, BYTES: read_us}
    if metric in ("ttft_ms", "ttft_few_ms"):
        return {FLOPS: per_token_us * row.input_tokens / 1e3, BYTES: read_us / 1e3}
    # Of a request, while it runs: the prompts of the others, once each.
    prompts_us = per_token_us * batch * row.input_tokens / max(row.output_tokens, 1)
    if metric == "tpot_ms":
        met_us = prompts_us * (row.concurrency > 1)
        flops_us = per_token_us * batch + met_us
        return {FLOPS: flops_us / 1e3, BYTES: (read_us + met_us) / 1e3}
    flops_us = per_token_us * batch + prompts_us
    steps = row.output_tokens / 1e6
    return {FLOPS: flops_us * steps, BYTES: (read_us + prompts_us) * steps}
