"""Read measured kernels from a directory of tables in the layout of aiconfigurator-core.

A table is `<system>/<operation>/<framework>/<version>/<name>.parquet`. Reading needs pyarrow, which
the project itself does not.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopar.calibration.rows import Column, Rows

_PRECISIONS = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "int4_wo": "int4",
    "int8_wo": "int8",
    "w4a16_mxfp4": "mxfp4",
}


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one system."""

    folder: Path

    def read(self, operation: str, framework: str, version: str, name: str) -> Rows | None:
        """Return one table, or None where it does not exist."""
        path = self.folder / operation / framework / version / f"{name}.parquet"
        if not path.is_file():
            return None
        table: Any = importlib.import_module("pyarrow.parquet").read_table(path)
        return Rows({name: _column(table.column(name)) for name in table.column_names})

    def gemm(self, framework: str, version: str) -> dict[str, Rows]:
        """Return GEMMs by precision; m, n, k and `us`, in the region that serving uses."""
        rows = self.read("gemm", framework, version, "gemm_perf")
        if rows is None:
            return {}
        m, n, k = rows.number("m"), rows.number("n"), rows.number("k")
        rows = rows.where(
            (np.minimum(n, k) >= 512)
            & (np.maximum(n, k) <= 30_000)
            & (m <= 16_384)
            & ~_contains(rows["kernel_source"], "smooth_quant")
        )
        found = _by_precision(_timed(rows), "gemm_dtype")
        if "fp8" in found:
            found["fp8"] = self._without_scales(found["fp8"], framework, version)
        return found

    def _without_scales(self, rows: Rows, framework: str, version: str) -> Rows:
        """Return FP8 GEMMs without finding the scale of their input, and quantising it.

        Checkpoints with static scales need no search, and engines quantise in the norm before. The
        tables have both for every (m, k) of the GEMMs; without tables the rows stay as they are.
        """
        us = rows.number("us")
        for name in ("computescale_perf", "scale_matrix_perf"):
            part = self.read("quantize", framework, version, name)
            if part is None:
                continue
            known = {
                (m, k): 1e3 * latency
                for m, k, latency in zip(
                    *(part.number(c).tolist() for c in ("m", "k", "latency")), strict=True
                )
            }
            pairs = zip(rows.number("m").tolist(), rows.number("k").tolist(), strict=True)
            us = us - np.array([known.get(pair, np.nan) for pair in pairs])
        return Rows({**rows.columns, "us": us}).where(us > 0)

    def experts(self, framework: str, version: str, distribution: str) -> dict[str, Rows]:
        """Return grouped GEMMs by precision: pairs, experts of a rank, shapes and `us`.

        Routings that the tables' rounding makes uneven (1, 10 and 22 experts per token) are left
        out, and so are kernels for tiny batches, which engines choose by a switch.
        """
        rows = self.read("moe", framework, version, "moe_perf")
        if rows is None:
            return {}
        keep = (
            (rows["distribution"] == distribution)
            & np.isin(rows["topk"], [2, 4, 6, 8])
            & (rows.number("moe_ep_size") <= 64)
            & (rows.number("moe_tp_size") <= 8)
            & (rows.number("num_tokens") <= 16_384)
            & ~_contains(rows["kernel_source"], "min_latency")
        )
        rows = _timed(rows.where(keep))
        ep = rows.number("moe_ep_size")
        gated = ~_contains(rows["kernel_source"], "nongated")
        more = {
            "pairs": rows.number("num_tokens") * rows.number("topk") / ep,
            "held": rows.number("num_experts") / ep,
            "ffn": rows.number("inter_size") / rows.number("moe_tp_size"),
            "matrices": np.where(gated, 3, 2),
            "even": np.full(len(rows), distribution == "balanced"),
        }
        return _by_precision(Rows({**rows.columns, **more}), "moe_dtype")

    def prefill(self, framework: str, version: str) -> dict[str, Rows]:
        """Return causal grouped-query attention over prompts by cache precision."""
        rows = self.read("attention", framework, version, "context_attention_perf")
        if rows is None:
            return {}
        rows = _timed(
            rows.where(
                ~_windowed(rows)
                & (rows["attn_dtype"] == "bfloat16")
                & (rows.number("isl") >= 64)
                & (rows.number("num_heads") >= 2)
                & np.isin(rows["head_dim"], [64, 128, 256])
            )
        )
        own = Rows(
            {
                "cache": rows["kv_cache_dtype"],
                "batch": rows.number("batch_size"),
                "length": rows.number("isl"),
                "heads": rows.number("num_heads"),
                "kv_heads": rows.number("num_key_value_heads"),
                "qk_dim": rows.number("head_dim"),
                "v_dim": rows.number("head_dim"),
                "us": rows["us"],
            }
        )
        return _by_precision(own, "cache")

    def latent_prefill(self, framework: str, version: str) -> dict[str, Rows]:
        """Return latent attention over prompts, keys and values expanded, by cache precision."""
        rows = self.read("mla", framework, version, "context_mla_perf")
        if rows is None:
            return {}
        rows = _timed(rows.where((rows.number("isl") >= 64) & (rows["step"] == 0)))
        heads = rows.number("num_heads")
        found = Rows(
            {
                "cache": rows["kv_cache_dtype"],
                "batch": rows.number("batch_size"),
                "length": rows.number("isl"),
                "heads": heads,
                "kv_heads": heads,
                "qk_dim": np.full(len(rows), 192.0),  # DeepSeek-V3: 128 + 64 rotary
                "v_dim": np.full(len(rows), 128.0),
                "us": rows["us"],
            }
        )
        return _by_precision(found, "cache")

    def decode(self, framework: str, version: str) -> dict[str, Rows]:
        """Return attention of running sequences by cache precision.

        Left out: a key of its own for each query, and more than 16 queries per key, which take
        other kernels, up to eight times slower; contexts of less than 512 tokens.
        """
        rows = self.read("attention", framework, version, "generation_attention_perf")
        if rows is None:
            return {}
        groups = rows.number("num_heads") / rows.number("num_key_value_heads")
        context = rows.number("isl") + rows.number("step")
        keep = ~_windowed(rows) & (context >= 512) & (groups >= 2) & (groups <= 16)
        keep &= (rows.number("num_heads") >= 2) & (rows.number("head_dim") <= 256)
        return _by_precision(_with_context(rows.where(keep)), "kv_cache_dtype")

    def latent_decode(self, framework: str, version: str) -> dict[str, Rows]:
        """Return absorbed latent attention of running sequences by cache precision."""
        rows = self.read("mla", framework, version, "generation_mla_perf")
        if rows is None:
            return {}
        keep = rows.number("isl") + rows.number("step") >= 128
        return _by_precision(_with_context(rows.where(keep)), "kv_cache_dtype")

    def linear(self, framework: str, version: str) -> dict[str, Rows]:
        """Return scans of gated delta nets; `state`: elements of one sequence."""
        rows = self.read("linear_attention", framework, version, "gdn_perf")
        if rows is None:
            return {}
        rows = _timed(rows.where(_contains(rows["kernel_source"], "gated_delta_rule")))
        size = rows.number("num_v_heads") * rows.number("head_k_dim") * rows.number("head_v_dim")
        prompts = rows.number("num_tokens") > rows.number("batch_size")
        return {"fp32": Rows({**rows.columns, "state": size})} if np.any(prompts) else {}

    def collective(self, kind: str, framework: str, version: str) -> Rows | None:
        """Return times of a collective: gpus, bytes, `us`; kind as NCCL names it, or custom."""
        if kind == "custom":
            rows = self.read("comm", framework, version, "custom_allreduce_perf")
        else:
            rows = self.read("comm", "nccl", version, "nccl_perf")
            if rows is not None:
                rows = rows.where((rows["op_name"] == kind) & (rows["nccl_dtype"] == "half"))
        if rows is None or not len(rows):
            return None
        rows = _timed(rows)
        size = 2.0 * rows.number("message_size")  # counted in elements of 2 bytes
        return Rows({"gpus": rows.number("num_gpus"), "bytes": size, "us": rows["us"]})


def _with_context(rows: Rows) -> Rows:
    rows = _timed(rows)
    return Rows({**rows.columns, "context": rows.number("isl") + rows.number("step")})


def _timed(rows: Rows) -> Rows:
    """Return rows with `us`, without those that took no time."""
    rows = rows.where(rows.number("latency") > 0)
    return Rows({**rows.columns, "us": rows.number("latency") * 1e3})


def _by_precision(rows: Rows, column: str) -> dict[str, Rows]:
    parts = {ours: rows.where(rows[column] == theirs) for theirs, ours in _PRECISIONS.items()}
    return {precision: part for precision, part in parts.items() if len(part)}


def _windowed(rows: Rows) -> NDArray[np.bool_]:
    """Return which rows have a sliding window; old tables know of none."""
    if "window_size" not in rows.columns:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray(rows.number("window_size") > 0)


def _contains(column: Column, text: str) -> NDArray[np.bool_]:
    return np.array([text in value for value in column], dtype=bool)


def _column(chunked: Any) -> Column:
    values = chunked.to_numpy(zero_copy_only=False) if hasattr(chunked, "chunks") else chunked
    return np.asarray(values)
