"""`nvidia-smi topo -m`."""

import pytest

from autopar.errors import SpecError
from autopar.ingest.cluster.findings import Node
from autopar.ingest.cluster.topo import read_matrix
from autopar.ingest.cluster.wiring import wiring


def read(output, text, links=18, indices=()):
    node = Node("n1", "x", "gpu", 8, matrix=read_matrix(output(text)), indices=indices)
    return wiring(node, links)


def test_an_nvswitch_joins_all_gpus(shapes, output):
    found = read(output, shapes["matrix"](8, "NV18", 10))
    assert (found.kind, found.nvlinks, found.weak) == ("switched", 18, ())


@pytest.mark.parametrize("change", ["color", "windows", "blanks", "prompt"])
def test_what_terminals_add_is_no_part_of_it(shapes, output, change):
    plain = shapes["matrix"](4, "NV18", 2)
    text = {
        "color": shapes["matrix"](4, "NV18", 2, color=True),
        "windows": "\ufeff" + plain.replace("\n", "\r\n"),
        "blanks": plain.replace("\t", "     "),
        "prompt": f"ann@n1:~$ nvidia-smi topo -m\n{plain}ann@n1:~$ exit\n",
    }[change]
    found, expected = read_matrix(output(text)), read_matrix(output(plain))
    assert (found.cells, found.nics) == (expected.cells, expected.nics)


def test_network_cards_have_the_names_of_the_legend(shapes, output):
    matrix = read_matrix(output(shapes["matrix"](2, "NV18", 2)))
    assert matrix.nics == {"mlx5_0": ("PIX", "SYS"), "mlx5_1": ("SYS", "PIX")}


def test_cards_near_a_gpu_count_and_all_where_none_is(shapes, output):
    assert read(output, shapes["matrix"](4, "NV18", 4)).num_nics == 4
    assert read(output, shapes["matrix"](4, "NV18", 2, nic="NODE")).num_nics == 2
    assert read(output, shapes["matrix"](4, "NV18")).num_nics is None


def test_old_drivers_name_cards_by_device_and_have_no_last_column(output):
    """The matrix of an A100 node under driver 470."""
    text = (
        "\tGPU0\tGPU1\tmlx5_0\tmlx5_bond_0\tCPU Affinity\tNUMA Affinity\n"
        "GPU0\t X \tNV12\tPXB\tSYS\t48-63\t3\n"
        "GPU1\tNV12\t X \tSYS\tSYS\t48-63\t3\n"
    )
    matrix = read_matrix(output(text))
    assert matrix.cells == (("X", "NV12"), ("NV12", "X"))
    assert list(matrix.nics) == ["mlx5_0", "mlx5_bond_0"]


def test_without_nvlink_the_longest_way_counts(shapes, output):
    found = read(output, shapes["matrix"](4, "SYS", cells={(0, 1): "PIX", (2, 3): "NODE"}))
    assert (found.kind, found.worst) == ("pcie", "SYS")


def test_a_single_gpu_has_no_links(shapes, output):
    assert read(output, shapes["matrix"](1)).kind == "alone"


def test_bridges_join_pairs(shapes, output):
    pairs = {(0, 1): "NV12", (2, 3): "NV12"}
    found = read(output, shapes["matrix"](4, "SYS", cells=pairs), links=12)
    assert (found.kind, found.part_gpus, found.nvlinks, found.worst) == ("parts", 2, 12, "SYS")


def test_without_a_switch_the_links_of_a_gpu_are_dealt_out(shapes, output):
    """Four A100 on a board: NV4 to each of three others, 12 links in sum."""
    found = read(output, shapes["matrix"](4, "NV4"), links=12)
    assert (found.kind, found.nvlinks) == ("mesh", 12)


def test_an_nvlink_without_a_number_is_one(shapes, output):
    found = read(output, shapes["matrix"](4, "NVL"))
    assert (found.kind, found.nvlinks) == ("switched", None)


def test_a_gpu_with_fewer_links_is_named(shapes, output):
    weak = {(3, i): "NV16" for i in range(8) if i != 3}
    found = read(output, shapes["matrix"](8, "NV18", cells=weak))
    assert (found.kind, found.nvlinks, found.weak) == ("switched", 16, (3,))


def test_a_gpu_without_links_is_named(shapes, output):
    lost = {(5, i): "SYS" for i in range(8) if i != 5}
    found = read(output, shapes["matrix"](8, "NV18", cells=lost))
    assert (found.kind, found.weak) == ("uneven", (5,))


def test_only_the_gpus_of_one_kind_count(shapes, output):
    text = shapes["matrix"](4, "SYS", cells={(0, 2): "NV12"})
    assert read(output, text, links=12, indices=(0, 2)).kind == "switched"
    assert read(output, text, links=12, indices=(1, 3)).kind == "pcie"


def test_it_may_be_cut_off_nowhere(shapes, output):
    """Every prefix that lacks a cell of a GPU is refused, naming file and line."""
    text = shapes["matrix"](4, "NV18", 2)
    whole = text.index("NIC0\tPIX")
    for end in range(3, whole - len("\t0\t\tN/A\n") - 30, 7):
        with pytest.raises(SpecError, match=r"^saved\.txt: ") as error:
            read_matrix(output(text[:end]))
        assert "expected" in str(error.value) or "cut off" in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("GPU1\tNV18", "GPU1\tOK", "line 3: found 'OK', expected X, NV and a number"),
        ("GPU1\tNV18", "GPU1\tNV6", "line 3: found 'NV6 from GPU1 to GPU0', expected the same as"),
        ("GPU1\tNV18", "GPU1\t X ", "line 3: found 'X', expected how GPU1 reaches GPU0"),
        ("GPU0\t X ", "GPU0\tNV18", "line 2: found 'NV18', expected X from GPU0 to itself"),
        ("GPU1\tNV18\t X ", "GPU1\tNV18", "line 3: found '1 cells', expected 2"),
        ("GPU1\tNV18\t X \t", "GPU9\tNV18\t X \t", "the header names GPU1, and no row does"),
        ("\tGPU0\tGPU1", "\tGPU0\tGPU0", "expected the GPUs first, each device once"),
        ("Legend:", "\tGPU0\tGPU1\n", "expected one matrix per file"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_line(shapes, output, old, new, message):
    text = shapes["matrix"](2)
    assert old in text
    with pytest.raises(SpecError) as error:
        read_matrix(output(text.replace(old, new, 1).replace("\t0-47,96-143\t0\t\tN/A", "", 2)))
    assert message in str(error.value)


def test_a_matrix_of_peer_access_beside_it_is_another_thing(shapes, output):
    text = shapes["matrix"](2)
    peer = " \tGPU0\tGPU1\t\n GPU0\tX\tOK\t\n GPU1\tOK\tX\t\n"
    for both in (f"{text}\n{peer}", f"{peer}\n{text}"):
        assert read_matrix(output(both)).cells == (("X", "NV18"), ("NV18", "X"))
    with pytest.raises(SpecError, match="line 2: found 'OK', expected X, NV and a number"):
        read_matrix(output(peer))
