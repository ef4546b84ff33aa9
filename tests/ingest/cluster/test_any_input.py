"""Whatever is in a file: a cluster, or an error that names the file."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopar.errors import SpecError
from autopar.ingest.cluster import draft_of
from autopar.ingest.cluster.draft import Given
from autopar.ingest.cluster.gather import gather
from autopar.ingest.cluster.names import Names
from autopar.ingest.cluster.nccl import read_test
from autopar.ingest.cluster.select import Wanted, select
from autopar.ingest.cluster.spec_text import spec_text
from autopar.ingest.cluster.text import Output

PIECES = ("NV18", "X", "SYS", "GPU0", "GPU7", "NodeName=", "Gres=gpu:", "[", "]", "-", ",", "=",
          "\t", "\n", "\r", "\x1b[4m", "{", "}", '"', "nvidia.com/gpu", "0", "-1", "9" * 30, "é",
          "index, name", "MiB", "Switches=", "\\", "(null)", "null", "[]")  # fmt: skip


@pytest.fixture(scope="module")
def samples(shapes):
    """One output of each kind."""
    clique = {"nvidia.com/gpu.clique": "1f0d2c8e-51ad-4b0f-9d46-3c6e6d1c2b7a.1"}
    return {
        "machine": shapes["matrix"](4, "NV18", 2) + shapes["cards"](*["NVIDIA H100 80GB HBM3"] * 4),
        "kubernetes": shapes["kubectl"](*(shapes["node"](f"n{i}", labels=clique) for i in (1, 2))),
        "slurm": shapes["scontrol"]("n1") + shapes["scontrol"]("n2", one_line=True),
        "network": "SwitchName=s1 Nodes=n[1-2]\nSwitchName=s2 Switches=s1\n",
        "test": shapes["nccl"]({"n1": 8}, 400.0),
    }


@st.composite
def changes(draw, size):
    """Places in a text, and what comes there: cut, put in, doubled."""
    places = draw(st.lists(st.integers(0, size), min_size=1, max_size=4))
    pieces, lengths = st.sampled_from((*PIECES, "cut", "double")), st.integers(0, 40)
    return [(place, draw(pieces), draw(lengths)) for place in places]


def changed(text, edits):
    for place, piece, length in edits:
        at = min(place, len(text))
        if piece == "cut":
            text = text[:at] + text[at + length :]
        elif piece == "double":
            text = text[:at] + text[max(at - length, 0) :]
        else:
            text = text[:at] + piece + text[at + length % 3 :]
    return text


@pytest.mark.parametrize("kind", ["machine", "kubernetes", "slurm", "network", "test"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_file_is_read_or_refused_by_name(kind, samples, catalogue, tmp_path, data):
    text = samples[kind]
    text = changed(text, data.draw(changes(len(text))))
    file = tmp_path / "saved.txt"
    file.write_text(text, encoding="utf-8", newline="")
    sources = [str(file)]
    if kind == "network":
        (tmp_path / "nodes.txt").write_text(samples["slurm"])
        sources.append(str(tmp_path / "nodes.txt"))
    try:
        read_all(kind, sources, catalogue)
    except SpecError as error:
        message = str(error)
    else:
        message = str(tmp_path)
    assert str(tmp_path) in message


def read_all(kind, sources, catalogue):
    """Do with files what the command does."""
    if kind == "test":
        read_test(Output.read(sources[0]))
        return
    findings = gather(sources)
    selection = select(findings, Names(catalogue), Wanted())
    for each in selection.kinds:
        draft = draft_of(each, findings, selection, catalogue, Given())
        assert spec_text(draft, selection.left_out)
