"""Output of nccl-tests."""

import pytest

from autopar.errors import SpecError
from autopar.ingest.cluster.nccl import read_test


def test_the_fastest_size_of_a_run_is_taken(shapes, output):
    found = read_test(output(shapes["nccl"]({"n1": 8}, 480.0)))
    assert found.collective == "all_reduce"
    assert found.bus_bytes_per_s == pytest.approx(480e9)
    assert (found.size_bytes, found.num_gpus, found.hosts) == (8 << 30, 8, {"n1": 8})
    assert found.time_us == pytest.approx((8 << 30) * 1.75 / 480e9 * 1e6, rel=1e-3)
    assert found.average_bytes_per_s == pytest.approx(256.32)
    assert found.gpu == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("tag", ["[1,0]<stdout>:", "[0]", "0: ", "    "])
def test_tags_of_launchers_are_no_part_of_it(shapes, output, tag):
    found = read_test(output(shapes["nccl"]({"n1": 8, "n2": 8}, 341.0, tag=tag)))
    assert found.hosts == {"n1": 8, "n2": 8}
    assert found.bus_bytes_per_s == pytest.approx(341e9)


def test_windows_line_ends(shapes, output):
    text = shapes["nccl"]({"n1": 8}, 480.0).replace("\n", "\r\n")
    assert read_test(output(text)).num_gpus == 8


def test_old_versions_have_no_root_and_no_group(output):
    text = (
        "# nThread 1 nGpus 2 minBytes 32 maxBytes 8589934592\n# Using devices\n"
        "#   Rank  0 Pid   1320 on  ai-1 device  0 [0x00] NVIDIA A100-SXM4-40GB\n"
        "#   Rank  1 Pid   1320 on  ai-1 device  1 [0x00] NVIDIA A100-SXM4-40GB\n"
        "#       size         count    type   redop     time   algbw   busbw  error     time ...\n"
        "  8589934592    2147483648   float     sum    42950  200.00  200.00  0e+00    43000"
        "  199.77  199.77  0e+00\n"
        "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 199.9\n"
    )
    found = read_test(output(text))
    assert (found.collective, found.bus_bytes_per_s) == ("all_reduce", 200e9)


@pytest.mark.parametrize(
    ("test", "collective"),
    [("all_reduce", "all_reduce"), ("all_gather", "all_gather"),
     ("reduce_scatter", "reduce_scatter"), ("alltoall", "all_to_all")],
)  # fmt: skip
def test_the_name_of_the_test_tells_what_was_measured(shapes, output, test, collective):
    named = shapes["nccl"]({"n1": 8}, 300.0, test=test)
    unnamed = shapes["nccl"]({"n1": 8}, 300.0, test=test, name=False)
    assert read_test(output(named)).collective == collective
    assert read_test(output(unnamed, f"{test}_8.txt")).collective == collective


def test_the_numbers_tell_where_no_name_does(shapes, output):
    for test in ("all_reduce", "reduce_scatter"):
        text = shapes["nccl"]({"n1": 8}, 300.0, test=test, name=False)
        assert read_test(output(text)).collective == test
    text = shapes["nccl"]({"n1": 8}, 300.0, test="all_gather", name=False)
    with pytest.raises(SpecError, match="it does not say which test ran; name the file after it"):
        read_test(output(text))


def test_an_all_reduce_tells_its_gpus_without_a_list(shapes, output):
    found = read_test(output(shapes["nccl"]({"n1": 8}, 300.0, ranks=False)))
    assert (found.num_gpus, found.hosts) == (8, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("values : 0 OK", "values : 3 FAILED"), "found 'Out of bounds values"),
        (lambda t: t[: t.index("       32768")], "found no line with a size, its time and"),
        (lambda t: "hello\n", "found no line of nccl-tests, expected the output of all_reduce_"),
        (lambda t: t.replace("all_reduce_perf", "sendrecv_perf"), "found the test sendrecv_perf"),
        (lambda t: t.replace("Rank  1 ", "Rank  0 "), "found 'rank 0 again (line 5 has it)'"),
    ],
)
def test_a_run_that_failed_is_refused(shapes, output, change, message):
    with pytest.raises(SpecError, match=r"^saved\.txt: ") as error:
        read_test(output(change(shapes["nccl"]({"n1": 8}, 480.0))))
    assert message in str(error.value)


def test_wrong_results_are_refused(shapes, output):
    with pytest.raises(SpecError, match="#wrong 3"):
        read_test(output(shapes["nccl"]({"n1": 8}, 480.0, wrong=3)))


def test_digits_of_other_scripts_are_no_numbers(shapes, output):
    text = shapes["nccl"]({"n1": 8}, 480.0)
    with pytest.raises(SpecError, match="a time, algbw and busbw as numbers"):
        read_test(output(text.replace(" 480.00", " \u0664\u0668\u0660")))


def test_a_run_on_one_gpu_measures_no_link(shapes, output):
    text = shapes["nccl"]({"n1": 2}, 480.0)
    rows = [line for line in text.splitlines() if " float " in line]
    zero = text
    for row in rows:
        words = row.split()
        zero = zero.replace(
            row, " ".join([*words[:7], "0.00", "0", words[9], words[10], "0.00", "0"])
        )
    with pytest.raises(SpecError, match="a bus bandwidth of 0"):
        read_test(output(zero))


def test_two_runs_in_a_file_are_refused(shapes, output):
    text = shapes["nccl"]({"n1": 8}, 480.0)
    with pytest.raises(SpecError, match="a file of its own for each run"):
        read_test(output(text * 2))


def test_the_line_that_names_the_test_counts_before_the_command(shapes, output):
    text = f"$ srun ./run_perf.sh sendrecv_perf\n{shapes['nccl']({'n1': 8}, 480.0)}"
    assert read_test(output(text)).collective == "all_reduce"
