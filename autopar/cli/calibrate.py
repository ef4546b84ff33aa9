"""`autopar calibrate`."""
# ruff: noqa: PLC0415  --help imports no numpy, no torch

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autopar.cli._errors import INTERRUPTED
from autopar.cli._io import (
    emit,
    is_yaml,
    prepare,
    put,
    refuse_unwritable,
    rendered,
    write_document,
    write_text,
)
from autopar.cli._options import Output, catalog_option, output_options, rate

if TYPE_CHECKING:
    from autopar.calibration.calibrated import Calibration
    from autopar.calibration.timer import Timer
    from autopar.calibration.timings import Timings
    from autopar.specs import Gpu

# The names of `autopar.calibration.cases`, written out because --help imports no numpy.
OPERATIONS = (
    *("gemm", "experts", "prefill_attention", "decode_attention", "elementwise", "collectives"),
)
PRECISIONS = ("bf16", "fp8")
DEFAULT_SECONDS = 120.0
STAND_IN, STAND_IN_GPUS = "h100-sxm-80gb", 8  # that a dry run without a GPU is about
_PERIOD = 8  # cases between two lines of progress


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be measured, and from which GPU on."""

    gpu: str | None
    name: str | None
    seconds: float | None
    operations: tuple[str, ...]
    precisions: tuple[str, ...]
    device: int | None
    link_bandwidth: float | None
    catalogs: tuple[Path, ...]


@click.command("calibrate")
@click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option(
    "--from",
    "source",
    metavar="RAW",
    help="Fit the timings in a file of --raw again, on any machine; - is standard input.",
)
@click.option(
    "--gpu",
    metavar="NAME|FILE",
    help="The GPU that gives peak rates and all that is not measured. Default: the one of the "
    "catalogue with the device's name; without one, peaks are the most that is measured.",
)
@click.option("--name", help="Name of the new GPU. Default: the one it starts from, -measured.")
@click.option(
    "--seconds",
    type=float,
    help=f"Most time to measure, in s; less gives fewer timings. Default: {DEFAULT_SECONDS:g}.",
)
@click.option(
    "--operation",
    "operations",
    multiple=True,
    metavar="NAME",
    type=click.Choice(OPERATIONS),
    help=f"Measure, or fit, only this: {', '.join(OPERATIONS)}; may be given several times. "
    "Default: all.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(PRECISIONS),
    help="Only products in this precision; may be given several times. Default: all.",
)
@click.option("--device", type=int, help="Number of the GPU that times kernels. Default: 0.")
@click.option(
    "--link-bandwidth",
    metavar="RATE",
    callback=rate,
    help="Peak of one GPU's links inside the node, per direction, with its unit: '450 GB/s'; "
    "collectives are fitted to it. Default: that of the GPU it starts from.",
)
@click.option(
    "--raw",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write every timing to FILE as JSON, for --from.",
)
@catalog_option
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    dry_run: bool,
    source: str | None,
    gpu: str | None,
    name: str | None,
    seconds: float | None,
    operations: tuple[str, ...],
    precisions: tuple[str, ...],
    device: int | None,
    link_bandwidth: float | None,
    raw: Path | None,
    catalogs: tuple[Path, ...],
    output: Output,
) -> None:
    """Measure the GPUs at hand and write a GPU spec from it.

    Times kernels with PyTorch, and collectives where several GPUs are visible, fits the formulas of
    the cost model to them and prints the GPU as YAML; with -o FILE the GPU goes there, and a table
    of errors is printed. Use it with --set cluster.gpu=FILE. Needs the extra autopar[calibrate].
    """
    wish = Wish(
        *(gpu, name, seconds, operations or OPERATIONS, precisions or PRECISIONS),
        *(device, link_bandwidth, catalogs),
    )
    _refuse(wish, source, raw, dry_run)
    prepare(output)
    if raw is not None:
        refuse_unwritable(raw, "--raw")
    if dry_run:
        _outline(wish, output)
        return
    start = None if gpu is None else _gpu(gpu, catalogs)
    timings = _measured(wish, output) if source is None else _chosen(source, wish)
    if raw is not None:
        from autopar.report.json import dump

        write_text(raw, dump(timings.document()) + "\n", "--raw")
    _emit(_calibrated(timings, start, wish), output)
    if timings.interrupted and source is None:
        ctx.exit(INTERRUPTED)


def _refuse(wish: Wish, source: str | None, raw: Path | None, dry_run: bool) -> None:
    """Raise for options that cannot be meant."""
    from autopar.calibration.calibrated import check_name
    from autopar.errors import SpecError

    if wish.seconds is not None and not 0 < wish.seconds <= 1e6:
        raise SpecError(f"--seconds: found {wish.seconds:g}, expected more than 0, at most 1e6")
    if wish.name is not None:
        check_name(wish.name, "--name")
    idle = {
        "--dry-run": dry_run,
        "--raw": raw is not None,
        "--seconds": wish.seconds is not None,
        "--device": wish.device is not None,
    }
    given = [option for option, is_given in idle.items() if is_given]
    if source is not None and given:
        raise click.UsageError(f"--from measures nothing: {', '.join(given)} would have no effect")


def _gpu(source: str, catalogs: tuple[Path, ...]) -> "Gpu":
    from autopar.catalog import load_gpu

    return load_gpu(source, catalogs=catalogs, option="--gpu")


def _start(device_name: str, wish: Wish) -> "Gpu | None":
    """Return the GPU of the catalogue that has the device's name, if there is one."""
    from autopar.calibration.matching import catalogue_name

    found = catalogue_name(device_name)
    return None if found is None else _gpu(found, wish.catalogs)


def open_timer(index: int) -> "Timer":
    """Return the GPU that is measured.

    Raises DeviceError if there is none.
    """
    from autopar.calibration import torch_timer

    return torch_timer.open_timer(index)


def _outline(wish: Wish, output: Output) -> None:
    """Say what would run: on the GPU at hand, else on one like it."""
    from autopar.calibration.cases import planned
    from autopar.calibration.outline import outline
    from autopar.errors import DeviceError
    from autopar.report.calibration import outline_document, print_outline

    start, notes, l2_bytes = None if wish.gpu is None else _gpu(wish.gpu, wish.catalogs), [], 0.0
    try:
        machine = open_timer(wish.device or 0).machine
        start, num_gpus = start or _start(machine.device_name, wish), machine.num_devices
        l2_bytes = machine.l2_bytes
    except DeviceError as error:
        num_gpus = STAND_IN_GPUS
        notes += [str(error).removeprefix("calibrate: ").partition(". --dry-run")[0]]
        notes += [f"collectives: shown for {num_gpus} GPUs; measured where several are visible"]
    if start is None:
        start = _gpu(STAND_IN, wish.catalogs)
        notes += [f"times are those of {STAND_IN}; --gpu names another"]
    cases = planned(wish.operations, wish.precisions, num_gpus)
    budget_s = wish.seconds or DEFAULT_SECONDS
    found = outline(cases, start, budget_s, num_gpus, notes, l2_bytes)
    emit(output, lambda: outline_document(found), lambda console: print_outline(console, found))


def _measured(wish: Wish, output: Output) -> "Timings":
    """Measure, with a line of progress on a terminal."""
    from autopar.calibration.cases import planned
    from autopar.calibration.fitting import optimizer
    from autopar.calibration.measuring import measure

    timer = open_timer(wish.device or 0)
    optimizer()  # a fit that cannot be made is no reason to measure for minutes
    active = sys.stderr.isatty() and not output.as_json and not output.quiet

    def told(done: int, total: int, elapsed_s: float) -> None:
        if active and (done % _PERIOD == 0 or done == total):
            width = shutil.get_terminal_size().columns - 1
            line = f"{elapsed_s:.0f} s  {done:,} of {total:,} cases"[:width]
            sys.stderr.write(f"\r{line:<{width}}" if done < total else f"\r{'':<{width}}\r")
            sys.stderr.flush()

    found = measure(
        timer,
        planned(wish.operations, wish.precisions, timer.machine.num_devices),
        wish.seconds or DEFAULT_SECONDS,
        link_bandwidth_bytes_per_s=wish.link_bandwidth,
        told=told,
    )
    told(1, 1, 0.0)  # clear the line
    return found


def _chosen(source: str, wish: Wish) -> "Timings":
    """Return what a file holds of the operations and precisions that are wanted."""
    from autopar.calibration.timings import read_timings

    timings = read_timings(source).only(wish.operations, wish.precisions)
    if wish.link_bandwidth is None:
        return timings
    return timings.model_copy(update={"link_bandwidth_bytes_per_s": wish.link_bandwidth})


def _calibrated(timings: "Timings", start: "Gpu | None", wish: Wish) -> "Calibration":
    from autopar.calibration.calibrated import calibrate

    start = start or _start(timings.machine.device_name, wish)
    return calibrate(timings, start, wish.name)


def _emit(found: "Calibration", output: Output) -> None:
    """Write the GPU to -o, or print it; what was found goes beside it."""
    from autopar.report.calibration import calibration_document, print_calibration
    from autopar.report.json import dump

    use = use_command(output.file)
    if output.file is not None and is_yaml(output.file):
        write_text(output.file, found.text)
    elif output.file is not None:
        write_document(output.file, found.gpu.document())
    if output.as_json:
        put(dump(calibration_document(found, use)) + "\n")
        return
    said = rendered(output, lambda console: print_calibration(console, found, use))
    if output.file is not None:
        put(said)
        return
    put(found.text)
    if not output.quiet:
        click.echo(said, err=True, nl=False)


def use_command(file: Path | None) -> str:
    """Return the command that plans with the new GPU."""
    path = "my-gpu.yaml" if file is None else str(file)
    change = shlex.quote(f"cluster.gpu={path}")
    return (
        "autopar solve --model llama-3.1-70b --cluster 1xhgx-h200 --workload chat-4k-1k "
        f"--set {change}"
    )
