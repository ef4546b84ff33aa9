"""Host lists of Slurm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.errors import SpecError
from autopar.ingest.cluster.hostlist import compress, expand, natural


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("node[001-003,007]", ["node001", "node002", "node003", "node007"]),
        ("a,b[1-2]-ib,c", ["a", "b1-ib", "b2-ib", "c"]),
        ("r[1-2]n[08-10]", ["r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10"]),
        ("n[1,1]", ["n1"]),
        ("gpu-1.example.org", ["gpu-1.example.org"]),
    ],
)
def test_a_host_list_names_its_nodes(text, names):
    assert expand(text, "x") == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node[1-3", "expected a ] for every ["),
        ("node1-3]", "expected a ] for every ["),
        ("node[[1]]", "expected a ] for every ["),
        ("node[3-1]", "expected one that ascends"),
        ("node[1-99999999]", "expected one that ascends over at most 65,536 nodes"),
        ("node[a-b]", "expected a number or a range such as 001-004"),
        ("a[1-500]b[1-500]", "more than 65,536 nodes"),
        ("", "expected names of nodes"),
        ("a,,b", "expected names of nodes"),
        ("no de", "expected names of nodes"),
        ("node\x1b", "expected names of nodes"),
    ],
)
def test_a_wrong_host_list_is_refused_with_its_place(text, message):
    with pytest.raises(SpecError, match=r"^t\.conf: line 3: ") as error:
        expand(text, "t.conf: line 3")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["node001", "node002", "node003", "node007"], "node[001-003,007]"),
        (["n9", "n10", "n11"], "n[9-11]"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n0", "n1", "n10"], "n[0-1,10]"),
        (["login", "n1"], "login,n1"),
        (["n1-ib", "n2-ib"], "n[1-2]-ib"),
        (["node005", "node006", "node006", "x", "x"], "node[005-006],x"),
    ],
)
def test_names_become_ranges(names, text):
    assert compress(names) == text


@given(
    st.lists(st.from_regex(r"[a-c]{1,2}[0-9]{0,3}(-x)?", fullmatch=True), unique=True, max_size=20)
)
def test_compress_and_expand_are_inverse(names):
    assert not names or sorted(expand(compress(names), "x")) == sorted(names)


def test_names_sort_by_their_numbers():
    assert sorted(["n10", "n9", "m1", "n2x1"], key=natural) == ["m1", "n2x1", "n9", "n10"]
