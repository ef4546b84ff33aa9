"""Loads of experts in every format that is read, and what is said of a file that is none."""

import io
import json

import numpy as np
import pytest

from autopar.errors import SpecError
from autopar.placement.files.loads import read_loads

COUNTS = np.array([[[1, 2, 3, 0], [9, 0, 4, 5]], [[2, 2, 2, 1], [0, 1, 0, 7]]], dtype=float)
ONE = COUNTS[:1]


def put(tmp_path, name, content):
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def triples(counts, *, window=True):
    header = "window,layer,expert,count\n" if window else "layer,expert,count\n"
    lines = [
        ",".join(map(str, (w, n, e, counts[w, n, e]) if window else (n, e, counts[w, n, e])))
        for w, n, e in np.ndindex(*counts.shape)
    ]
    return header + "\n".join(lines) + "\n"


def npz(compressed=False, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", ONE[0].tolist(), ONE),
        ("a.json", COUNTS.tolist(), COUNTS),
        ("a.json", ONE[0, 0].tolist(), ONE[:, :1]),
        ("a.json", {"loads": ONE[0].tolist()}, ONE),
        ("a.json", {"windows": COUNTS.tolist()}, COUNTS),
        ("a.json", {"logical_count": COUNTS.tolist(), "rank": 0}, COUNTS),
        ("a.yaml", "loads: [[1, 2, 3, 0], [9, 0, 4, 5]]\n", ONE),
        ("a.csv", "1,2,3,0\n9,0,4,5\n", ONE),
        ("a.csv", "\n1, 2 ,3,0\n\n9,0,4,5\n\n", ONE),
        ("a", "1,2,3,0\n9,0,4,5\n", ONE),
        ("a.csv", triples(COUNTS), COUNTS),
        ("a.csv", triples(ONE, window=False), ONE),
        ("a.csv", "Expert, COUNT, Layer\n3,7,1\n0,2,0\n", [[[2, 0, 0, 0], [0, 0, 0, 7]]]),
        ("a.npy", npy(COUNTS), COUNTS),
        ("a.npy", npy(COUNTS[0].astype("int32")), ONE),
        ("a.npz", npz(loads=COUNTS), COUNTS),
        ("a.npz", npz(windows=COUNTS.astype("float32")), COUNTS),
        ("a.npz", npz(compressed=True, logical_count=COUNTS), COUNTS),
    ],
)
def test_each_format_is_read(tmp_path, name, content, expected):
    found = read_loads(put(tmp_path, name, content))
    assert found.counts.tolist() == np.asarray(expected).tolist()
    assert found.layers == tuple(range(found.counts.shape[1]))
    assert (found.routing, found.coactivation) == (None, None)


@pytest.mark.parametrize("as_npz", [False, True])
def test_a_mapping_may_have_numbers_of_layers_routing_and_coactivation(tmp_path, as_npz):
    pairs = np.array([[[5, 1, 0, 0], [1, 0, 2, 0], [0, 2, 9, 0], [0, 0, 0, 0]]] * 2)
    data = {
        "loads": COUNTS,
        "layers": np.array([3, 7]),
        "routing": np.array([[[0, 1], [1, 2], [3, 0]], [[0, 3], [1, 3], [2, 3]]]),
        "coactivation": pairs,
    }
    if as_npz:
        file = put(tmp_path, "a.npz", npz(**data))
    else:
        file = put(tmp_path, "a.json", {key: value.tolist() for key, value in data.items()})
    found = read_loads(file)
    assert found.layers == (3, 7)
    assert found.routing.tolist() == data["routing"].tolist()
    assert found.coactivation[0].tolist() == [
        [0, 1, 0, 0], [1, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0]
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [(0, 1), (3, 7)])
def test_numbers_in_rows_of_csv_are_those_of_the_layers(tmp_path, layers):
    text = f"layer,expert,count\n{layers[1]},0,4\n{layers[0]},1,2\n"
    found = read_loads(put(tmp_path, "a.csv", text))
    assert found.layers == layers
    assert found.counts.tolist() == [[[0, 2], [4, 0]]]


HUGE = npy(np.zeros((2, 2))).replace(b"(2, 2)", b"(9999999999999, 2)").replace(b" " * 20, b"", 1)
BROKEN_ZIP = bytearray(npz(compressed=True, loads=np.arange(4000.0).reshape(4, -1)))
BROKEN_ZIP[200:260] = bytes(60)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "", "the file is empty"),
        ("a.json", " \n", "the file is empty"),
        ("a.json", "[[1, 2], [3, -4]]", "layer 1, expert 1: found -4, which is negative"),
        ("a.json", [[[1, 2]], [[3, -4]]], "window 1, layer 0, expert 1: found -4"),
        ("a.json", "[[1, NaN]]", "found nan, expected a finite number"),
        ("a.json", "[[1, 1e999]]", "finite"),
        ("a.json", "[[1, 2], [3]]", r"a.json: loads\[1\]: found 1 values, expected 2"),
        ("a.json", "[[1, 2], 3]", "loads: found numbers and lists side by side"),
        ("a.json", '[[1, "two"]]', r"loads\[0\]\[1\]: found 'two', expected a number"),
        ("a.json", "[[1, null]]", r"loads\[0\]\[1\]: found null, expected a number"),
        ("a.json", "[[1, true]]", r"loads\[0\]\[1\]: found True, expected a number"),
        ("a.json", "[[1, 1e300]]", "layer 0, expert 1: found 1e\\+300, which is too large"),
        ("a.json", "[[1, " + "9" * 400 + "]]", "loads"),
        ("a.json", "[]", "loads: found an empty list"),
        ("a.json", "[[]]", r"loads\[0\]: found an empty list"),
        ("a.json", "[[[[1]]]]", r"found an array of shape \(1, 1, 1, 1\)"),
        ("a.json", '{"loads": 5}', r"found an array of shape \(\)"),
        ("a.json", '{"load": [[1]]}', "load: unknown field; did you mean 'loads'"),
        ("a.json", '{"loads": [[1]], "windows": [[[1]]]}', "found loads and windows"),
        ("a.json", "{}", "expected one of loads"),
        ("a.json", '{"loads": [[1], [2]], "layers": [1]}', "layers: found 1 number for 2 layers"),
        ("a.json", '{"loads": [[1], [2]], "layers": [1, 1]}', "none twice"),
        ("a.json", '{"loads": [[1]], "layers": [-1]}', "layers: expected a list"),
        ("a.json", '{"loads": [[1]], "layers": ["a"]}', "layers: expected a list"),
        ("a.json", '{"loads": [[1]], "layers": 0}', "layers: expected a list"),
        ("a.json", '{"loads": [[1, 2]], "routing": [[[0, 2]]]}', "routing: .*0 to 1"),
        ("a.json", '{"loads": [[1, 2]], "routing": [[[0, 0.5]]]}', "routing: .*0 to 1"),
        ("a.json", '{"loads": [[1, 2]], "routing": [[[0, 1e30]]]}', "routing: .*0 to 1"),
        ("a.json", '{"loads": [[1, 2]], "routing": [[[1, 1]]]}', "token 0: found an expert twice"),
        ("a.json", '{"loads": [[1, 2]], "routing": [[[0]], [[1]]]}', "routing: found an array"),
        ("a.json", '{"loads": [[1, 2]], "coactivation": [[[0, 1]]]}', "coactivation: found an ar"),
        ("a.json", '{"loads": [[1, 2]], "coactivation": [[0, 1], [2, 0]]}', "both ways round"),
        ("a.json", '{"loads": [[1, 2]], "coactivation": [[0, -1], [-1, 0]]}', "at least 0"),
        ("a.json", "[" * 100 + "1" + "]" * 100, "a.json"),
        ("a.json", "[[1, 2]", "a.json"),
        ("a.csv", "1,2\n3\n", r"a.csv\[1\]: found 1 values, expected 2"),
        ("a.csv", "1,2\n3,x\n", "line 2, column 2: found 'x', expected a number"),
        ("a.csv", "1,2\n\n\n3,x\n", "line 4, column 2: found 'x'"),
        ("a.csv", "1,2\n3,\n", "line 2, column 2: found '', expected a number"),
        ("a.csv", "1,2\n3,-1\n", "layer 1, expert 1: found -1"),
        ("a.csv", "1,nan\n", "layer 0, expert 1: found nan"),
        ("a.csv", "one,two\n1,2\n", "line 1: found 'one'; expected a number"),
        ("a.csv", "layer,expert\n1,2\n", "line 1: no column count"),
        ("a.csv", "layer,expert,count,node\n1,2,3,4\n", "unknown column 'node'"),
        ("a.csv", "layer,expert,count,count\n1,2,3,4\n", "stands twice"),
        ("a.csv", "layer,expert,count\n", "no rows below the header"),
        ("a.csv", "layer,expert,count\n1,2\n", "line 2: 2 values for 3 columns"),
        ("a.csv", "layer,expert,count\n1,2,3\n\n1,2,4\n", "line 4: layer 1, expert 2 stands twi"),
        ("a.csv", "layer,expert,count\n1.5,2,3\n", "line 2: expected whole numbers"),
        ("a.csv", "layer,expert,count\nnan,2,3\n", "line 2: expected whole numbers"),
        ("a.csv", "layer,expert,count\ninf,2,3\n", "line 2: expected whole numbers"),
        ("a.csv", "layer,expert,count\n0,99999,3\n", "expected at most 1,024 and 4,096"),
        ("a.csv", "layer,expert,count\n0,0,-3\n", "layer 0, expert 0: found -3"),
        ("a.csv", ",,\n,\n", "no rows|the file is empty"),
        ("a.csv", "1,2\x00\n", "a.csv"),
        ("a.csv", "1," + "2" * 200_000 + "\n", "a.csv"),
        ("a.csv", b"\xff\xfe1,2\n", "a.csv"),
        ("a.npy", b"", "no numpy file of numbers"),
        ("a.npy", b"text", "no numpy file of numbers"),
        ("a.npy", npy(np.array([[1, None]], dtype=object)), "no numpy file of numbers"),
        ("a.npy", npy(np.array([["a"]])), "found an array of <U1, expected numbers"),
        ("a.npy", npy(np.array([[True]])), "found an array of bool, expected numbers"),
        ("a.npy", npy(np.array([[1j]])), "found an array of complex128"),
        ("a.npy", npy(np.array([[np.nan, 1]])), "layer 0, expert 0: found nan"),
        ("a.npy", npy(np.array([[-1, 1]])), "layer 0, expert 0: found -1"),
        ("a.npy", npy(np.float64(3)), r"found an array of shape \(\)"),
        ("a.npy", npy(np.zeros((0, 3))), r"found an array of shape \(1, 0, 3\)"),
        ("a.npy", npy(np.ones((1, 5000))), "expected at most 1,024 and 4,096"),
        ("a.npy", HUGE, "no numpy file of numbers"),
        ("a.npz", npz(load=ONE), "load: unknown field; did you mean 'loads'"),
        ("a.npz", npz(loads=ONE, layers=np.array([0.0, 1.0])), "layers: expected a list"),
        ("a.npz", npz(loads=np.array([[None]], dtype=object)), "no numpy file of numbers"),
        ("a.npz", npz(loads=ONE)[:-30], "no numpy file of numbers"),
        ("a.npz", bytes(BROKEN_ZIP), "no numpy file of numbers"),
        ("a.npz", npz(loads=ONE, routing=np.full((2, 1, 1), np.nan)), "routing: .*0 to 3"),
    ],
)  # fmt: skip
def test_malformed_loads_are_refused_where_they_are_wrong(tmp_path, name, content, said):
    with pytest.raises(SpecError, match=said) as caught:
        read_loads(put(tmp_path, name, content))
    assert f"{tmp_path}/{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_few_rows_of_csv_cannot_ask_for_all_memory(tmp_path):
    rows = "".join(f"{w},{w % 1000},4095,1\n" for w in range(3000))
    with pytest.raises(SpecError, match="windows"):
        read_loads(put(tmp_path, "a.csv", "window,layer,expert,count\n" + rows))


@pytest.mark.parametrize("name", ["a.json", "a.npz", "a.npy", "a.pt", "a.csv"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(SpecError, match=f"{name}: no such file"):
        read_loads(str(tmp_path / name))
