"""The list of GPUs that nvidia-smi prints."""

import pytest

from autopar.errors import SpecError
from autopar.ingest.cluster.gather import kinds_of
from autopar.ingest.cluster.smi import QUERY, read_cards

H100 = "NVIDIA H100 80GB HBM3"


def test_a_query_gives_index_name_and_memory(shapes, output):
    found = read_cards(output(shapes["cards"](H100, H100)))
    assert [(c.index, c.name, c.memory_bytes) for c in found] == [
        (0, H100, 81559 * 2**20),
        (1, H100, 81559 * 2**20),
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"name, memory.total [MiB], index\r\n{H100}, 81559 MiB, 0\r\n",
        f"index, name, memory.total [MiB], driver_version\n0, {H100}, 81559 MiB, 550.1\n",
        f"0, {H100}, 81559 MiB\n",
        f"0, {H100}, 81559\n",
        f"{H100}, 81559 MiB\n",
        f"{H100}, 81559\n",
        f"index, name, memory.total [MiB]\n0, {H100}, 81559\n",
        f"$ {QUERY}\nindex, name, memory.total [MiB]\n0, {H100}, 81559 MiB\n$\n",
        f"index, name, memory.total [MB]\n0, {H100}, 85520 MB\n",
        f"\x1b[1mindex, name, memory.total [MiB]\x1b[0m\n0, {H100}, 81559 MiB\n",
    ],
)
def test_columns_may_be_in_any_order_and_the_header_may_be_absent(output, text):
    (card,) = read_cards(output(text))
    assert (card.index, card.name) == (0, H100)
    assert card.memory_bytes == pytest.approx(81559 * 2**20, rel=1e-3)


def test_rows_without_header_and_units_are_read_where_their_values_tell(output):
    """csv,noheader,nounits: an index, a name of a driver, MiB."""
    rows = "".join(f"{i}, {H100}, 81559\n" for i in range(8))
    assert [c.index for c in read_cards(output(rows))] == list(range(8))
    assert [c.index for c in read_cards(output(f"{H100}, 81559\n" * 8))] == list(range(8))
    pairs = "".join(f"{i}, Tesla V100-SXM2-16GB\n" for i in range(4))
    assert [c.memory_bytes for c in read_cards(output(pairs))] == [None] * 4


@pytest.mark.parametrize(
    "row",
    [
        f"0, GPU-8932f937, {H100}, 81559",
        f"{H100}, 0, 81559",
        f"0, {H100}, 55",
        f"81559, {H100}",
        f"0, {H100}, 81559, 550.1",
        f"{H100}, 55",
    ],
)
def test_rows_without_header_that_do_not_tell_are_refused_with_the_command(output, row):
    with pytest.raises(SpecError, match="without the header that names its columns") as error:
        kinds_of(output(f"{row}\n"))
    assert f"expected the output of nvidia-smi topo -m, {QUERY}" in str(error.value)


def test_the_short_list_has_names_alone(output):
    text = f"GPU 0: {H100} (UUID: GPU-1)\nGPU 1: {H100} (UUID: GPU-2)\n"
    assert [(c.index, c.name, c.memory_bytes) for c in read_cards(output(text))] == [
        (0, H100, None),
        (1, H100, None),
    ]


def test_slices_are_noticed_in_either_list(output):
    short = f"GPU 0: {H100} (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-1)\n"
    query = f"index, name, mig.mode.current\n0, {H100}, Enabled\n"
    assert all(read_cards(output(text))[0].is_sliced for text in (short, query))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index, name, memory.total [MiB]\n", "line 1: found a header and no GPU below it"),
        (f"index, name, memory.total [MiB]\n0, {H100}\n", "line 2: found \"2 values in '0, NVIDIA"),
        (f"index, name\nx, {H100}\n", "line 2: found 'x', expected the index of a GPU"),
        (f"index, name\n\u0663, {H100}\n", "line 2: found '\u0663', expected the index of a GPU"),
        ("index, name\n0, 81559\n", "line 2: found '81559', expected the name of a GPU"),
        ("index, name\n0, [N/A]\n", "line 2: found '[N/A]', expected the name of a GPU"),
        (f"index, name, memory.total\n0, {H100}, lots\n", "line 2: found 'lots', expected a size"),
        (f"index, name, memory.total\n0, {H100}, 0 MiB\n", "line 2: found '0 MiB', expected a"),
        (f"index, name\n0, {H100}\n0, {H100}\n", "line 3: found 'GPU 0 again', expected each GPU"),
        ("hello\n", "found no list of GPUs, expected the output of nvidia-smi --query-gpu="),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(output, text, message):
    with pytest.raises(SpecError, match=r"^saved\.txt: ") as error:
        read_cards(output(text))
    assert message in str(error.value)
