"""config.json of a model on Hugging Face -> LLM: the text part, counted exactly, or a refusal."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autopar import documents
from autopar.documents import found, shorten_text
from autopar.errors import SpecError, suggest
from autopar.ingest.aliases import (
    CONTEXT,
    DENSE_SIZE,
    EXPERT_SIZE,
    EXPERTS,
    HIDDEN,
    LAYERS,
    TEXT_PARTS,
    VOCABULARY,
)
from autopar.ingest.families import FAMILIES, NOT_EXPRESSED, WHOLE_TIES
from autopar.ingest.family import Builder
from autopar.ingest.fields import Fields, Flag
from autopar.ingest.precisions import bytes_per_parameter, data_type, precisions_of
from autopar.ingest.unread import refuse_unread
from autopar.specs import LLM, SCHEMA_VERSION
from autopar.specs.architecture import Precision
from autopar.specs.counting import active_parameters, parameters

MAX_NAME = 120  # as autopar.specs.base.Name
_MAX_CONTEXT = 10**9  # as autopar.specs.llm.LLM.max_context_tokens
_MOST_PARAMETERS = 10**14  # a hundred times the largest models
_OF_A_CLASS = re.compile(r"(For[A-Z]|LMHead|Model$).*")  # LlamaForCausalLM is of the family Llama
# Formats as repositories write them in names, by whole words: Llama-3.1-8B-Instruct-FP8, -NVFP4.
_FORMATS = re.compile(
    r"(?<![a-z0-9])(fp8|nvfp4|mxfp4|fp4|int8|int4|w4a16|w8a8|awq|gptq|modelopt)(?![a-z0-9])",
    re.IGNORECASE,
)
_UNSTATED_TYPE: Precision = "bf16"  # nearly every model of today; answers say that it is assumed
_HASH = re.compile(r"[0-9a-f]{40}")  # a snapshot's folder in the cache of Hugging Face


def read_config(path: str | Path) -> LLM:
    """Return the model that a config.json describes; `path` is the file, or a folder that has it.

    hf_quant_config.json, in which ModelOpt keeps the quantisation, is read where it stands beside.
    Raises SpecError, which names file and field, if the model cannot be told from it exactly.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    if file != path and not file.exists():
        raise SpecError(f"{documents.label_of(path)}: found a folder without config.json")
    data = documents.read_config(file)
    quantization = None
    beside = file.parent / "hf_quant_config.json"
    if file.name == "config.json" and beside.exists():
        method = {"quant_method": "modelopt"}
        quantization = Fields(method | documents.read_config(beside), documents.label_of(beside))
    place = file.parent.resolve() if file.stem == "config" else Path(file.stem)
    # `_name_or_path` is often the model this one was made from, so it counts for less.
    name = _folder_name(place) or _stated_name(data)
    return _llm(data, name, documents.label_of(file), quantization)


def llm_from_config(config: Mapping[str, Any], *, name: str | None = None, where: str) -> LLM:
    """Return the model that the fields of a config.json describe.

    name: of the model, else `_name_or_path`, else its model_type. where: the file, as messages
    name it. Parameters are those of the text part, without layers that only draft tokens.
    Raises SpecError, which names file and field, if the model cannot be told from it exactly.
    """
    return _llm(config, name or _stated_name(config), where, None)


def _llm(
    config: Mapping[str, Any], name: str | None, where: str, quantization: Fields | None
) -> LLM:
    outer = Fields(config, where)
    fields = _text_part(outer)
    model_type = fields.text("model_type") or outer.text("model_type")
    builder = FAMILIES.get(model_type or "")
    if fields is outer and (builder is None or not outer.has(*HIDDEN)):
        _refuse_lone_vision_part(outer)
    if model_type is None or builder is None:
        raise outer.error("model_type", _unknown(model_type))
    _refuse_other_architecture(fields, model_type, builder)
    try:
        blueprint = builder.build(fields)
        refuse_unread(fields, model_type)
        stated = (f.section("quantization_config") for f in (outer, fields))
        section = next((s for s in stated if s is not None), quantization)
        stated_type = data_type(outer, fields)
        base = stated_type or _UNSTATED_TYPE
        precisions, remarks = precisions_of(blueprint, base, section)
        architecture = blueprint.architecture
        count = parameters(architecture)
        _refuse_absurd_count(fields, count)
        return LLM(
            schema=SCHEMA_VERSION,
            name=_legal_name(name or model_type),
            description=_description(model_type, count, active_parameters(architecture), remarks),
            sources=(where,),
            assumptions=(
                *(_untyped(section is not None) if stated_type is None else ()),
                *(_unquantised(config, name, base) if section is None else ()),
            ),
            num_layers=architecture.num_layers,
            num_experts=architecture.num_experts,
            experts_per_token=architecture.experts_per_token,
            num_parameters=count,
            bytes_per_parameter=bytes_per_parameter(architecture, precisions),
            precisions=precisions,
            max_context_tokens=_context(fields),
            architecture=architecture,
        )
    except ValidationError as error:  # sizes that are legal one by one, but not together
        detail = error.errors(include_url=False)[0]
        raise SpecError(
            f"{where}: found sizes that make no model: {shorten_text(str(detail['msg']))}"
        ) from None


def _refuse_other_architecture(fields: Fields, model_type: str, builder: Builder) -> None:
    """Raise SpecError where `architectures` names a family whose fields mean something else."""
    stated = fields.value("architectures")
    if not isinstance(stated, list):
        return
    known = {_plain(name): family for name, family in FAMILIES.items()}
    for index, name in enumerate(stated):
        if not isinstance(name, str):
            continue
        other = known.get(_plain(_OF_A_CLASS.sub("", name)))
        if other is not None and other != builder:
            message = (
                f"found {found(name)}, but model_type is {found(model_type)}; expected the same "
                "family in both"
            )
            raise fields.error("architectures", message, index=index)


def _plain(name: str) -> str:
    return re.sub("[_-]", "", name.lower())


def _refuse_absurd_count(fields: Fields, count: int) -> None:
    """Raise SpecError for more parameters than any model has, by the field that most are due to."""
    if count <= _MOST_PARAMETERS:
        return
    names = (LAYERS, HIDDEN, VOCABULARY, DENSE_SIZE, EXPERT_SIZE, EXPERTS)
    sizes = {
        fields.spelled(*spelt): value
        for spelt in names
        if isinstance(value := fields.value(fields.spelled(*spelt)), int)
    }
    name = max(sizes, key=lambda key: sizes[key]) if sizes else HIDDEN[0]
    raise fields.error(
        name,
        f"found {found(sizes.get(name))}, with which the model has {count:.2g} parameters; "
        f"expected sizes that make at most {_MOST_PARAMETERS:.0e}",
    )


def _text_part(outer: Fields) -> Fields:
    """Return the fields of the text part, with what only the whole model says about it."""
    name = next((part for part in TEXT_PARTS if outer.has(part)), None)
    section = None if name is None else outer.section(name)
    if name is None or section is None:
        return outer
    if not section.data:
        raise _no_text_part(outer, name)
    tie = Flag("tie_word_embeddings")
    if outer.has(tie.name):
        whole = outer.switch(tie)
        if section.has(tie.name) and section.switch(tie) != whole:
            message = f"found {found(not whole)}, but the whole model has {found(whole)}"
            raise section.error(tie.name, f"{message}; expected one value")
        return Fields({**section.data, tie.name: whole}, outer.where, section.path)
    assumed = WHOLE_TIES.get(outer.text("model_type") or "")
    if assumed is not None and not section.has(tie.name):
        return Fields({**section.data, tie.name: assumed}, outer.where, section.path)
    return section


def _refuse_lone_vision_part(outer: Fields) -> None:
    """Raise SpecError for a model of several parts whose text part is not there."""
    null = next((part for part in TEXT_PARTS if part in outer.data), None)
    if null is not None or "vision_config" in outer.data:
        raise _no_text_part(outer, null or TEXT_PARTS[0])


def _no_text_part(outer: Fields, name: str) -> SpecError:
    value = found(outer.data[name]) if name in outer.data else "nothing"
    return outer.error(name, f"found {value}, expected the fields of the text part")


def _context(fields: Fields) -> int | None:
    """Return the longest context; of several fields, which need not agree, the usual one."""
    name = next((name for name in CONTEXT if fields.has(name)), CONTEXT[0])
    return fields.optional(name, high=_MAX_CONTEXT)


def _unknown(model_type: str | None) -> str:
    if model_type is None:
        return "found nothing, expected the family of the model, such as 'llama'"
    if model_type in NOT_EXPRESSED:
        return (
            f"found {found(model_type)}; what it has, {NOT_EXPRESSED[model_type]}, is not expressed"
        )
    near = suggest(model_type, FAMILIES)
    return (
        f"found {found(model_type)}, expected one of those in docs/ingest.md: what its fields mean "
        "is not known. A spec of your own must state its layers, hidden_size, vocab_size, and the "
        "kinds of attention and feed-forward with their sizes (autopar catalog llms NAME prints "
        f"one to start from){near}"
    )


def _description(model_type: str, count: int, active: int, remarks: str) -> str:
    share = f", {active:,} of them for one token" if active != count else ""
    return f"{model_type}: {count:,} parameters of the text part{share}.{remarks}"


def _untyped(is_quantised: bool) -> tuple[str, ...]:
    """Return the assumption about the type of weights of which nothing says it."""
    which = "weights that are not quantised" if is_quantised else "weights"
    told = (
        f"{which} are {_UNSTATED_TYPE}: config.json names no type of data (dtype or torch_dtype); "
        "add it there, or set llm.precisions, if they are stored otherwise"
    )
    return (told,)


def _unquantised(config: Mapping[str, Any], name: str | None, base: str) -> tuple[str, ...]:
    """Return an assumption where a name speaks of a format, and nothing says what is stored so."""
    names = (text for text in (name, _stated_name(config)) if text is not None)
    for text in names:
        said = _FORMATS.search(text)
        if said is not None:
            told = (
                f"all weights are {base}: the name {shorten_text(text)} speaks of "
                f"{said.group().upper()}, but config.json has no quantization_config and no "
                "hf_quant_config.json (of ModelOpt) was found beside it; give the folder that has "
                "both, or set llm.precisions"
            )
            return (told,)
    return ()


def _stated_name(config: Mapping[str, Any]) -> str | None:
    stated = config.get("_name_or_path")
    return Path(stated.rstrip("/")).name or None if isinstance(stated, str) else None


def _folder_name(path: Path) -> str:
    """Return the name of a file or folder, without the organisation in front: `ORG--NAME`."""
    if _HASH.fullmatch(path.name) and path.parent.name == "snapshots":
        path = path.parent.parent
    return path.name.rpartition("--")[2]


def _legal_name(name: str) -> str:
    """Return a text as a catalogue name: lower case, other characters as hyphens."""
    return re.sub(r"[^a-z0-9._+-]+", "-", name.lower()).strip("-._+")[:MAX_NAME] or "llm"
