"""Raw timings are read back as they were written, and refused with what is wrong with them."""

import json

import pytest

from autopar.calibration.cases import planned
from autopar.calibration.measuring import measure
from autopar.calibration.timings import read_timings
from autopar.errors import SpecError
from autopar.report.json import dump


@pytest.fixture(scope="module")
def document(fake_timer):
    return measure(fake_timer(), planned(["gemm", "decode_attention"]), 1e9).document()


@pytest.fixture
def read(document, tmp_path):
    """Write a document with changes, and read it."""

    def apply(change=lambda _: None):
        data = json.loads(json.dumps(document))
        change(data)
        file = tmp_path / "raw.json"
        file.write_text(dump(data), encoding="utf-8")
        return read_timings(file)

    return apply


def test_what_was_written_is_read(read, document):
    assert read().document() == document


def test_only_what_is_wanted_is_kept(read):
    kept = read().only(["gemm"], ["fp8"])
    assert {(timed.operation, timed.name) for timed in kept.timings} == {("gemm", "fp8")}


def test_columns_hold_the_sizes_and_times_of_an_operation(read):
    rows = read().rows("gemm", "bf16")
    assert set(rows.columns) == {"m", "k", "n", "us"}
    assert len(rows) == 169
    assert read().rows("experts", "bf16") is None


def row(field, value):
    def change(data):
        data["timings"][3][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (row("us", -1.0), r"raw.json: timings\[3\].us: found -1.0, expected a number greater"),
        (row("us", 0), r"timings\[3\].us: found 0, expected a number greater than 0"),
        (row("us", None), r"timings\[3\].us: found null"),
        (row("sizes", {"m": 1}), r"timings\[3\]: sizes m; expected "),
        (row("sizes", {"m": 1, "k": 0, "n": 2}), r"timings\[3\].sizes.k: found 0, expected"),
        (row("sizes", {"m": 1, "k": 2.5, "n": 2}), r"timings\[3\].sizes.k: found 2.5, expected"),
        (row("operation", "conv"), r"timings\[3\].operation: found 'conv', expected 'gemm'"),
        (row("name", "fp32"), r"timings\[3\]: .* of 'fp32'; expected one of "),
        (row("speed", 1), r"timings\[3\].speed: unknown field"),
        (lambda data: data.update(timings=[]), r"raw.json: timings: found a list of 0 items"),
        (lambda data: data.pop("machine"), r"machine: found nothing, expected a value"),
        (lambda data: data.update(schema=2), r"raw.json: schema: found 2, expected"),
        (
            lambda data: data.update(kind="plan"),
            r"kind: expected kind kernel-timings, found 'plan'; autopar calibrate --raw FILE",
        ),
    ],
)
def test_a_wrong_field_is_named(read, change, message):
    with pytest.raises(SpecError, match=message):
        read(change)


def test_a_size_of_heads_that_no_formula_knows_is_refused(read):
    def change(data):
        (first, *_) = [t for t in data["timings"] if t["operation"] == "decode_attention"]
        first["sizes"]["head_dim"] = 80

    with pytest.raises(SpecError, match="head_dim 80; expected one of 64, 128, 192, 256"):
        read(change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "kind": "kernel-timings", "timi', "not valid JSON"),
        ('{"kind": "kernel-timings", "timings": [{"us": NaN}]}', r"timings\[0\].us"),
        ("", "the file is empty"),
        ("[1, 2]", "expected a mapping of fields"),
        ('{"model_type": "llama"}', "expected kind kernel-timings, found None"),
    ],
)
def test_a_file_that_is_cut_or_foreign_is_refused(tmp_path, text, message):
    file = tmp_path / "raw.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        read_timings(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        read_timings(tmp_path / "raw.json")
