"""`autopar validate` as a user types it."""

import json
from statistics import fmean

import pytest
from click.testing import CliRunner

from autopar.catalog import read_document
from autopar.cli import main
from autopar.documents import parse

SOURCE = "tensorrt-llm-0.5-first-token"
[PROMPT] = [
    (band["low"], band["high"])
    for band in read_document("bands", "default")["metrics"]
    if band["metric"] == "prompt" and band["has_kernels"]
]


def run(*args):
    return CliRunner().invoke(main, ["validate", *map(str, args)])


def test_one_source_is_predicted_and_scored():
    """Errors are counted again from the rows, and what was measured is what the source says."""
    result = run(SOURCE, "--rows", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    [group] = [g for g in document["groups"] if (g["by"], g["metric"]) == ("all", "ttft_ms")]
    rows = document["rows"]
    stated = [
        row for case in read_document("measurements", SOURCE)["cases"] for row in case["rows"]
    ]
    assert [row["measured"] for row in rows] == [row["ttft_ms"] for row in stated]
    ratios = [row["predicted"] / row["measured"] for row in rows]
    assert group["rows"] == len(rows) == 8
    assert group["mape"] == pytest.approx(fmean(abs(ratio - 1) for ratio in ratios))
    assert group["mape"] <= 0.10
    within = [1 / high <= ratio <= 1 / low for ratio in ratios for low, high in [PROMPT]]
    assert group["inside_band"] == pytest.approx(fmean(within))


def test_the_text_fits_a_terminal_and_says_what_its_columns_mean():
    result = run(SOURCE)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "TTFT of a lone request" in result.stdout
    assert "MAPE, median:" in result.stdout


def test_rows_are_in_the_document_if_asked_for(tmp_path):
    file = tmp_path / "found.yaml"
    run(SOURCE, "--rows", "-o", file)
    rows = parse(file.read_text(), "found.yaml")["rows"]
    assert len(rows) == 8
    assert {"predicted", "measured", "gpu", "metric"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("nim",), "unknown source 'nim'"),
        (("--data", "nowhere.csv"), "nowhere.csv: cannot be read"),
        (("--catalog", "nowhere"), "is not a directory"),
    ],
)
def test_bad_input_is_named(args, says):
    result = run(*args)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


def test_a_catalogue_of_ones_own_is_validated(tmp_path):
    (tmp_path / "measurements").mkdir()
    (tmp_path / "measurements" / "mine.yaml").write_text(
        """
        schema: 1
        kind: measurements
        name: mine
        cases:
          - mode: closed_loop
            llm: llama-3.1-8b
            cluster: 1xhgx-h100
            source: my own service
            rows:
              - {id: one, tp: 1, input_tokens: 1024, output_tokens: 256, concurrency: 8, tpot_ms: 8}
        """
    )
    result = run("mine", "--catalog", tmp_path, "--json")
    assert json.loads(result.stdout)["groups"][0]["rows"] == 1


HEADER = (
    "row_id,tier,family,source_key,engine,model,gpu,tp,mode,isl,osl,concurrency,tpot_ms,ttft_ms"
)
LINE = "x-1,{tier},inference,me,vllm,Llama-3.1-8B,H100,1,agg,1024,{osl},16,{tpot},{ttft}"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tpot": "0"}, "no row can be predicted: 1 row: tpot_ms is 0, which is no figure"),
        ({"tier": "C"}, "no row can be predicted: 1 row: tier 'C', which --tier does not name"),
        (
            {"tpot": "", "ttft": "90"},
            "no row is scored: 1 row: neither TPOT, nor TTFT of up to four clients: no figure",
        ),
    ],
)
def test_a_table_of_which_nothing_is_scored_says_why(tmp_path, fields, says):
    line = LINE.format(**{"tier": "A", "osl": 128, "tpot": 9, "ttft": ""} | fields)
    path = tmp_path / "table.csv"
    path.write_text(f"{HEADER}\n{line}\n", encoding="utf-8")
    result = run("--data", path)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert result.stdout == ""
