"""`autopar place`."""
# ruff: noqa: PLC0415  --help imports no numpy, no solver

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autopar.cli._io import emit, prepare, refuse_unwritable, write_text
from autopar.cli._options import Output, catalog_option, output_options

if TYPE_CHECKING:
    from autopar.placement.files.maps import ExpertMap
    from autopar.placement.files.measured import Measured
    from autopar.placement.results import Answer, Request
    from autopar.specs import LLM

# The names of `autopar.placement.files.engines.TARGETS`, written out for --help.
_TARGETS = ("sglang", "tensorrt-llm", "vllm-ascend", "vllm")
# SGLang tells a file from text by its ending; TensorRT-LLM reads YAML.
_ENDINGS = {"sglang": (".json",), "tensorrt-llm": (".yaml", ".yml")}


@click.command("place")
@click.argument("loads")
@click.option("--gpus", "num_gpus", type=click.IntRange(1, 65536), help="GPUs of the EP group.")
@click.option("--slots", "num_slots", type=click.IntRange(1), help="Slots for experts of all GPUs.")
@click.option("--slots-per-gpu", type=click.IntRange(1), help="The same, per GPU.")
@click.option(
    "--redundant", type=click.IntRange(0), help="The same, as slots beyond one per expert."
)
@click.option("--nodes", "num_nodes", type=click.IntRange(1), default=1, show_default=True,
              help="Nodes, each a run of as many GPUs.")  # fmt: skip
@click.option("--model", metavar="NAME|FILE", help="Check the loads against an LLM, and know its "
              "dense layers and the bytes of an expert.")  # fmt: skip
@click.option("--dense-layers", metavar="LIST", help="Layers without experts: 0-2 or 0,4.")
@click.option("--slot-bytes", metavar="BYTES", help="Weights of one expert of one layer: 44MB.")
@click.option("--current", metavar="FILE", help="The placement now: an engine's file, or a "
              "document of this command.")  # fmt: skip
@click.option("--max-moves", metavar="N|N%", help="Replicas that may come to a GPU without their "
              "expert, over all layers, or of all slots: 5%.")  # fmt: skip
@click.option("--hold-out", type=click.IntRange(0), metavar="N", help="Windows at the end that are "
              "not planned on. Default: a quarter of them.")  # fmt: skip
@click.option("--balance-tolerance", metavar="P%", help="Let the fullest GPU have so much more if "
              "tokens then go to fewer nodes; needs routing or coactivation.")  # fmt: skip
@click.option("--distinct-nodes", is_flag=True, help="Replicas of an expert on nodes of their own.")
@click.option("--forbid", "forbidden", multiple=True, metavar="A,B", help="Experts that may not "
              "share a GPU; may be given several times.")  # fmt: skip
@click.option("--groups", "num_groups", type=click.IntRange(1), default=1, show_default=True,
              help="Groups of experts, each on one node (node-limited routing).")  # fmt: skip
@click.option("--speeds", metavar="LIST", help="Relative speeds of the GPUs: 16x1,16x0.8.")
@click.option("--effort", type=click.Choice(("quick", "normal", "exact")), default="normal",
              show_default=True, help="quick: search alone; normal: prove small layers and two "
              "slots per GPU; exact: give CP-SAT every open layer.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help="Seed of the search.")  # fmt: skip
@click.option("--export", "exports", multiple=True, metavar="ENGINE=FILE", help="Write the file of "
              f"an engine ({', '.join(_TARGETS)}) and read it back.")  # fmt: skip
@click.option("--all-layers", is_flag=True, help="Print every layer, not the worst alone.")
@catalog_option
@output_options
def command(
    loads: str, output: Output, all_layers: bool, exports: tuple[str, ...], **given: Any
) -> None:
    """Place experts on GPUs under measured load, with a proved bound.

    LOADS: counts of tokens per expert, as JSON ([layers][experts], or a mapping with loads,
    windows, routing, coactivation), CSV, NPZ, a .pt dump of SGLang's recorder, a folder of
    TensorRT-LLM's statistics, or -. GPU g owns the slots g*s to (g+1)*s-1.
    """
    from autopar.placement.answer import answer
    from autopar.report.placement import placement_document, placement_text, print_placement

    prepare(output)
    targets = list(_targets(exports, output.file))
    llm = _llm(given["model"], given["catalogs"])
    found = answer(_request(loads, llm, given))
    for target, file in targets:
        found = _export(found, target, file, llm, given["num_groups"])
    emit(
        output,
        lambda: placement_document(found),
        lambda console: print_placement(console, found, every_layer=all_layers),
        lambda: placement_text(found),
    )


def _request(source: str, llm: "LLM | None", given: dict[str, Any]) -> "Request":
    from autopar.errors import SpecError
    from autopar.placement.files.loads import read_loads
    from autopar.placement.machine import Machine, Rules
    from autopar.placement.model import expert_bytes
    from autopar.placement.options import Options
    from autopar.placement.results import Request

    if source == "-" and given["current"] == "-":
        raise SpecError("LOADS and --current are both -; standard input can be read only once")
    measured = _measured(read_loads(source), llm, given["dense_layers"])
    machine = Machine(
        _num_gpus(given),
        _slots_per_gpu(given, measured.num_experts),
        given["num_nodes"],
        _speeds(given["speeds"]),
    )
    rules = Rules(given["distinct_nodes"], _pairs(given["forbidden"]), given["num_groups"])
    size = _bytes(given["slot_bytes"])
    if size is None and llm is not None:
        size = expert_bytes(llm)
    held_out = given["hold_out"]
    return Request(
        measured=measured,
        machine=machine,
        rules=rules,
        options=Options(effort=given["effort"], seed=given["seed"]),
        current=_current(given["current"], measured),
        max_moves=_moves(given["max_moves"], machine.num_slots * len(measured.layers)),
        hold_out=measured.num_windows // 4 if held_out is None else held_out,
        balance_tolerance=_fraction("--balance-tolerance", given["balance_tolerance"]),
        slot_bytes=size,
    )


def _current(source: str | None, measured: "Measured") -> "ExpertMap | None":
    """Return the placement now; rows that a file counts from 0 are the layers with experts."""
    from autopar.placement.files.engines import read_map
    from autopar.placement.files.maps import ExpertMap

    if source is None:
        return None
    found = read_map(source)
    counted = tuple(range(len(measured.layers)))  # vllm-ascend counts layers with experts alone
    is_counted = found.layers == counted and measured.layers != counted
    return ExpertMap(found.slots, measured.layers) if is_counted else found


def _llm(model: str | None, catalogs: tuple[Path, ...]) -> "LLM | None":
    if model is None:
        return None
    from autopar.catalog import load_llm

    return load_llm(model, catalogs=catalogs, option="--model")


def _measured(measured: "Measured", llm: "LLM | None", dense: str | None) -> "Measured":
    from autopar.errors import SpecError
    from autopar.placement.model import of_model, refuse_idle_layers, with_layers

    if dense is not None:
        idle = set(_numbers("--dense-layers", dense))
        strange = sorted(idle - set(measured.layers))
        if strange:
            raise SpecError(f"--dense-layers: the loads have no layer {strange[0]}")
        kept = tuple(layer for layer in measured.layers if layer not in idle)
        if not kept:
            raise SpecError("--dense-layers: no layer is left")
        measured = with_layers(measured, kept)
    if llm is not None:
        measured = of_model(measured, llm)
    refuse_idle_layers(measured)
    return measured


def _num_gpus(given: dict[str, Any]) -> int:
    if given["num_gpus"] is None:
        raise click.UsageError("missing option --gpus")
    return int(given["num_gpus"])


def _slots_per_gpu(given: dict[str, Any], num_experts: int) -> int:
    """Return the slots of one GPU; without any of the options, the fewest that hold all experts."""
    from autopar.errors import SpecError

    names = ("num_slots", "slots_per_gpu", "redundant")
    options = {
        "num_slots": "--slots",
        "slots_per_gpu": "--slots-per-gpu",
        "redundant": "--redundant",
    }
    stated = [options[name] for name in names if given[name] is not None]
    if len(stated) > 1:
        raise click.UsageError(f"found {' and '.join(stated)}; expected one of them")
    num_gpus = _num_gpus(given)
    if given["slots_per_gpu"] is not None:
        return int(given["slots_per_gpu"])
    total = given["num_slots"]
    if given["redundant"] is not None:
        total = num_experts + given["redundant"]
    if total is None:
        return -(-num_experts // num_gpus)
    if total % num_gpus:
        lower = total // num_gpus * num_gpus
        near = f"{lower} or {lower + num_gpus}" if lower >= num_experts else f"{lower + num_gpus}"
        raise SpecError(
            f"{stated[0]}: {total} slots on {num_gpus} GPUs, which are not as many on each; "
            f"expected a multiple such as {near}"
        )
    return int(total // num_gpus)


def _speeds(text: str | None) -> tuple[float, ...] | None:
    from autopar.errors import SpecError

    if text is None:
        return None
    speeds: list[float] = []
    for part in text.split(","):
        count, mark, value = part.strip().partition("x")
        try:
            times, speed = (int(count), float(value)) if mark else (1, float(count))
        except ValueError:
            raise SpecError(f"--speeds: found {part[:40]!r}, expected 16x0.8 or 0.8") from None
        if not 1 <= times <= 65536 or not 0 < speed < float("inf"):
            raise SpecError(f"--speeds: found {part[:40]!r}, expected a speed above zero")
        speeds += [speed] * times
    return tuple(speeds)


def _pairs(texts: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    from autopar.errors import SpecError

    pairs = []
    for text in texts:
        numbers = text.split(",")
        if len(numbers) != 2 or not all(n.strip().isdecimal() and len(n) < 9 for n in numbers):
            raise SpecError(f"--forbid: found {text[:40]!r}, expected two experts: 3,17")
        pairs.append((int(numbers[0]), int(numbers[1])))
    return tuple(pairs)


def _numbers(option: str, text: str) -> Iterator[int]:
    from autopar.errors import SpecError

    for part in text.split(","):
        first, mark, last = part.strip().partition("-")
        ends = (first, last) if mark else (first, first)
        if not all(e.isdecimal() and len(e) < 7 for e in ends) or int(ends[0]) > int(ends[1]):
            raise SpecError(f"{option}: found {part[:40]!r}, expected layers: 0-2 or 0,4")
        yield from range(int(ends[0]), int(ends[1]) + 1)


def _bytes(text: str | None) -> float | None:
    if text is None:
        return None
    from autopar.errors import SpecError
    from autopar.units import BYTES, parse

    try:
        size = parse(text, BYTES, "a size such as 44MB")
    except ValueError as error:
        raise SpecError(f"--slot-bytes: found {text[:40]!r}, {error}") from None
    if size <= 0:
        raise SpecError(f"--slot-bytes: found {text[:40]!r}, expected more than zero")
    return size


def _fraction(option: str, text: str | None) -> float:
    from autopar.errors import SpecError

    if text is None:
        return 0.0
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise SpecError(f"{option}: found {text[:40]!r}, expected a share such as 1% or 0.01")
    return value


def _moves(text: str | None, num_slots: int) -> int | None:
    from autopar.errors import SpecError

    if text is None:
        return None
    if text.endswith("%"):
        return int(_fraction("--max-moves", text) * num_slots * (1 + 1e-12))  # 29 % of 100 is 29
    if not text.isdecimal() or len(text) > 12:
        raise SpecError(
            f"--max-moves: found {text[:40]!r}, expected a number or a share such as 5%"
        )
    return min(int(text), num_slots)


def _targets(exports: tuple[str, ...], output: Path | None) -> Iterator[tuple[str, Path]]:
    from autopar.errors import SpecError, suggest

    written = {} if output is None else {output.resolve(): "-o"}

    for text in exports:
        target, mark, file = text.partition("=")
        if not mark or not file:
            raise SpecError(f"--export: found {text[:60]!r}, expected ENGINE=FILE")
        if target not in _TARGETS:
            raise SpecError(
                f"--export: no engine {target[:40]!r}{suggest(target, _TARGETS)}; expected one of "
                f"{', '.join(_TARGETS)}"
            )
        endings = _ENDINGS.get(target, ())
        if endings and not file.endswith(endings):
            raise SpecError(f"--export: {target}: found {file[-60:]!r}, expected *{endings[0]}")
        refuse_unwritable(Path(file), "--export")
        if Path(file).resolve() in written:
            other = written[Path(file).resolve()]
            raise SpecError(f"--export: {target}: {other} writes {file[-60:]!r} too")
        written[Path(file).resolve()] = target
        yield target, Path(file)


def _export(
    found: "Answer", target: Any, file: Path, llm: "LLM | None", num_groups: int
) -> "Answer":
    """Write the file of an engine, read it back, and return the answer with what it needs said."""
    from autopar.placement.files.engines import notes_for, text_for, verify_file
    from autopar.placement.model import router_groups

    num_layers = None if llm is None else llm.num_layers
    if llm is not None:
        num_groups = max(num_groups, router_groups(llm))
    request = found.request
    text = text_for(
        target,
        found.expert_map,
        request.machine.num_gpus,
        request.measured.num_experts,
        num_layers,
        num_groups,
    )
    write_text(file, text, "--export")
    verify_file(file, target, found.expert_map, num_layers)
    notes = (*found.notes, *notes_for(target, found.expert_map, llm))
    return replace(found, notes=notes)
