"""Layers of stages among Megatron's arguments: a layout, a first and a last stage, or equal ones.

What Megatron takes and refuses: Megatron-Core 0.19.2, validate_args of training/arguments.py,
core/transformer/transformer_config.py and core/transformer/pipeline_parallel_layer_layout.py.
"""

import re

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.flags import Given
from autopar.ingest.plan.megatron_model import takes_checkpoint
from autopar.specs import LLM
from autopar.specs.base import MAX_LAYERS

_LAYOUT = "--pipeline-model-parallel-layout"
_FIRST = "--decoder-first-pipeline-num-layers"
_LAST = "--decoder-last-pipeline-num-layers"
_EMBEDDING = "--account-for-embedding-in-pipeline-split"
_LOSS = "--account-for-loss-in-pipeline-split"
_VIRTUAL = "--num-layers-per-virtual-pipeline-stage"
_DRAFTS = "--mtp-num-layers"
NO_VIRTUAL = "virtual stages: a stage of a plan holds consecutive layers"
_NO_LAYERS = "Megatron starts a stage without layers; a plan has some in every stage"
_LONGEST_TEXT = 4 * MAX_LAYERS  # letters of a layout as it is stated
_LONGEST = 100 * MAX_LAYERS  # the same with its repetitions written out
# What Megatron repeats in a layout, one after the other: (t|t)*2, then t*3.
_REPEATED = (re.compile(r"\(([^)]+)\)\*(\d+)", re.ASCII), re.compile(r"(.)\*(\d+)", re.ASCII))


def layers_of_stages(given: Given, llm: LLM | None, pp: int) -> tuple[int, ...] | None:
    """Return the layers of each stage; None where one has all, or none are known.

    Raises SpecError for virtual stages, for stages without layers, and for what Megatron refuses:
    layers that do not divide, a wrong layout, arguments that exclude each other.
    """
    _refuse_both(given)
    layout = given.text(_LAYOUT)
    if layout:
        return _of_layout(layout, pp, given)
    layers = given.optional("--num-layers") or (None if llm is None else llm.num_layers)
    counted = (given.has(_EMBEDDING), given.has(_LOSS))
    virtual = given.optional(_VIRTUAL)
    first, last = given.optional(_FIRST), given.optional(_LAST)
    if layers is None:
        if virtual is not None or any((first, last, *counted)):
            raise SpecError("megatron: the layers of stages need the model; give --model")
        return None
    if virtual is not None:
        _refuse_several(virtual, layers + sum(counted), pp)
    if pp == 1:
        return None
    if any(counted):
        return _with_ends(layers, pp, *counted)
    middle = layers - (first or 0) - (last or 0)
    stages = pp - (first is not None) - (last is not None)
    if (stages and (middle < stages or middle % stages)) or (not stages and middle):
        raise SpecError(
            f"megatron: {layers} layers do not divide over {pp} stages; Megatron wants {_LAYOUT}"
        )
    split = [middle // stages] * stages if stages else []
    return tuple(([first] if first else []) + split + ([last] if last else []))


def _refuse_both(given: Given) -> None:
    """Raise SpecError for two ways to say layers of stages of which Megatron takes one."""
    ends = [f for f in (_FIRST, _LAST) if f in given.values]
    counts = [f for f in (_EMBEDDING, _LOSS) if given.has(f)]
    virtual = [f for f in (_VIRTUAL, "--num-virtual-stages-per-pipeline-rank") if f in given.values]
    layout = [_LAYOUT] if _LAYOUT in given.values else []
    pairs = [
        (layout, ends), (layout, counts), (layout, virtual), (ends, counts),
        (ends, [f for f in virtual if f == _VIRTUAL]), (virtual[:1], virtual[1:]),
    ]  # fmt: skip
    for one, other in pairs:
        if one and other:
            raise SpecError(f"megatron: {one[0]} with {other[0]}: Megatron takes one of them")


def _refuse_several(virtual: int, counted: int, pp: int) -> None:
    """Raise SpecError unless one virtual stage is a whole stage.

    virtual: layers of one; counted: layers of all stages, and what counts as one.
    """
    if counted % pp or counted // pp % virtual:
        raise SpecError(
            f"megatron: {_VIRTUAL} {virtual}: {counted} layers over {pp} stages do not divide by "
            "it; Megatron refuses that"
        )
    number = counted // pp // virtual
    if number > 1:
        raise SpecError(f"megatron: {_VIRTUAL} {virtual} makes {number} {NO_VIRTUAL}")


def _with_ends(layers: int, pp: int, embedding: bool, loss: bool) -> tuple[int, ...]:
    """Return equal stages of which the first has a layer less for the embedding, the last for loss.

    Source: Megatron-Core 0.19.2, get_num_layers_to_build of core/transformer/transformer_block.py.
    """
    counted = layers + embedding + loss
    named = " and ".join(["the embedding"] * embedding + ["the loss"] * loss)
    if counted % pp:
        raise SpecError(
            f"megatron: {layers} layers and {named}, {counted} in all, do not divide over {pp} "
            "stages"
        )
    split = [counted // pp] * pp
    split[0] -= embedding
    split[-1] -= loss
    if min(split) < 1:
        raise SpecError(f"megatron: layers of stages {split}: {_NO_LAYERS}")
    return tuple(split)


def _of_layout(text: str, pp: int, given: Given) -> tuple[int, ...]:
    """Return layers of stages in a text such as Et*2|(t|)*2tL: each t is one, E, m and L are none.

    m are layers that draft tokens, in the last stage.
    """
    wrong = f"megatron: {_LAYOUT} {shorten(text)}"
    plain = text.replace(",", "")
    if len(plain) > _LONGEST_TEXT:
        raise SpecError(f"{wrong}: too long")
    for pattern in _REPEATED:
        plain = _unrolled(pattern, plain, wrong)
    if re.fullmatch(r"[EtmL|]*", plain) is None:
        raise SpecError(f"{wrong}: expected stages of E, t, m and L between bars")
    stages = plain.split("|")
    if len(stages) != pp:
        raise SpecError(
            f"{wrong}: {len(stages)} stages for {pp} pipeline ranks; virtual stages have no place "
            "in a plan, whose stages hold consecutive layers"
        )
    letters = "".join(stages)
    if re.fullmatch(r"E[tm]*L", letters) is None:
        raise SpecError(f"{wrong}: Megatron wants E first and L last, and each of them once")
    if "mt" in letters:
        raise SpecError(f"{wrong}: Megatron wants m, layers that draft, behind all t")
    drafts, stated = letters.count("m"), given.values.get(_DRAFTS, "0")
    if stated != str(drafts) and not takes_checkpoint(given):
        raise SpecError(
            f"{wrong}: {drafts} m, but {_DRAFTS} is {shorten(stated)}; Megatron wants as many"
        )
    split = tuple(stage.count("t") for stage in stages)
    if min(split) < 1:
        empty = stages[split.index(0)] or "nothing"
        raise SpecError(f"{wrong}: a stage has {shorten(empty)} and no t: {_NO_LAYERS}")
    return split


def _unrolled(pattern: re.Pattern[str], text: str, wrong: str) -> str:
    """Return a text with its repetitions written out; wrong: how an error starts."""

    def repeated(match: re.Match[str]) -> tuple[str, int]:
        return match[1], int(match[2].lstrip("0")[:9] or 0)

    parts = [repeated(match) for match in pattern.finditer(text)]
    if sum(len(part) * times for part, times in parts) + len(text) > _LONGEST:
        raise SpecError(f"{wrong}: too long")

    def written_out(match: re.Match[str]) -> str:
        part, times = repeated(match)
        return part * times

    return pattern.sub(written_out, text)
