"""TensorRT-LLM: a folder of statistics written by hand, and the load balancer's configuration."""

import json

import numpy as np
import pytest

from autopar.errors import SpecError
from autopar.placement.files.engines import read_map
from autopar.placement.files.loads import read_loads
from autopar.placement.files.maps import ExpertMap
from autopar.placement.files.tensorrt import balancer_text, read_tensors

NAMES = {"<i8": "I64", "<i4": "I32", "<i2": "I16", "|u1": "U8", "<f8": "F64", "<f4": "F32"}


def safetensors(tensors, changes=None):
    """Length of a JSON header, the header, numbers (huggingface/safetensors, README.md)."""
    header, body = {"__metadata__": {"made": "by hand"}}, b""
    for name, array in tensors.items():
        content = array.tobytes()
        header[name] = {
            "dtype": NAMES[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(content)],
        }
        header[name].update((changes or {}).get(name, {}))
        body += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def folder_of(tmp_path, ranks, meta=None):
    folder = tmp_path / "stats"
    folder.mkdir()
    if meta is not False:
        known = {"num_experts": 4, "num_experts_per_token": 2} if meta is None else meta
        (folder / "meta_info.json").write_text(json.dumps(known))
    for number, content in enumerate(ranks):
        (folder / f"rank{number}.safetensors").write_bytes(content)
    return str(folder)


def counts(*values, kind="<i8"):
    return np.array(values, dtype=kind)


@pytest.mark.parametrize("kind", NAMES)
def test_ranks_are_added_up_and_iterations_are_windows(tmp_path, kind):
    first = {
        "10_3": counts(1, 0, 2, 3, kind=kind),
        "10_4": counts(4, 4, 4, 4, kind=kind),
        "2_3": counts(0, 0, 0, 1, kind=kind),
        "2_4": counts(9, 0, 0, 0, kind=kind),
    }
    second = {"10_3": counts(1, 1, 1, 1, kind=kind), "2_4": counts(0, 2, 0, 0, kind=kind)}
    found = read_loads(folder_of(tmp_path, [safetensors(first), safetensors(second)]))
    assert found.layers == (3, 4)
    assert found.counts.tolist() == [[[0, 0, 0, 1], [9, 2, 0, 0]], [[2, 1, 3, 4], [4, 4, 4, 4]]]


GOOD = {"0_3": counts(1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("ranks", "meta", "said"),
    [
        ([safetensors(GOOD)], False, "no meta_info.json; expected a folder of TensorRT-LLM"),
        ([safetensors(GOOD)], {}, "meta_info.json: num_experts: expected a whole number"),
        ([safetensors(GOOD)], {"num_experts": 0}, "num_experts: expected a whole number"),
        ([safetensors(GOOD)], {"num_experts": 5}, r"0_3: found shape \(4,\), expected 5 experts"),
        ([], None, r"no rank\*.safetensors"),
        ([safetensors({})], None, "the files hold no tensors"),
        ([safetensors({"a_b": counts(1, 2, 3, 4)})], None, "'a_b': expected <iteration>_<layer>"),
        (
            [safetensors({"0_3": counts(1, 2, 3, 4), "1_4": counts(1, 2, 3, 4)})],
            None,
            "iteration 0 has no layer 4, others do",
        ),
        ([safetensors({"0_3": counts(1, 2, 3, -4)})], None, "expert 3: found -4, which is negat"),
        ([safetensors({"0_3": counts(1, 2, 3, np.nan, kind="<f8")})], None, "found nan"),
        ([b""], None, "no safetensors file"),
        ([b"abcdefgh"], None, "its header would be"),
        ([(5).to_bytes(8, "little") + b"[nojs"], None, "its header is no JSON"),
        ([safetensors(GOOD)[:-8]], None, "offsets inside the file"),
        ([safetensors(GOOD, {"0_3": {"dtype": "F8"}})], None, "offsets inside the file"),
        ([safetensors(GOOD, {"0_3": {"shape": [3]}})], None, "offsets inside the file"),
        ([safetensors(GOOD, {"0_3": {"shape": ["a"]}})], None, "offsets inside the file"),
        ([safetensors(GOOD, {"0_3": {"shape": [float("inf")]}})], None, "offsets inside the file"),
        ([safetensors(GOOD, {"0_3": {"data_offsets": [0]}})], None, "offsets inside the file"),
        ([safetensors(GOOD, {"0_3": {"data_offsets": [0, 99]}})], None, "offsets inside the file"),
        ([safetensors(GOOD, {"0_3": {"data_offsets": [-32, 32]}})], None, "inside the file"),
        ([safetensors(GOOD, {"0_3": {"data_offsets": [None, 1]}})], None, "inside the file"),
    ],
)
def test_a_folder_that_is_not_of_the_form_is_refused(tmp_path, ranks, meta, said):
    with pytest.raises(SpecError, match=said) as caught:
        read_loads(folder_of(tmp_path, ranks, meta))
    assert "stats" in str(caught.value)


def test_a_header_that_is_no_mapping_of_tensors_is_refused(tmp_path):
    for text in (b'{"0_3": []}', b'{"0_3": null}', b'{"0_3": {}}'):
        file = tmp_path / "rank0.safetensors"
        file.write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(SpecError, match="expected whole numbers or floats"):
            read_tensors(file)


def test_the_configuration_has_the_three_fields_that_the_engine_takes(tmp_path):
    """MoeLoadBalancerConfig forbids others; a layer's list is as long as num_slots."""
    placement = ExpertMap(np.array([[0, 1, 2, 0], [2, 1, 0, 1]]), (3, 60))
    text = balancer_text(placement)
    assert text.splitlines() == [
        "num_slots: 4",
        "layer_updates_per_iter: 0",
        "initial_global_assignments:",
        "  3: [0, 1, 2, 0]",
        "  60: [2, 1, 0, 1]",
    ]
    file = tmp_path / "balancer.yaml"
    file.write_text(text)
    assert placement.differences(read_map(str(file), "tensorrt-llm")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_slots: 4\n", "no initial_global_assignments"),
        ("num_slots: 2\ninitial_global_assignments: {3: [0, 1]}\nep_size: 2\n", "ep_size: Tensor"),
        ("num_slots: 3\ninitial_global_assignments: {3: [0, 1]}\n", "num_slots: expected 2"),
        ("initial_global_assignments: {3: [0, 1]}\n", "num_slots: expected 2"),
        ("num_slots: 2\ninitial_global_assignments: []\n", "expected a mapping of layers"),
        ("num_slots: 2\ninitial_global_assignments: {}\n", "expected a mapping of layers"),
        ("num_slots: 2\ninitial_global_assignments: {a: [0, 1]}\n", "expected numbers of layers"),
        ("num_slots: 2\ninitial_global_assignments: {3: [0, 1], 4: [0]}\n", "found 1 slots, expe"),
        ("num_slots: 2\ninitial_global_assignments: {3: [0, x]}\n", "found 'x', expected the num"),
        ("num_slots: 2\ninitial_global_assignments: {3: [0, -1]}\n", "found -1, expected the num"),
        ("num_slots: 2\ninitial_global_assignments: {3: [0, true]}\n", "found True, expected"),
        ("num_slots: 2\ninitial_global_assignments: {-1: [0, 1]}\n", "the layers' numbers"),
        ('num_slots: 1\ninitial_global_assignments: {"03": [0], 3: [0]}\n', "none twice"),
        ("[[0, 1]]", "no initial_global_assignments"),
        ("num_slots: 2\ninitial_global_assignments: {3: 5}\n", "a list of slots for each layer"),
    ],
)
def test_a_configuration_that_the_engine_would_refuse_is_refused(tmp_path, text, said):
    file = tmp_path / "balancer.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=said) as caught:
        read_map(str(file), "tensorrt-llm")
    assert "balancer.yaml" in str(caught.value)
