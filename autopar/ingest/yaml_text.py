"""An LLM as a file of the catalogue: our YAML, laid out as people write it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from autopar.specs import LLM
from autopar.specs.architecture import Architecture, Attention, FeedForward

_WIDTH = 100
_DEFAULT_BYTES = 2.0  # as autopar.specs.llm.LLM.bytes_per_parameter
# Words of YAML, and text that reads as a number, are quoted.
_PLAIN = re.compile(r"(?!(?:null|true|false|yes|no|on|off|nan|inf)\Z)[a-z][\w.+-]*", re.IGNORECASE)


def yaml_text(llm: LLM) -> str:
    """Return the document that `autopar` reads back as the same LLM; defaults are left out."""
    return "".join(f"{line}\n" for line in _document(llm))


def _document(llm: LLM) -> Iterator[str]:
    yield f"schema: {llm.schema_version}"
    yield f"kind: {llm.kind}"
    yield f"name: {_flow(llm.name)}"
    if llm.description:
        yield from ("description: >-", *_wrapped(llm.description.split(), " ", "  ", "  "))
    for key, texts in (("sources", llm.sources), ("assumptions", llm.assumptions)):
        if texts:
            yield from (f"{key}:", *(line for text in texts for line in _item(text)))
    for key in ("num_layers", "num_experts", "experts_per_token", "num_parameters"):
        if getattr(llm, key):
            yield f"{key}: {_flow(getattr(llm, key))}"
    if llm.bytes_per_parameter != _DEFAULT_BYTES:
        yield f"bytes_per_parameter: {llm.bytes_per_parameter}"
    precisions = llm.precisions.model_dump(exclude_defaults=True)
    if precisions:
        yield f"precisions: {_flow(precisions)}"
    if llm.max_context_tokens is not None:
        yield f"max_context_tokens: {llm.max_context_tokens}"
    if llm.architecture is not None:
        yield "architecture:"
        yield from (f"  {line}" for line in _architecture(llm.architecture))


def _architecture(architecture: Architecture) -> Iterator[str]:
    """Yield the lines below `architecture`: parts by name, then the runs of layers."""
    for key in ("hidden_size", "vocab_size", "shares_embeddings"):
        yield f"{key}: {_flow(getattr(architecture, key))}"
    yield from _shelf("attention", architecture.attention)
    yield from _shelf("feed_forward", architecture.feed_forward)
    yield "layers:"
    for run in architecture.layers:
        layers = [_flow(layer.model_dump(exclude_defaults=True)) for layer in run.layers]
        yield f"  - count: {run.count}"
        if len(layers) == 1:
            yield f"    layers: [{layers[0]}]"
        else:
            yield from ("    layers:", *(f"      - {layer}" for layer in layers))
    if architecture.other_parameters:
        yield f"other_parameters: {architecture.other_parameters}"
    drafts = architecture.next_token_prediction
    if drafts is not None:
        yield "next_token_prediction:"
        yield f"  layer: {_flow(drafts.layer.model_dump(exclude_defaults=True))}"
        yield f"  count: {drafts.count}"
        yield f"  other_parameters: {drafts.other_parameters}"


def _shelf(key: str, shelf: Mapping[str, Attention] | Mapping[str, FeedForward]) -> Iterator[str]:
    """Yield the parts of one kind, each on one line, or more where it is too long."""
    yield f"{key}:" if shelf else f"{key}: {{}}"
    for name, part in shelf.items():
        items = {"kind": part.kind} | part.model_dump(exclude_defaults=True)
        words = [f"{field}: {_flow(value)}" for field, value in items.items()]
        start = f"  {_flow(name)}: {{"
        lines = list(_wrapped(words, ", ", start, " " * len(start)))
        yield from (*(f"{line}," for line in lines[:-1]), f"{lines[-1]}}}")


def _item(text: str) -> Iterator[str]:
    """Yield the lines of a text in a list: quoted, where a line break is read as one space."""
    quoted = json.dumps(text, ensure_ascii=False)
    words = [quoted] if "  " in quoted else quoted.split(" ")  # several spaces would become one
    yield from _wrapped(words, " ", "  - ", "    ")


def _wrapped(words: Iterable[str], glue: str, start: str, indent: str) -> Iterator[str]:
    """Yield words joined to lines of at most the usual width."""
    line, is_empty = start, True
    for word in words:
        if not is_empty and len(line) + len(glue) + len(word) > _WIDTH - 4:
            yield line
            line, is_empty = indent, True
        line += word if is_empty else f"{glue}{word}"
        is_empty = False
    yield line


def _flow(value: Any) -> str:
    """Return a value on one line, as YAML in flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else json.dumps(value)
    return str(int(value)) if float(value).is_integer() else repr(value)
