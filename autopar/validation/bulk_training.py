"""Read the training runs of a table of measured runs, where what it does not say is known.

Beside the columns of every run: gbs, mbs, seq_len, vp, sp, zero, recompute, step_time_s, status.
What overlaps, how gradients are kept and whether attention writes its scores stands in no column;
it is known of Megatron-DeepSpeed as vTrain ran it (models/measurements/vtrain-2023.yaml).
"""

from autopar.catalog import names
from autopar.errors import shorten
from autopar.specs import TrainingCase
from autopar.validation.cells import Line, count, figure, is_empty

# What a framework does besides what a table says, as the document in the catalogue notes it.
_FRAMEWORKS: dict[str, dict[str, bool]] = {
    "megatron-deepspeed": {"materialises_scores": True, "reduces_in_bf16": True},
}
_MODELS = {"gpt-39.1b": "gpt-39b"}
_CLUSTERS = {"a100-80gb": "64xhgx-a100-100g"}  # of that document: 800 Gbit/s for each node


def training_case(line: Line) -> TrainingCase | str:
    """Return a run as a case of its own, or why it is not predicted.

    Raises ValueError for a number that is none.
    """
    engine = line.get("engine", "").lower()
    if engine not in _FRAMEWORKS:
        stated = shorten(line.get("engine", ""))
        return f"training with {stated}: what overlaps in it is not in the table"
    model = line["model"].lower()
    llm = _MODELS.get(model, model)
    if llm not in names("llm"):
        return f"training of {shorten(line['model'])}: it is not in the catalogue"
    cluster = _CLUSTERS.get(line["gpu"].lower())
    if cluster is None:
        return f"training on {shorten(line['gpu'])}: its network is not in the catalogue"
    if any(is_empty(line, column) for column in ("tp", "gbs", "mbs", "seq_len", "step_time_s")):
        return "training: the layout, the batch or the time of a step is not stated"
    row = {
        "id": line["row_id"],
        "tp": count(line, "tp"),
        "pp": count(line, "pp"),
        "cp": count(line, "cp"),
        "replicas": count(line, "dp"),
        "sequence_tokens": count(line, "seq_len"),
        "global_batch_sequences": count(line, "gbs"),
        "micro_batch_sequences": count(line, "mbs"),
        "virtual_stages": count(line, "vp"),
        "sequence_parallel": line.get("sp") == "True",
        "zero_stage": count(line, "zero", 0),
        "recompute": line.get("recompute") or "none",
        "step_s": figure(line, "step_time_s"),
        **_FRAMEWORKS[engine],
    }
    return TrainingCase.model_validate(
        {
            "llm": llm,
            "cluster": cluster,
            "engine": engine,
            "date": line.get("date", ""),
            "source": f"{line['source_key']}, {line['row_id']}",
            "mode": "training",
            "rows": [row],
        }
    )
