"""Where documents stand: the kinds, their folders, the shipped catalogue and the user's own."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from autopar.documents import label_of
from autopar.errors import SpecError, shorten, suggest
from autopar.specs import (
    LLM,
    Cluster,
    Document,
    Engine,
    ErrorBands,
    Gpu,
    Measurements,
    PlanSpec,
    Recipe,
    RulePack,
    Scenario,
    Workload,
)


class Kind(NamedTuple):
    """One kind of document: its folder, which shipped root holds it, its schema."""

    name: str
    folder: str
    root: str
    model: type[Document]
    parts: Mapping[str, str] = {}  # field -> kind of the document it refers to


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "scenario",
            "scenarios",
            "models",
            Scenario,
            {
                "llm": "llm",
                "cluster": "cluster",
                "workload": "workload",
                "recipe": "recipe",
                "engine": "engine",
            },
        ),
        Kind("llm", "llms", "models", LLM),
        Kind("gpu", "gpus", "models", Gpu),
        Kind("cluster", "clusters", "models", Cluster, {"gpu": "gpu"}),
        Kind("workload", "workloads", "models", Workload),
        Kind("engine", "engines", "models", Engine),
        Kind("plan", "plans", "models", PlanSpec),
        Kind("bands", "bands", "models", ErrorBands),
        Kind("measurements", "measurements", "models", Measurements),
        Kind("recipe", "recipes", "solvers", Recipe),
        Kind("rules", "rules", "solvers", RulePack),
    )
}
SUFFIXES = (".yaml", ".yml", ".json")


def data_root(root: str) -> Traversable:
    """Shipped folder `models` or `solvers`: in the wheel, or beside the package in a checkout."""
    packaged = files("autopar") / root
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / root


def kind_of(word: str) -> Kind:
    """Return the kind that a word names, in singular or plural.

    Raises SpecError with the nearest kind if there is none.
    """
    for kind in KINDS.values():
        if word in (kind.name, kind.folder):
            return kind
    folders = [kind.folder for kind in KINDS.values()]
    raise SpecError(
        f"catalog: unknown kind {shorten(word)}; expected one of {', '.join(folders)}"
        f"{suggest(word, folders)}"
    )


def is_path(reference: str) -> bool:
    """Whether a reference is a file rather than a catalogue name."""
    separators = {os.sep, os.altsep or os.sep, "/"}
    return (
        any(s in reference for s in separators)
        or reference in (".", "..", "")
        or reference.lower().endswith(SUFFIXES)
    )


def user_catalogs(catalogs: Sequence[Path]) -> list[Path]:
    """Return the user's catalogue folders: those given, then those of $AUTOPAR_CATALOG.

    Raises SpecError for one that is not a directory.
    """
    listed = os.environ.get("AUTOPAR_CATALOG", "")
    roots = [(Path(c), "--catalog") for c in catalogs]
    roots += [(Path(c), "AUTOPAR_CATALOG") for c in listed.split(os.pathsep) if c]
    for root, source in roots:
        if not root.is_dir():
            raise SpecError(
                f"{source}: {label_of(root)} is not a directory; expected one with "
                "folders such as llms, clusters, scenarios"
            )
    return [root for root, _ in roots]


def entries(
    kind: Kind, roots: Sequence[Path], only: str | None = None
) -> Iterator[tuple[str, Traversable]]:
    """Yield (name, file) of a kind, the user's catalogues first; `only` narrows to one name."""
    folders: list[Traversable] = []
    for root in roots:
        folders += [root / kind.folder, root / kind.root / kind.folder]
    folders.append(data_root(kind.root).joinpath(kind.folder))
    for folder in folders:
        if not folder.is_dir():
            continue
        for entry in folder.iterdir():
            stem, dot, suffix = entry.name.rpartition(".")
            if f"{dot}{suffix}" in SUFFIXES and only in (None, stem):
                yield stem, entry
