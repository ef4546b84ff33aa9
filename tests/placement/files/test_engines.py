"""The files of engines: exactly the fields that each takes, and read back as they were written."""

import json

import numpy as np
import pytest

from autopar.errors import SpecError, VerificationError
from autopar.placement.files.engines import TARGETS, read_map, text_for, verify_file
from autopar.placement.files.maps import ExpertMap

# 4 experts on 2 GPUs of 2 slots, one replica each; and 6 slots on 3 GPUs.
PLAIN = ExpertMap(np.array([[2, 0, 3, 1], [0, 3, 1, 2]]), (3, 4))
REDUNDANT = ExpertMap(np.array([[2, 0, 3, 1, 2, 3], [0, 3, 1, 2, 0, 1]]), (3, 4))


def write(tmp_path, target, placement=PLAIN, num_gpus=2, num_layers=None, num_groups=1):
    file = tmp_path / (f"{target}.yaml" if target == "tensorrt-llm" else f"{target}.json")
    file.write_text(text_for(target, placement, num_gpus, 4, num_layers, num_groups))
    return file


def data_of(file):
    return json.loads(file.read_text())


@pytest.mark.parametrize("num_layers", [None, 6])
@pytest.mark.parametrize("target", TARGETS)
def test_each_file_reads_back_as_the_placement(tmp_path, target, num_layers):
    file = write(tmp_path, target, num_layers=num_layers)
    verify_file(file, target, PLAIN, num_layers)
    for known in (target, None):
        found = read_map(str(file), known)
        rows = found.slots if len(found.slots) == 2 else found.slots[[3, 4]]
        assert rows.tolist() == PLAIN.slots.tolist()


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "vllm"])
def test_replicas_read_back_too(tmp_path, target):
    file = write(tmp_path, target, REDUNDANT, 3)
    verify_file(file, target, REDUNDANT, None)


def test_sglang_takes_the_map_alone_with_a_row_for_every_decoder_layer(tmp_path):
    data = data_of(write(tmp_path, "sglang", REDUNDANT, 3, num_layers=6))
    assert list(data) == ["physical_to_logical_map"]
    rows = data["physical_to_logical_map"]
    trivial = [0, 1, 2, 3, 0, 1]
    assert rows == [trivial, trivial, trivial, *REDUNDANT.slots.tolist(), trivial]


def test_sglang_has_rows_up_to_the_last_layer_where_the_model_is_not_known(tmp_path):
    rows = data_of(write(tmp_path, "sglang"))["physical_to_logical_map"]
    assert len(rows) == 5
    assert rows[3:] == PLAIN.slots.tolist()


def test_vllm_ascend_has_a_list_of_experts_per_device(tmp_path):
    assert data_of(write(tmp_path, "vllm-ascend", REDUNDANT, 3)) == {
        "moe_layer_count": 2,
        "layer_list": [
            {
                "layer_id": number,
                "device_count": 3,
                "device_list": [
                    {"device_id": gpu, "device_expert": row[2 * gpu : 2 * gpu + 2]}
                    for gpu in range(3)
                ],
            }
            for number, row in enumerate(REDUNDANT.slots.tolist())
        ],
    }


def test_vllm_gets_a_permutation_and_says_of_what(tmp_path):
    data = data_of(write(tmp_path, "vllm"))
    assert set(data) == {
        "what", "holds_if", "expert_parallel_size", "layers", "new_to_old_expert",
    }  # fmt: skip
    assert data["new_to_old_expert"] == PLAIN.slots.tolist()
    assert (data["layers"], data["expert_parallel_size"]) == ([3, 4], 2)
    assert "router" in data["what"]


def test_vllm_takes_no_replicas_and_no_torn_groups(tmp_path):
    with pytest.raises(SpecError, match="6 slots for 4 experts: vLLM takes no map"):
        write(tmp_path, "vllm", REDUNDANT, 3)
    with pytest.raises(SpecError, match="tear apart"):
        write(tmp_path, "vllm", num_groups=2)
    whole = ExpertMap(np.array([[3, 2, 0, 1]]), (3,))
    file = write(tmp_path, "vllm", whole, num_groups=2)
    verify_file(file, "vllm", whole, None)


def first_slot(data):
    """Set the first slot of layer 3 to another expert, wherever the file has it."""
    if "physical_to_logical_map" in data:
        data["physical_to_logical_map"][3][0] = 1
    elif "layer_list" in data:
        data["layer_list"][0]["device_list"][0]["device_expert"][0] = 1
    else:
        row = data["new_to_old_expert"][0]
        row[0], row[3] = row[3], row[0]


@pytest.mark.parametrize("num_layers", [None, 6])
@pytest.mark.parametrize("target", ["sglang", "vllm-ascend", "vllm"])
def test_a_file_with_another_expert_in_a_slot_is_caught(tmp_path, target, num_layers):
    file = write(tmp_path, target, num_layers=num_layers)
    data = data_of(file)
    first_slot(data)
    file.write_text(json.dumps(data))
    with pytest.raises(VerificationError, match="layer 3, slot 0: expert 1; expected 2"):
        verify_file(file, target, PLAIN, num_layers)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("3: [2, 0, 3, 1]", "3: [2, 0, 3, 0]", "layer 3, slot 3: expert 0; expected 1"),
        ("  4: ", "  5: ", "layers 3, 5; expected 3, 4"),
        ("  4: [0, 3, 1, 2]\n", "", "layers 3; expected 3, 4"),
    ],
)
def test_a_changed_configuration_of_tensorrt_llm_is_caught(tmp_path, old, new, said):
    file = write(tmp_path, "tensorrt-llm")
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(VerificationError, match=said):
        verify_file(file, "tensorrt-llm", PLAIN, None)


@pytest.mark.parametrize("target", ["sglang", "vllm-ascend", "vllm"])
@pytest.mark.parametrize("num_layers", [None, 6])
def test_a_file_that_lacks_its_last_layer_is_caught(tmp_path, target, num_layers):
    file = write(tmp_path, target, num_layers=num_layers)
    data = data_of(file)
    for key in ("physical_to_logical_map", "layer_list", "new_to_old_expert", "layers"):
        if key in data:
            del data[key][4 if target == "sglang" else 1 :]
    file.write_text(json.dumps(data))
    with pytest.raises(VerificationError, match="read back"):
        verify_file(file, target, PLAIN, num_layers)


def test_sglang_refuses_other_fields_and_our_document_has_them(tmp_path):
    file = tmp_path / "document.json"
    rows = PLAIN.slots.tolist()
    file.write_text(
        json.dumps(
            {"physical_to_logical_map": rows, "layers": [{"layer": 3}, {"layer": 4}], "gap": 0}
        )
    )
    assert PLAIN.differences(read_map(str(file))) == []
    with pytest.raises(SpecError, match="SGLang takes physical_to_logical_map and no other field"):
        read_map(str(file), "sglang")
    file.write_text(json.dumps({"physical_to_logical_map": rows, "layers": [3, 4]}))
    assert PLAIN.differences(read_map(str(file))) == []
    file.write_text(json.dumps(rows))
    assert read_map(str(file)).layers == (0, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "no placement: expected physical_to_logical_map"),
        ([], "expected a list of slots for each layer"),
        ([[]], r"\[0\]: found 0 slots"),
        ([[0, 1], [0]], r"\[1\]: found 1 slots, expected 2"),
        ([[0, -1]], "found -1, expected the number of an expert"),
        ([[0, 1.0]], "found 1.0, expected the number of an expert"),
        ([[0, 99999]], "found 99999, expected the number of an expert"),
        ({"physical_to_logical_map": 3}, "physical_to_logical_map: expected a list"),
        (
            {"physical_to_logical_map": [[0]], "layers": [1, 2]},
            "layers: found 2 numbers for 1 layer",
        ),
        ({"physical_to_logical_map": [[0]], "layers": ["a"]}, "layers: expected a list"),
        ({"physical_to_logical_map": [[0], [0]], "layers": [3, 3]}, "none twice"),
        ({"physical_to_logical_map": [[0]], "layers": [-1]}, "layers: "),
        ({"physical_to_logical_map": [[0]], "layers": [{"layer": None}]}, "layers: "),
        ({"layer_list": 3}, "layer_list: expected layer_id and device_list"),
        ({"layer_list": [{"layer_id": 0}]}, "layer_list: expected layer_id and device_list"),
        ({"layer_list": []}, "layer_list: expected a list of slots"),
        (
            {
                "layer_list": [
                    {"layer_id": 0, "device_list": [{"device_id": 0, "device_expert": 1}]}
                ]
            },
            "layer_list: expected layer_id and device_list",
        ),
        ({"new_to_old_expert": [[0, 2]]}, r"new_to_old_expert\[0\]: no permutation"),
        ({"new_to_old_expert": [[1, 0]], "layers": 5}, "layers: "),
    ],
)
def test_what_is_no_placement_is_refused(tmp_path, data, said):
    file = tmp_path / "map.json"
    file.write_text(json.dumps(data))
    with pytest.raises(SpecError, match=said) as caught:
        read_map(str(file))
    assert "map.json" in str(caught.value)
