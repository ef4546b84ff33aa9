"""Read a table of measured runs (CSV) as cases of our own schema.

One run a line; the columns that are used: row_id, tier, family, source_key, engine, engine_version,
date, model, gpu, n_gpus, tp, pp, cp, ep, etp, dp, precision, kv_precision, mode, isl, osl,
concurrency, decode_batch_per_gpu, ttft_ms, tpot_ms, e2e_latency_s, out_tokens_per_s_per_gpu,
in_tokens_per_s_per_gpu, notes. An empty cell is a figure or a fact that the source does not state.
Notes with the word EPLB mean that experts were balanced, and are predicted with an even load. Runs
of training, and their memory, are read as `autopar.validation.bulk_training` says; what is not
predicted is counted, with the reason.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autopar.catalog import names, read_document
from autopar.errors import SpecError, shorten
from autopar.specs import Precision, Precisions, ServingCase, TrainingCase
from autopar.units import plural
from autopar.validation.bulk_training import training_case
from autopar.validation.cells import count, figure, is_empty, is_zero

COLUMNS = ("row_id", "tier", "family", "source_key", "engine", "model", "gpu", "tp", "mode", "isl")
_MODES = {
    "agg": "closed_loop",
    "static": "static",
    "disagg-prefill": "prefill",
    "disagg-decode": "decode",
}
# Names of models and chips in such tables -> names in the catalogue.
_MODELS = {"llama-3.3-70b": "llama-3.1-70b", "llama-3-70b": "llama-3.1-70b"}
_CLUSTERS = {
    "a100-80gb": "1xhgx-a100",
    "a100-40gb": "1xhgx-a100-40gb",
    "gb200": "1xgb200-nvl72",
    "gb300": "1xgb300-nvl72",
    "l40s": "8xl40s",
    "l4": "8xl4",
    "mi300x": "1x8-mi300x",
    "mi325x": "1x8-mi325x",
    "mi355x": "1x8-mi355x",
}
_ENGINES = {
    "trtllm": "tensorrt-llm",
    "nim (trtllm)": "tensorrt-llm",
    "nemo/tensorrt-llm": "tensorrt-llm",
}
_EARLY = re.compile(r"0\.[0-6](\.|$)|2023")  # versions and years of TensorRT-LLM without graphs
_DEGREES = re.compile(r"_tp(?P<tp>[0-9]+)(_0)?_ep(?P<ep>[0-9]+)")
_TWO_BATCHES = re.compile(r"TBO on|perfect EPLB")
_WIDTHS: Mapping[str, Precision] = {
    "fp16": "bf16",
    "bf16": "bf16",
    "fp8": "fp8",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "int8": "int8",
    "int4": "int4",
}
# Our figures -> columns; a prefill alone produces input tokens.
_FIGURES = {
    "ttft_ms": "ttft_ms",
    "tpot_ms": "tpot_ms",
    "e2e_s": "e2e_latency_s",
    "tokens_per_s_per_gpu": "out_tokens_per_s_per_gpu",
}


@dataclass(slots=True)
class Bulk:
    """The cases of a table, by tier, and the runs that could not be read, by reason."""

    # With the key of their source.
    cases: list[tuple[str, ServingCase | TrainingCase]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, reason: str) -> None:
        """Count a run that is not predicted."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def read_bulk(path: Path, tiers: tuple[str, ...] = ("A",)) -> Bulk:
    """Return the runs of a table whose configuration is known well enough.

    Raises SpecError if the file cannot be read or lacks a column.
    """
    bulk = Bulk()
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise SpecError(
                    f"{path.name}: no column {missing[0]!r}; expected a table of measured runs "
                    f"with {', '.join(COLUMNS)}"
                )
            for line in reader:
                place = f"{path.name}: line {reader.line_num}"
                _refuse_other_columns(line, len(reader.fieldnames or ()), place)
                _read(line, bulk, tiers, place)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path.name}: cannot be read: {reason}") from None
    return bulk


def _refuse_other_columns(line: Mapping[Any, Any], columns: int, place: str) -> None:
    """Raise SpecError for a line with more cells than the table has columns, or with fewer."""
    more = line.get(None) or ()
    fewer = sum(cell is None for name, cell in line.items() if name is not None)
    if more or fewer:
        raise SpecError(
            f"{place}: {plural(columns + len(more) - fewer, 'cell')}, expected {columns}, one for "
            "each column (a comma in a text needs quotes around it)"
        )


def _read(line: Mapping[str, str], bulk: Bulk, tiers: tuple[str, ...], place: str) -> None:
    """Add a run as a case of its own, or count it with the reason why it is none."""
    if line["tier"] not in tiers:
        return bulk.leave_out(f"tier {shorten(line['tier'])}, which --tier does not name")
    try:
        if line["family"] in ("training", "memory"):
            return _read_training(line, bulk)
        if line["family"] == "inference":
            return _read_inference(line, bulk)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field_name = first["loc"][-1] if first["loc"] else "run"
        raise SpecError(f"{place}: {field_name}: {first['msg']}") from None
    except ValueError as error:
        raise SpecError(f"{place}: {error}") from None
    return bulk.leave_out(f"family {shorten(line['family'])}")


def _read_training(line: Mapping[str, str], bulk: Bulk) -> None:
    found = training_case(line)
    if isinstance(found, str):
        return bulk.leave_out(found)
    bulk.cases.append((line["source_key"], found))
    return None


def _read_inference(line: Mapping[str, str], bulk: Bulk) -> None:
    mode = _MODES.get(line["mode"])
    if mode is None:
        return bulk.leave_out(f"mode {shorten(line['mode'])}")
    if is_empty(line, "tp") or is_empty(line, "isl"):
        return bulk.leave_out("the layout or the length of prompts is not stated")
    if mode == "closed_loop" and is_empty(line, "concurrency"):
        return bulk.leave_out("the concurrency is not stated")
    if _contradicts_itself(line):
        return bulk.leave_out("the layout in the name of the run is not that of its columns")
    stated = line.get("precision", "").split(" ")[0]
    if stated.lower() not in ("", "nan", *_WIDTHS):
        return bulk.leave_out(f"precision {shorten(stated)} is not known")
    llm = _model(line["model"], line.get("precision", ""))
    if llm is None:
        return bulk.leave_out(f"model {shorten(line['model'])} is not in the catalogue")
    cluster = _cluster(line["gpu"])
    if cluster is None:
        return bulk.leave_out(f"GPU {shorten(line['gpu'])} is not in the catalogue")
    zero = next((name for name in _FIGURES.values() if is_zero(line, name)), None)
    if zero is not None:
        return bulk.leave_out(f"{zero} is 0, which is no figure")
    figures = dict(_figures(line, mode))
    if not figures:
        return bulk.leave_out("no figure")
    case = ServingCase.model_validate(
        {
            "llm": llm,
            "cluster": cluster,
            "precisions": _precisions(llm, line),
            "engine": _engine(line),
            **_routing(line),
            "engine_version": line.get("engine_version", ""),
            "date": line.get("date", ""),
            "source": f"{line['source_key']}, {line['row_id']}",
            "mode": mode,
            "rows": [{**_layout(line), **_work(line, mode), **figures, "id": line["row_id"]}],
        }
    )
    bulk.cases.append((line["source_key"], case))
    return None


def _contradicts_itself(line: Mapping[str, str]) -> bool:
    """Whether the id of a run names degrees (`_tp2_ep2_`) that its columns do not have."""
    named = _DEGREES.search(line["row_id"])
    if named is None:
        return False
    return (int(named["tp"]), int(named["ep"])) != (count(line, "tp"), count(line, "ep"))


def _layout(line: Mapping[str, str]) -> dict[str, int]:
    tp, cp, pp = (count(line, name) for name in ("tp", "cp", "pp"))
    gpus = count(line, "n_gpus", 0)
    attn_dp = count(line, "dp")
    stage = tp * cp * attn_dp
    return {
        "tp": tp,
        "cp": cp,
        "pp": pp,
        "attn_dp": attn_dp,
        "ep": count(line, "ep"),
        "replicas": max(gpus // (stage * pp), 1),
    }


def _work(line: Mapping[str, str], mode: str) -> dict[str, int]:
    work = {"input_tokens": count(line, "isl"), "output_tokens": count(line, "osl")}
    per_gpu = count(line, "decode_batch_per_gpu", 0)
    if mode == "prefill":
        return {**work, "step_tokens": per_gpu or work["input_tokens"]}
    if mode == "decode":
        return {**work, "concurrency": per_gpu * count(line, "n_gpus")}
    return {**work, "concurrency": count(line, "concurrency")}


def _figures(line: Mapping[str, str], mode: str) -> Iterator[tuple[str, float]]:
    columns = dict(_FIGURES)
    if mode == "prefill":
        columns["tokens_per_s_per_gpu"] = "in_tokens_per_s_per_gpu"
    for ours, theirs in columns.items():
        value = figure(line, theirs)
        if value > 0:
            yield ours, value


def _engine(line: Mapping[str, str]) -> str | None:
    """Return the engine of the catalogue that works as that of the run did."""
    text = line["engine"].lower()
    name = _ENGINES.get(text, text)
    if name == "tensorrt-llm" and _EARLY.match(line.get("engine_version") or line.get("date", "")):
        name = "tensorrt-llm-0.6"
    if name == "sglang" and _TWO_BATCHES.search(line.get("notes", "")):
        name = "sglang-two-batch"
    return name if name in names("engine") else None


def _routing(line: Mapping[str, str]) -> dict[str, str]:
    """Return the load of experts where a run had them balanced."""
    return {"expert_load": "even"} if "EPLB" in line.get("notes", "") else {}


def _cluster(gpu: str) -> str | None:
    chip = re.split(r"[\s(]", gpu.strip().lower())[0]
    name = _CLUSTERS.get(chip, f"1xhgx-{chip}")
    return name if name in names("cluster") else None


def _model(model: str, precision: str) -> str | None:
    """Return the catalogue's model, in the precision of the run where it has that checkpoint."""
    base = model.strip().lower().replace(" ", "-").removesuffix("-fp8").removesuffix("-fp4")
    base = _MODELS.get(base, base)
    width = _WIDTHS.get(precision.split(" ", maxsplit=1)[0].lower(), "bf16")
    known = names("llm")
    if "gpt-oss" in base:
        return base if base in known else None
    return next((n for n in (f"{base}-{width}", base, f"{base}-nvfp4") if n in known), None)


def _precisions(llm: str, line: Mapping[str, str]) -> dict[str, Any] | None:
    """Return how a run stored the model, where it differs from the catalogue's checkpoint."""
    own = Precisions.model_validate(read_document("llm", llm).get("precisions") or {})
    stated = line.get("precision", "")
    width = _WIDTHS.get(stated.split(" ")[0].lower())
    parts = own.model_dump()
    stored = {parts["attention"], parts["feed_forward"], parts["experts"]} - {"bf16"}
    if width not in (None, "bf16") and not stored:
        parts |= {"attention": width, "feed_forward": width, "experts": width}
        if width == "nvfp4":  # NVIDIA's checkpoints in 4 bits ask for an FP8 cache
            parts["kv_cache"] = "fp8"
    if width == "bf16":
        parts |= dict.fromkeys(("attention", "feed_forward", "experts", "kv_cache"), "bf16")
    if "BF16 attention" in stated:
        parts["attention"] = "bf16"
    cache = _WIDTHS.get((line.get("kv_precision") or "").lower())
    if cache is not None:
        parts["kv_cache"] = cache
    elif line["engine"].lower() == "sglang" and not stored:
        parts["kv_cache"] = "bf16"  # --kv-cache-dtype auto: that of the activations
    return None if Precisions.model_validate(parts) == own else parts
