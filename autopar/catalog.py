"""Name or path -> document: the user's catalogues, then the shipped one, and files.

A reference is a file if it has a path separator or ends in .yaml, .yml or .json, is standard input
if it is `-`, and else a catalogue name. Inside a document it may also be the part itself, as a
mapping; a mapping with `base` is the named document with its other fields merged over it.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from autopar import documents
from autopar.documents import Data
from autopar.errors import SpecError, shorten
from autopar.resolve import Library, Resolved
from autopar.shelves import KINDS, data_root, entries, is_path, kind_of, user_catalogs
from autopar.spec_errors import spec_error
from autopar.specs import LLM, Cluster, Document, Gpu, PlanSpec, Scenario

__all__ = [
    "data_root",
    "load_cluster",
    "load_gpu",
    "load_llm",
    "load_plan",
    "load_scenario",
    "names",
    "read_document",
    "read_text",
]

_Model = TypeVar("_Model", bound=Document)


def names(kind: str, *, catalogs: Sequence[Path] = ()) -> list[str]:
    """Return the names of all documents of a kind, sorted, each once."""
    return sorted({name for name, _ in entries(kind_of(kind), user_catalogs(catalogs))})


def read_document(kind: str, name: str, *, catalogs: Sequence[Path] = ()) -> Data:
    """Return the document that a name or path refers to, as it stands in its file."""
    which = kind_of(kind)
    return Library(catalogs).open(which, name, folder=None, user="").data


def read_text(kind: str, name: str, *, catalogs: Sequence[Path] = ()) -> str:
    """Return the file that a name or path refers to, comments and all."""
    which = kind_of(kind)
    if name == "-":
        raise SpecError("catalog: found -, expected a name or a path")
    Library(catalogs).open(which, name, folder=None, user="")  # says what is wrong with it
    if is_path(name):
        return documents.read_text(name)
    found = (at for entry, at in entries(which, user_catalogs(catalogs), name) if entry == name)
    return next(found).read_text("utf-8")


def load_scenario(
    spec: str | Path | Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    parts: Mapping[str, str] | None = None,
    rule_packs: Sequence[str] = (),
    catalogs: Sequence[Path] = (),
    options: Mapping[str, str] | None = None,
) -> Scenario:
    """Return the scenario that a name, a path, `-` or a mapping describes, checked.

    A plan or an answer of `solve` counts as the scenario that it embeds. `parts` swaps llm,
    cluster, workload or recipe for another name or path; without `spec` it must give the first
    three, and the cost model is analytic. An llm may be a config.json of Hugging Face, or a folder
    that holds one. `rule_packs` are added to those of the scenario. `overrides` are `path=value`
    texts of `--set`. `options` says how messages name a part (by its field) or an override (by its
    text): the option of the command line that was typed for it.
    Raises SpecError for everything that is wrong with the input.
    """
    library = Library(catalogs)
    resolved = library.scenario(spec, dict(parts or {}), rule_packs, options)
    if not overrides:
        return _validated(Scenario, resolved)
    before = deepcopy(resolved)
    library.override(resolved, overrides, options)
    return _validated(Scenario, resolved, before)


def load_plan(source: str | Path | Mapping[str, Any], *, catalogs: Sequence[Path] = ()) -> PlanSpec:
    """Return the plan that a name, a path, `-` or a mapping describes, checked."""
    kind = KINDS["plan"]
    library = Library(catalogs)
    resolved = (
        library.resolve(kind, dict(source), "plan", None)
        if isinstance(source, Mapping)
        else library.find(kind, source, None, "")
    )
    if not any(resolved.data.get(key) for key in ("degrees", "roles")) and (
        resolved.data.get("status") is not None
    ):
        status = shorten(resolved.data["status"])
        raise SpecError(f"{resolved.where(())}: an answer of status {status}, it holds no plan")
    degrees = resolved.data.get("degrees")
    if isinstance(degrees, dict):  # null: the stages differ, and each says its own
        resolved.data["degrees"] = {k: v for k, v in degrees.items() if v is not None}
    return _validated(PlanSpec, resolved)


def load_gpu(source: str, *, catalogs: Sequence[Path] = (), option: str = "") -> Gpu:
    """Return the GPU that a name or a path describes, checked; option: how messages name it."""
    return _validated(Gpu, Library(catalogs).find(KINDS["gpu"], source, None, option))


def load_cluster(source: str, *, catalogs: Sequence[Path] = (), option: str = "") -> Cluster:
    """Return the cluster that a name or a path describes, checked; option as above."""
    return _validated(Cluster, Library(catalogs).find(KINDS["cluster"], source, None, option))


def load_llm(source: str, *, catalogs: Sequence[Path] = (), option: str = "") -> LLM:
    """Return the LLM that a name, a path or a config.json describes, checked; option as above."""
    return _validated(LLM, Library(catalogs).find(KINDS["llm"], source, None, option))


def _validated(model: type[_Model], resolved: Resolved, before: Resolved | None = None) -> _Model:
    """Return the document, checked; what was wrong `before` the overrides is not their fault."""
    try:
        return model.model_validate(resolved.data)
    except ValidationError as error:
        if before is not None and _problems(model, resolved) <= _problems(model, before):
            resolved.laid_over = before.laid_over
        raise spec_error(error, model, resolved.data, resolved.where, resolved.where_rule) from None


def _problems(model: type[Document], resolved: Resolved) -> set[tuple[tuple[int | str, ...], str]]:
    try:
        model.model_validate(resolved.data)
    except ValidationError as error:
        return {(detail["loc"], detail["msg"]) for detail in error.errors(include_url=False)}
    return set()
