import csv

import pytest

from autopar.catalog import read_document
from autopar.errors import SpecError
from autopar.specs import Measurements
from autopar.validation.bulk import COLUMNS, read_bulk

ROW = {
    "row_id": "x-1",
    "tier": "A",
    "family": "inference",
    "source_key": "somebody",
    "engine": "vllm",
    "engine_version": "0.17.0",
    "date": "2026-03-11",
    "model": "Llama-3.1-70B",
    "gpu": "H200",
    "n_gpus": "4.0",
    "tp": "2.0",
    "pp": "1.0",
    "dp": "1.0",
    "ep": "1.0",
    "precision": "fp8",
    "kv_precision": "",
    "mode": "agg",
    "isl": "1024.0",
    "osl": "512.0",
    "concurrency": "16.0",
    "decode_batch_per_gpu": "",
    "ttft_ms": "90.5",
    "tpot_ms": "12.5",
    "e2e_latency_s": "",
    "out_tokens_per_s_per_gpu": "300",
    "in_tokens_per_s_per_gpu": "",
    "notes": "",
}


@pytest.fixture
def table(tmp_path):
    def write(*rows, columns=None):
        path = tmp_path / "table.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns or list(ROW), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(ROW | row for row in rows)
        return path

    return write


def one(table, **row):
    bulk = read_bulk(table(row))
    assert not bulk.left_out
    [(source, case)] = bulk.cases
    assert source == "somebody"
    return case, case.rows[0]


def test_a_line_becomes_a_case(table):
    case, row = one(table)
    assert (case.llm, case.cluster, case.engine) == ("llama-3.1-70b-fp8", "1xhgx-h200", "vllm")
    assert (case.mode, case.engine_version, case.date) == ("closed_loop", "0.17.0", "2026-03-11")
    assert (row.tp, row.replicas, row.num_gpus) == (2, 2, 4)
    assert (row.input_tokens, row.output_tokens, row.concurrency) == (1024, 512, 16)
    assert (row.ttft_ms, row.tpot_ms, row.tokens_per_s_per_gpu) == (90.5, 12.5, 300)
    assert row.e2e_s is None


@pytest.mark.parametrize(
    ("model", "precision", "llm", "experts"),
    [
        ("Qwen3-235B-A22B", "fp8", "qwen3-235b-a22b-fp8", None),
        ("gpt-oss-120b", "fp4", "gpt-oss-120b", None),
        ("MiniMax-M2.5", "fp4", "minimax-m2.5-nvfp4", None),
        ("Llama-3.3-70B", "FP16", "llama-3.1-70b", None),
        ("Llama-3.1-8B", "fp8", "llama-3.1-8b", "fp8"),
        ("Llama-3.1-70B", "fp4", "llama-3.1-70b", "nvfp4"),
        ("DeepSeek-V3", "FP8 (BF16 attention)", "deepseek-v3", "fp8_block"),
    ],
)
def test_models_are_found_in_the_precision_of_the_run(table, model, precision, llm, experts):
    case, _ = one(table, model=model, precision=precision)
    assert case.llm == llm
    assert (case.precisions.experts if case.precisions else None) == experts
    if experts == "nvfp4":
        assert case.precisions.kv_cache == "fp8"
    if "BF16 attention" in precision:
        assert case.precisions.attention == "bf16"


def test_a_stated_cache_counts_and_sglang_keeps_bf16(table):
    case, _ = one(table, kv_precision="FP16")
    assert case.precisions.kv_cache == "bf16"
    case, _ = one(table, model="Llama-3.1-8B", engine="sglang")
    assert case.precisions.kv_cache == "bf16"


@pytest.mark.parametrize(
    ("fields", "engine"),
    [
        ({"engine": "trtllm", "engine_version": "1.3.0rc1"}, "tensorrt-llm"),
        ({"engine": "trtllm", "engine_version": "0.6.1"}, "tensorrt-llm-0.6"),
        ({"engine": "NeMo/TensorRT-LLM", "engine_version": "", "date": "2023"}, "tensorrt-llm-0.6"),
        ({"engine": "NIM (trtllm)", "engine_version": ""}, "tensorrt-llm"),
        ({"engine": "sglang"}, "sglang"),
        ({"engine": "sglang", "notes": "TBO on; 288 experts"}, "sglang-two-batch"),
        ({"engine": "lmdeploy"}, None),
    ],
)
def test_engines_are_told_apart_by_version_and_mode(table, fields, engine):
    assert one(table, **fields)[0].engine == engine


def test_balanced_experts_are_noticed(table):
    case, _ = one(table, model="DeepSeek-V3", notes="simulated perfect EPLB")
    assert case.expert_load == "even"


def test_modes_have_their_own_work(table):
    _, row = one(
        table, mode="disagg-prefill", decode_batch_per_gpu="16384", in_tokens_per_s_per_gpu="7000"
    )
    assert (row.step_tokens, row.tokens_per_s_per_gpu) == (16384, 7000)
    _, row = one(table, mode="disagg-decode", decode_batch_per_gpu="256")
    assert row.concurrency == 4 * 256


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mode": "saturated"}, "mode 'saturated'"),
        ({"tp": ""}, "the layout or the length of prompts is not stated"),
        ({"concurrency": ""}, "the concurrency is not stated"),
        ({"tp": "0.0"}, "the layout or the length of prompts is not stated"),
        ({"concurrency": "0"}, "the concurrency is not stated"),
        ({"precision": "foo"}, "precision 'foo' is not known"),
        ({"model": "Grok-9"}, "model 'Grok-9' is not in the catalogue"),
        ({"gpu": "TPU v9"}, "GPU 'TPU v9' is not in the catalogue"),
        ({"tpot_ms": "0"}, "tpot_ms is 0, which is no figure"),
        ({"ttft_ms": "0.0", "tpot_ms": ""}, "ttft_ms is 0, which is no figure"),
        (
            {"ttft_ms": "", "tpot_ms": "", "out_tokens_per_s_per_gpu": ""},
            "no figure",
        ),
    ],
)
def test_what_cannot_be_predicted_is_counted_with_its_reason(table, fields, reason):
    bulk = read_bulk(table(fields, fields))
    assert not bulk.cases
    assert bulk.left_out == {reason: 2}


def test_other_tiers_and_families_are_counted_with_their_reason(table):
    path = table({"tier": "B"}, {"family": "power"}, {})
    bulk = read_bulk(path)
    assert len(bulk.cases) == 1
    assert bulk.left_out == {"tier 'B', which --tier does not name": 1, "family 'power'": 1}
    assert len(read_bulk(path, ("A", "B")).cases) == 2


@pytest.mark.parametrize(
    ("row_id", "kept"),
    [
        ("IX-some_run_c16_tp2_ep1_7", True),
        ("IX-some_run_c16_tp2_0_ep1_0_7", True),
        ("IX-some_run_c16_cfg633", True),
        ("IX-some_run_c16_tp4_ep1_7", False),
        ("IX-some_run_c16_tp2_ep2_7", False),
    ],
)
def test_a_run_whose_name_contradicts_its_columns_is_left_out(table, row_id, kept):
    """Its columns say TP2, EP1."""
    bulk = read_bulk(table({"row_id": row_id}))
    assert len(bulk.cases) == kept
    assert bool(bulk.left_out) is not kept
    if kept:
        assert bulk.cases[0][1].rows[0].id == row_id


TRAINED = {
    "family": "training",
    "row_id": "t-1",
    "engine": "Megatron-DeepSpeed",
    "model": "GPT-39.1B",
    "gpu": "A100-80GB",
    "n_gpus": "512.0",
    "tp": "4.0",
    "pp": "8.0",
    "dp": "16.0",
    "gbs": "1536.0",
    "mbs": "2.0",
    "vp": "1.0",
    "seq_len": "2048.0",
    "sp": "False",
    "zero": "",
    "recompute": "full",
    "step_time_s": "16.07",
    "mode": "pretrain",
}
WIDE = [*ROW, *(name for name in TRAINED if name not in ROW)]


def test_a_training_run_becomes_a_case(table):
    """As the catalogue has the same line of vTrain's table, but for the names."""
    [(_, case)] = read_bulk(table(TRAINED, columns=WIDE)).cases
    [row] = case.rows
    assert (case.mode, case.llm, case.cluster) == ("training", "gpt-39b", "64xhgx-a100-100g")
    assert (row.tp, row.pp, row.replicas, row.num_gpus) == (4, 8, 16, 512)
    assert (row.global_batch_sequences, row.micro_batch_sequences) == (1536, 2)
    assert (row.recompute, row.zero_stage, row.sequence_parallel) == ("full", 0, False)
    assert (row.materialises_scores, row.reduces_in_bf16, row.step_s) == (True, True, 16.07)
    shipped = Measurements.model_validate(read_document("measurements", "vtrain-2023"))
    [twin] = [r for c in shipped.cases for r in c.rows if r.id == "vtrain_multi-0047"]
    same = {"id": twin.id, "note": twin.note, "step_s": twin.step_s}
    assert row.model_copy(update=same) == twin


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"engine": "nanotron"}, "training with 'nanotron': what overlaps and is computed"),
        ({"model": "GPT-h9"}, "training of 'GPT-h9': it is not in the catalogue"),
        ({"gpu": "H100"}, "training on 'H100': its network is not in the catalogue"),
        ({"mbs": ""}, "training: the micro-batch is not stated"),
        ({"gbs": ""}, "training: the layout, the batch or a figure is not stated"),
        ({"step_time_s": ""}, "training: the layout, the batch or a figure is not stated"),
        ({"step_time_s": "0.0"}, "step_time_s is 0, which is no figure"),
        ({"precision": "MXFP8"}, "training in 'MXFP8': how it is computed is not in the table"),
        ({"recompute": "see recipe"}, "training: what is computed again is not in the table"),
    ],
)
def test_training_that_cannot_be_predicted_is_counted_with_its_reason(table, fields, reason):
    bulk = read_bulk(table(TRAINED | fields, columns=WIDE))
    assert not bulk.cases
    [said] = bulk.left_out
    assert said.startswith(reason)


NEMO = TRAINED | {
    "row_id": "dgxc-0017",
    "engine": "NeMo (dgxc-benchmarking)",
    "model": "Llama-3.1-70B",
    "gpu": "H100",
    "n_gpus": "64.0",
    "dp": "2.0",
    "gbs": "128.0",
    "mbs": "1.0",
    "vp": "5.0",
    "seq_len": "8192.0",
    "sp": "True",
    "recompute": "",
    "precision": "FP8",
    "step_time_s": "9.86",
}
MEMORY = TRAINED | {
    "family": "memory",
    "row_id": "korthikanti22_mem-0002",
    "engine": "Megatron-LM",
    "model": "GPT-22B",
    "n_gpus": "8.0",
    "tp": "8.0",
    "pp": "1.0",
    "dp": "1.0",
    "gbs": "4.0",
    "mbs": "",
    "sp": "True",
    "recompute": "selective(attention)",
    "step_time_s": "",
    "act_mem_gib": "9.5625",
    "paramopt_mem_gib": "45.5625",
    "precision": "FP16",
    "mode": "",
}
BRIDGE = NEMO | {
    "row_id": "mbridge-0080",
    "engine": "Megatron-Bridge/MCore",
    "model": "Llama-3-70B",
    "recompute": "see perf_recipes/*/h100 in repo",
    "pp": "8.0",
    "gbs": "256.0",
    "step_time_s": "20",
}


@pytest.mark.parametrize(
    ("line", "document", "figures"),
    [
        (NEMO, "dgx-cloud-2025", {"step_s": 9.86}),
        (MEMORY, "korthikanti-2022", {"activation_gib": 9.5625, "state_gib": 45.5625}),
        (BRIDGE, "megatron-bridge-2026", {"step_s": 20.0}),
    ],
)
def test_runs_are_read_as_the_catalogue_describes_those_of_their_source(
    table, line, document, figures
):
    """Two of them by their columns; the recipes of the third stand in the catalogue alone."""
    columns = [*WIDE, "act_mem_gib", "paramopt_mem_gib"]
    [(_, case)] = read_bulk(table(line, columns=columns)).cases
    shipped = Measurements.model_validate(read_document("measurements", document))
    [(twin, own)] = [(r, c) for c in shipped.cases for r in c.rows if r.id == line["row_id"]]
    assert (case.llm, case.cluster, case.engine) == (own.llm, own.cluster, own.engine)
    assert case.rows[0] == twin.model_copy(update=figures | {"note": case.rows[0].note})


def test_another_run_under_the_id_of_a_described_one_is_not_predicted_as_that(table):
    bulk = read_bulk(table(BRIDGE | {"tp": "8.0"}, columns=WIDE))
    assert not bulk.cases
    assert list(bulk.left_out) == [
        "training with 'Megatron-Bridge/MCore': the catalogue has another run of that id"
    ]


def test_a_line_with_a_cell_too_many_or_too_few_is_refused(table):
    path = table({}, {})
    lines = path.read_text(encoding="utf-8").splitlines()
    for broken, cells in ((f"{lines[2]},7", len(ROW) + 1), (lines[2][:-1], len(ROW) - 1)):
        path.write_text("\n".join((*lines[:2], broken)), encoding="utf-8")
        with pytest.raises(SpecError, match=f"line 3: {cells} cells, expected {len(ROW)}, one"):
            read_bulk(path)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(table, column):
    path = table({}, columns=[name for name in ROW if name != column])
    with pytest.raises(SpecError, match=f"no column '{column}'"):
        read_bulk(path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tp": "two"}, r"line 2: tp is 'two', expected a number$"),
        ({"tpot_ms": "nan"}, r"line 2: tpot_ms is 'nan', expected a number from 0 to 1e\+12$"),
        ({"concurrency": "1e400"}, r"line 2: concurrency is '1e400', expected a number from 0"),
        ({"tp": "1e300"}, r"line 2: tp is '1e300', expected a number from 0 to 1e\+12$"),
        ({"isl": "-5"}, r"line 2: isl is '-5', expected a number from 0"),
        ({"row_id": "a b"}, r"line 2: id: String should match pattern"),
    ],
)
def test_a_broken_number_is_said_with_its_line(table, fields, says):
    with pytest.raises(SpecError, match=says):
        read_bulk(table(fields))


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match=r"table\.csv"):
        read_bulk(path)
    with pytest.raises(SpecError, match=r"nothing\.csv: cannot be read: No such file"):
        read_bulk(tmp_path / "nothing.csv")
