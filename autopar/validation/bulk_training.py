"""Read the training runs of a table of measured runs, where what it does not say is known.

Beside the columns of every run: gbs, mbs, seq_len, vp, sp, zero, recompute, step_time_s, status; of
family `memory`: paramopt_mem_gib, act_mem_gib. What overlaps, how gradients are kept and whether
attention writes its scores stands in no column. It is known of the frameworks below, as the
documents of the same sources in the catalogue note it, and of single runs that these documents
describe: a line with the id, the degrees and the batch of one of them is predicted as it says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from autopar.catalog import names
from autopar.errors import shorten
from autopar.specs import Precisions, TrainingCase, TrainingRow
from autopar.validation.cells import Line, count, figure, is_empty, is_zero
from autopar.validation.shelf import shipped_cases


@dataclass(frozen=True, slots=True)
class _Framework:
    """What a framework does besides what a table says, and on which network.

    name: in the catalogue. clusters: by GPU. micro_batches: of models whose rows of memory do not
    state them. overlaps_tensor: where tensors are sharded.
    """

    name: str
    clusters: Mapping[str, str]
    always: Mapping[str, bool | int] = field(default_factory=dict)
    micro_batches: Mapping[str, int] = field(default_factory=dict)
    overlaps_tensor: bool = False


_FRAMEWORKS: dict[str, _Framework] = {
    # models/measurements/vtrain-2023.yaml; 800 Gbit/s for each node
    "megatron-deepspeed": _Framework(
        "megatron-deepspeed",
        {"a100-80gb": "64xhgx-a100-100g"},
        {"materialises_scores": True, "reduces_in_bf16": True},
    ),
    # models/measurements/korthikanti-2022.yaml; micro-batches: table 5 of the paper
    "megatron-lm": _Framework(
        "megatron-lm",
        {"a100-80gb": "384xhgx-a100"},
        {"materialises_scores": True},
        {"gpt-22b": 4, "gpt-175b": 1, "gpt-530b": 1},
    ),
    # models/measurements/dgx-cloud-2025.yaml
    "nemo (dgxc-benchmarking)": _Framework(
        "nemo",
        {"h100": "512xhgx-h100"},
        {"overlaps": True, "reduces_in_bf16": True, "zero_stage": 1},
        overlaps_tensor=True,
    ),
}
_MODELS = {"gpt-39.1b": "gpt-39b", "gpt-3-175b": "gpt-175b"}
_FP8 = Precisions(attention="fp8", feed_forward="fp8", experts="fp8")
_PRECISIONS: dict[str, Precisions | None] = {"": None, "bf16": None, "fp16": None, "fp8": _FP8}
_RECOMPUTE = {
    "": "none",
    "none": "none",
    "full": "full",
    "selective": "selective",
    "selective(attention)": "selective",
}
_FIGURES = {
    "step_s": "step_time_s",
    "state_gib": "paramopt_mem_gib",
    "activation_gib": "act_mem_gib",
}


def training_case(line: Line) -> TrainingCase | str:
    """Return a run as a case of its own, or why it is not predicted.

    Raises ValueError for a number that is none.
    """
    zero = next((column for column in _FIGURES.values() if is_zero(line, column)), None)
    if zero is not None:
        return f"{zero} is 0, which is no figure"
    figures = dict(_figures(line))
    if not figures or any(is_empty(line, column) for column in ("tp", "gbs", "seq_len")):
        return "training: the layout, the batch or a figure is not stated"
    framework = _FRAMEWORKS.get(line.get("engine", "").lower())
    if framework is not None:
        return _by_columns(line, framework, figures)
    return _as_described(line, figures)


def _figures(line: Line) -> Iterator[tuple[str, float]]:
    for ours, theirs in _FIGURES.items():
        if not is_empty(line, theirs):
            yield ours, figure(line, theirs)


def _by_columns(
    line: Line, framework: _Framework, figures: Mapping[str, float]
) -> TrainingCase | str:
    """Return a run whose columns say all that its framework does not."""
    model = line["model"].lower()
    llm = _MODELS.get(model, model)
    if llm not in names("llm"):
        return f"training of {shorten(line['model'])}: it is not in the catalogue"
    cluster = framework.clusters.get(line["gpu"].lower())
    if cluster is None:
        return f"training on {shorten(line['gpu'])}: its network is not in the catalogue"
    precision = line.get("precision", "").lower()
    if precision not in _PRECISIONS:
        return f"training in {shorten(line['precision'])}: how it is computed is not in the table"
    recompute = _RECOMPUTE.get((line.get("recompute") or "").lower())
    if recompute is None:
        return "training: what is computed again is not in the table"
    micro_batch = count(line, "mbs", framework.micro_batches.get(llm, 0))
    if not micro_batch:
        return "training: the micro-batch is not stated"
    tp, stored = count(line, "tp"), _PRECISIONS[precision]
    row: dict[str, object] = {
        "id": line["row_id"],
        "tp": tp,
        "pp": count(line, "pp"),
        "cp": count(line, "cp"),
        "replicas": count(line, "dp"),
        "sequence_tokens": count(line, "seq_len"),
        "global_batch_sequences": count(line, "gbs"),
        "micro_batch_sequences": micro_batch,
        "virtual_stages": count(line, "vp"),
        "sequence_parallel": line.get("sp") == "True",
        "recompute": recompute,
        "overlaps_tensor": framework.overlaps_tensor and tp > 1,
        **framework.always,
        **figures,
    }
    if not is_empty(line, "zero"):
        row["zero_stage"] = count(line, "zero", 0)
    return _case(line, llm, cluster, framework.name, stored, row)


def _as_described(line: Line, figures: Mapping[str, float]) -> TrainingCase | str:
    """Return a run that a document of the catalogue describes."""
    stated = shorten(line.get("engine", ""))
    found = _described().get(line["row_id"])
    if found is None:
        return f"training with {stated}: what overlaps and is computed again is not in the table"
    case, row = found
    sizes = {
        "n_gpus": row.num_gpus,
        "tp": row.tp,
        "pp": row.pp,
        "gbs": row.global_batch_sequences,
        "seq_len": row.sequence_tokens,
    }
    for column, size in sizes.items():
        if not is_empty(line, column) and count(line, column) != size:
            return f"training with {stated}: the catalogue has another run of that id"
    own = row.model_dump(exclude=set(_FIGURES)) | dict(figures)
    return _case(line, case.llm, case.cluster, case.engine, case.precisions, own)


@lru_cache(maxsize=1)
def _described() -> dict[str, tuple[TrainingCase, TrainingRow]]:
    """Return the training runs that the catalogue describes, by their ids."""
    return {
        row.id: (case, row)
        for _, case in shipped_cases()
        if isinstance(case, TrainingCase)
        for row in case.rows
    }


def _case(
    line: Line,
    llm: str,
    cluster: str,
    engine: str | None,
    precisions: Precisions | None,
    row: Mapping[str, object],
) -> TrainingCase:
    return TrainingCase.model_validate(
        {
            "llm": llm,
            "cluster": cluster,
            "precisions": None if precisions is None else precisions.model_dump(),
            "engine": engine,
            "date": line.get("date", ""),
            "source": f"{line['source_key']}, {line['row_id']}",
            "mode": "training",
            "rows": [row],
        }
    )
