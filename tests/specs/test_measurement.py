from typing import Any

import pytest
from pydantic import ValidationError

from autopar.specs import Measurements, ServingCase, ServingRow, TrainingCase, TrainingRow

SERVING: dict[str, Any] = {
    "mode": "closed_loop",
    "llm": "llama-3.1-8b",
    "cluster": "1xhgx-h100",
    "source": "a table",
}
TRAINING: dict[str, Any] = SERVING | {"mode": "training"}
ROW: dict[str, Any] = {"id": "a", "input_tokens": 100, "output_tokens": 10, "tpot_ms": 9.5}
RUN: dict[str, Any] = {
    "id": "a",
    "sequence_tokens": 2048,
    "global_batch_sequences": 4,
    "step_s": 1.4,
}


def document(*cases: dict[str, Any]) -> Measurements:
    return Measurements.model_validate({"name": "m", "cases": list(cases)})


def test_mode_decides_which_rows_a_case_has():
    found = document(SERVING | {"rows": [ROW]}, TRAINING | {"rows": [RUN | {"id": "b"}]})
    assert isinstance(found.cases[0], ServingCase)
    assert isinstance(found.cases[1], TrainingCase)


def test_gpus_of_a_run_are_the_product_of_its_degrees():
    row = ServingRow.model_validate(ROW | {"tp": 2, "attn_dp": 3, "pp": 4, "replicas": 5})
    assert (row.stage_gpus, row.num_gpus) == (6, 120)


def test_two_rows_of_one_source_do_not_share_an_id():
    with pytest.raises(ValidationError, match="two rows have the id 'a'"):
        document(SERVING | {"rows": [ROW]}, TRAINING | {"rows": [RUN]})


@pytest.mark.parametrize("row", [ServingRow, TrainingRow])
def test_a_row_without_a_figure_is_refused(row):
    bare = {
        k: v for k, v in (ROW if row is ServingRow else RUN).items() if k[-2:] not in ("ms", "_s")
    }
    with pytest.raises(ValidationError, match="a row needs a figure"):
        row.model_validate(bare)


def test_a_run_out_of_memory_needs_no_figure():
    bare = {k: v for k, v in RUN.items() if k != "step_s"}
    assert TrainingRow.model_validate(bare | {"out_of_memory": True}).out_of_memory


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "fast"])
def test_a_figure_is_a_positive_number(value):
    with pytest.raises(ValidationError):
        ServingRow.model_validate(ROW | {"tpot_ms": value})
