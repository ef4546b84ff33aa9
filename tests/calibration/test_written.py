"""A GPU's file is YAML that people read, and that reads back as what it was."""

import pytest

from autopar.calibration.written import flow, gpu_text
from autopar.documents import parse


def test_constants_stand_on_one_line_with_rates_in_gigabytes():
    fit = {"gpus": [2, 4], "start_us": [1.0, 2.5], "bandwidth_bytes_per_s": [3.42e11, 2e9]}
    assert flow(fit) == (
        "{gpus: [2, 4], start_us: [1, 2.5], bandwidth_bytes_per_s: [342 GB/s, 2 GB/s]}"
    )
    assert flow({"sends_once": False, "bend_us": []}) == "{sends_once: false}"


def test_fields_have_units_and_lines_their_comments():
    text = gpu_text(
        {"name": "mine", "sources": ["a: b", "plain"], "memory_bytes": 2**30, "power_w": 700.0},
        {
            "note": "measured: all",
            "gemm": {"bf16": {"start_us": 1.0}},
            "elementwise": {"start_us": 2.0},
            "collectives": {"link_bandwidth_bytes_per_s": 4.5e11, "exchange": [{"start_us": 3.0}]},
        },
        {("", ""): "fitted", ("gemm", "bf16"): "3 %", ("elementwise", ""): "4 %"},
    )
    assert text.splitlines() == [
        *("schema: 1", "kind: gpu", "name: mine", "sources:", '  - "a: b"', "  - plain"),
        *("memory_bytes: 1024 MiB", "power_w: 700", "# fitted", "kernels:"),
        *('  note: "measured: all"', "  gemm:", "    # 3 %", "    bf16: {start_us: 1}"),
        *("  # 4 %", "  elementwise: {start_us: 2}", "  collectives:"),
        *("    link_bandwidth_bytes_per_s: 450 GB/s", "    exchange:", "      - {start_us: 3}"),
    ]


@pytest.mark.parametrize("value", ["no", "1.5", 'say "x" # not', "naïve", "a: b", "", "[x]"])
def test_any_text_survives(value):
    text = gpu_text({"description": value}, {}, {("", ""): "x"})
    assert parse(text.replace("kernels:\n", ""), "x.yaml")["description"] == value
