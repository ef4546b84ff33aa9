"""`autopar calibrate` as a user runs it: streams, files, exit codes, wrong input."""

import json
import sys

import pytest
import yaml
from click.testing import CliRunner

from autopar.calibration import cases
from autopar.catalog import load_gpu
from autopar.cli import calibrate, main
from autopar.errors import DeviceError

SMALL = ("--operation", "gemm", "--operation", "elementwise", "--precision", "bf16")


def run(*args, stdin=None):
    return CliRunner().invoke(main, ["calibrate", *(str(a) for a in args)], input=stdin)


@pytest.fixture
def gpu(monkeypatch, fake_timer):
    """Put a GPU with planted constants into this machine."""

    def put(**options):
        timer = fake_timer(**options)
        monkeypatch.setattr(calibrate, "open_timer", lambda index: timer)
        return timer

    return put


@pytest.fixture
def raw(gpu, tmp_path):
    """Timings of a measurement, as a file."""
    gpu()
    file = tmp_path / "raw.json"
    assert run("--raw", file, "-o", tmp_path / "first.yaml", *SMALL).exit_code == 0
    return file


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def test_the_options_list_what_is_measured():
    """They are written out in the command line, which may not import numpy to start."""
    assert calibrate.OPERATIONS == cases.OPERATIONS
    assert calibrate.PRECISIONS == cases.PRECISIONS


@pytest.mark.usefixtures("no_torch")
def test_without_torch_the_exit_code_is_2_and_the_message_says_what_to_do():
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: calibrate: torch cannot be imported")
    assert "install the extra 'autopar[calibrate]' where the GPU is" in result.stderr
    assert "--dry-run shows what would run" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("no_torch")
def test_a_dry_run_without_a_gpu_shows_what_would_run():
    result = run("--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    text = " ".join(result.stdout.split())
    assert "gemm fp8 169" in text
    assert "m 1 to 8,192, k 1,024 to 16,384, n 1,280 to 28,672" in text
    assert "collectives all to all" in text
    assert "torch cannot be imported" in text
    assert "times are those of h100-sxm-80gb; --gpu names another" in text
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("no_torch")
def test_a_dry_run_as_json_has_counts_sizes_memory_and_seconds():
    document = json.loads(run("--dry-run", "--json", "--gpu", "l4-24gb", *SMALL).stdout)
    assert (document["kind"], document["gpu"]) == ("calibration-plan", "l4-24gb")
    assert document["timings"] == sum(each["timings"] for each in document["operations"])
    assert {each["name"] for each in document["operations"]} == {"bf16", "copy", "scale", "triad"}
    first = document["operations"][0]
    assert first["sizes"]["m"] == [1, 8192]
    assert 0 < first["seconds"] < document["budget_s"] == 120
    assert 1e8 < document["memory_bytes"] < 24e9
    assert "latent attention" in document["not_measured"]


def test_a_dry_run_knows_the_gpu_at_hand_and_times_nothing(gpu):
    timer = gpu(num_devices=2)
    document = json.loads(run("--dry-run", "--json").stdout)
    assert (document["gpu"], document["num_gpus"]) == ("h200-sxm-141gb", 2)
    assert document["notes"] == []
    assert not timer.asked


def test_the_gpu_goes_to_standard_output_and_the_rest_to_the_other(gpu):
    gpu()
    result = run(*SMALL)
    assert result.exit_code == 0
    document = yaml.safe_load(result.stdout)
    assert document["name"] == "h200-sxm-141gb-measured"
    assert document["kernels"]["gemm"]["bf16"]["sharpness"] == 2
    assert "median and p90 error of the new constants" in result.stderr
    assert "cluster.gpu=my-gpu.yaml" in "".join(result.stderr.split())
    assert run("-q", *SMALL).stderr == ""


def test_the_written_gpu_plans_by_the_command_that_is_printed(gpu, tmp_path, monkeypatch):
    gpu()
    monkeypatch.chdir(tmp_path)
    result = run("-o", "my-gpu.yaml", "--name", "ours", "--json")
    document = json.loads(result.stdout)
    assert document["gpu"]["name"] == "ours"
    assert {fit["operation"] for fit in document["fits"]} == {
        *("gemm", "experts", "prefill_attention", "decode_attention", "elementwise"),
    }
    assert all(fit["median_error"] < 0.05 < fit["median_error_before"] for fit in document["fits"])
    _, *words = document["command"].split()
    solved = CliRunner().invoke(main, [*words, "--json"])
    assert solved.exit_code == 0, solved.stderr
    answer = json.loads(solved.stdout)
    assert answer["status"] == "optimal"
    assert any(note.startswith("kernels of ours: measured on 20") for note in answer["notes"])
    start = CliRunner().invoke(main, [*words[:-2], "--json"])
    assert json.loads(start.stdout)["objective"]["value"] != answer["objective"]["value"]


def test_a_table_of_errors_is_printed_where_the_gpu_goes_to_a_file(gpu, tmp_path):
    timer = gpu()
    timer.broken["gemm", "fp8"] = "no FP8 here"
    file = tmp_path / "my gpu.yaml"
    result = run("-o", file, "--operation", "gemm")
    assert (result.exit_code, result.stderr) == (0, "")
    text = " ".join(result.stdout.split())
    assert "gemm bf16 169" in text
    assert "gemm fp8: 4 cases: no FP8 here" in text
    assert "kind: gpu" in file.read_text()
    assert "'cluster.gpu=" in text  # quoted: the name has a blank


def test_a_file_that_is_no_yaml_holds_the_gpu_as_json(raw, tmp_path):
    file = tmp_path / "gpu.json"
    assert run("--from", raw, "-o", file).exit_code == 0
    assert json.loads(file.read_text())["kind"] == "gpu"
    assert load_gpu(str(file)) == load_gpu(str(tmp_path / "first.yaml"))


def test_raw_timings_are_fitted_again_elsewhere(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "open_timer", lambda index: pytest.fail("measured again"))
    again = tmp_path / "again.yaml"
    assert run("--from", raw, "-o", again).exit_code == 0
    assert again.read_text() == (tmp_path / "first.yaml").read_text()
    piped = run("--from", "-", "-q", stdin=raw.read_text())
    assert piped.stdout == again.read_text()


def test_a_part_of_the_raw_timings_is_taken_over(raw):
    document = json.loads(run("--from", raw, "--operation", "elementwise", "--json").stdout)
    assert [fit["operation"] for fit in document["fits"]] == ["elementwise"]


def test_another_gpu_to_start_from_gives_what_is_not_measured(raw):
    document = json.loads(run("--from", raw, "--gpu", "h100-sxm-80gb", "--json").stdout)
    assert document["start"] == "h100-sxm-80gb"
    assert document["gpu"]["power_w"] == 700
    assert document["gpu"]["memory_bytes"] < 90e9


def test_an_interrupt_writes_what_was_timed_and_exits_with_130(gpu, tmp_path):
    timer = gpu()
    time = timer.time

    def interrupted(case):
        if len(timer.asked) > 150:
            raise KeyboardInterrupt
        return time(case)

    timer.time = interrupted
    raw, file = tmp_path / "raw.json", tmp_path / "gpu.yaml"
    result = run("--raw", raw, "-o", file, "--operation", "gemm")
    assert result.exit_code == 130
    assert len(json.loads(raw.read_text())["timings"]) == 149
    assert "interrupted: fitted to what was timed until then" in " ".join(result.stdout.split())
    assert file.exists()


def test_link_bandwidth_fits_collectives_of_a_gpu_whose_links_are_unknown(gpu):
    gpu(num_devices=2)
    options = ("--gpu", "l40s-48gb", "--operation", "collectives", "--json")
    assert "--link-bandwidth states it" in run(*options).stderr
    document = json.loads(run(*options, "--link-bandwidth", "450 GB/s").stdout)
    assert document["gpu"]["kernels"]["collectives"]["link_bandwidth_bytes_per_s"] == 450e9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seconds", "0"), "--seconds: found 0, expected more than 0"),
        (("--seconds", "nan"), "--seconds: found nan, expected more than 0"),
        (("--seconds", "soon"), "Invalid value for '--seconds'"),
        (("--gpu", "h2000"), "--gpu: unknown gpu 'h2000'"),
        (("--gpu", "none.yaml"), "none.yaml: no such file"),
        (("--name", "two words"), "--name: found 'two words', expected a name"),
        (("--operation", "conv"), "'conv' is not one of 'gemm'"),
        (("--link-bandwidth", "fast"), "--link-bandwidth: found 'fast', expected a rate"),
        (
            ("--link-bandwidth", "-1 GB/s"),
            "--link-bandwidth: found '-1 GB/s', expected a rate with its unit",
        ),
        (("-o", "no/such/folder.yaml"), "'no/such' is not a directory; create it first"),
        (("--raw", "no/such/raw.json"), "--raw 'no/such/raw.json': 'no/such' is not a directory"),
        (("--from", "raw.json", "--seconds", "3"), "--from measures nothing: --seconds would"),
        (("--from", "raw.json", "--dry-run"), "--from measures nothing: --dry-run would have"),
        (("--from", "none.json"), "none.json: no such file"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_measured(gpu, options, message):
    timer = gpu()
    result = run(*options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not timer.asked


def test_a_raw_file_that_was_cut_is_refused(raw):
    raw.write_text(raw.read_text()[:-40])
    result = run("--from", raw)
    assert result.exit_code == 2
    assert "not valid JSON" in result.stderr


def test_a_fit_that_cannot_be_made_is_said_before_measuring(gpu, monkeypatch):
    timer = gpu()
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    result = run(*SMALL)
    assert result.exit_code == 2
    assert "install scipy >= 1.11" in result.stderr
    assert not timer.asked


def test_a_gpu_that_is_gone_is_said(monkeypatch):
    def gone(index):
        raise DeviceError(f"calibrate: --device {index}: no such GPU; torch sees 1")

    monkeypatch.setattr(calibrate, "open_timer", gone)
    result = run("--device", 3)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--device 3: no such GPU" in result.stderr
