"""Fill in the references of a document: names, paths, `base`, and where each field came from."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from autopar import documents, overrides
from autopar.documents import MAX_JSON_BYTES, MAX_SPEC_BYTES, Data, kind_error
from autopar.errors import SpecError, shorten, suggest
from autopar.shelves import KINDS, Kind, data_root, entries, is_path, user_catalogs
from autopar.spec_errors import Path
from autopar.specs import Scenario

MAX_BASES = 16  # how many documents deep a reference may lead
_TITLES = (("schema",), ("kind",), ("name",), ("description",))  # fields that clash with no other
_ANSWERS = ("plan", "answer")  # what `solve` writes; both embed the scenario as `spec`


@dataclass(slots=True)
class Resolved:
    """A document with its references filled in, and the file that each of its fields came from."""

    data: Data
    origins: dict[Path, str] = field(default_factory=dict)
    place: str = "spec"  # where the document stands that fields without an origin belong to
    # Fields over a base, the last one last: by what, and the length of the path of the document
    # whose base it is.
    laid_over: dict[Path, tuple[str, int]] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """Return the file, or the `--set`, that gave the field at `path`."""
        ends = (path[:length] for length in range(len(path), -1, -1))
        return next((self.origins[end] for end in ends if end in self.origins), self.place)

    def where_rule(self, path: Path) -> str:
        """Return what to blame where the fields of the mapping at `path` do not fit together.

        That is what was laid over the base last (`--set`, then the user's file), else the file.
        What a part lays over a base of its own is no matter of the whole.
        """
        over = [
            by
            for at, (by, depth) in self.laid_over.items()
            if at[: len(path)] == path and depth <= len(path) and at[len(path) :] not in _TITLES
        ]
        return over[-1] if over else self.where(path)

    def lay_over(self, fields: Mapping[Path, str]) -> None:
        """Note that fields replace what stood there."""
        for path, label in fields.items():
            self.laid_over.pop(path, None)
            self.laid_over[path] = (label, 0)
            self.origins[path] = label

    def relabel(self, old: str, new: str) -> None:
        """Name what gave some of the fields otherwise."""
        self.origins.update({p: new for p, label in self.origins.items() if label == old})
        self.laid_over.update(
            {p: (new, depth) for p, (label, depth) in self.laid_over.items() if label == old}
        )

    def adopt(self, prefix: Path, other: "Resolved") -> None:
        """Take over the origins of a part that now stands at `prefix`."""
        stale = [p for p in self.origins if p[: len(prefix)] == prefix and p != prefix]
        if () in other.origins:
            for path in stale:
                del self.origins[path]
                self.laid_over.pop(path, None)
        self.origins |= {(*prefix, *path): label for path, label in other.origins.items()}
        inside = {
            (*prefix, *path): (label, len(prefix) + depth)
            for path, (label, depth) in other.laid_over.items()
        }
        self.laid_over = inside | self.laid_over  # what is outside comes later


class _Opened(NamedTuple):
    data: Data
    label: str
    folder: FilePath | None  # what its relative paths are relative to; None: the working folder
    stem: str


class Library:
    """Finds documents in the user's catalogues and the shipped one, and fills in references."""

    def __init__(self, catalogs: Sequence[FilePath]) -> None:
        self.roots = user_catalogs(catalogs)
        self.depth = 0

    def scenario(
        self,
        spec: str | FilePath | Mapping[str, Any] | None,
        parts: dict[str, str],
        rule_packs: Sequence[str] = (),
        options: Mapping[str, str] | None = None,
    ) -> Resolved:
        """Return the scenario of a SPEC, with some of its parts swapped, or made of parts alone.

        rule_packs: names or paths of rule packs to add. options: how messages name a part.
        """
        kind = KINDS["scenario"]
        typed = options or {}
        swapped = {
            name: self.find(KINDS[kind.parts[name]], value, None, typed.get(name, f"--{name}"))
            for name, value in parts.items()
        }
        if spec is None:
            options_of = {"llm": "--model", "cluster": "--cluster", "workload": "--workload"}
            missing = [option for name, option in options_of.items() if name not in swapped]
            if missing:
                raise SpecError(
                    f"no SPEC given; expected a scenario, or its parts by {', '.join(missing)}"
                )
            name = f"{swapped['llm'].data.get('name')}-on-{swapped['cluster'].data.get('name')}"
            opened = _Opened({"name": name[:120]}, "command line", None, "")
        elif isinstance(spec, Mapping):
            opened = _Opened(deepcopy(dict(spec)), "scenario", None, "scenario")
        else:
            opened = self.open(kind, spec, None, "")
        data = {
            "name": opened.stem,
            **opened.data,
            **{name: part.data for name, part in swapped.items()},
        }
        given = data.get("rule_packs")
        present = given if isinstance(given, list) else []
        names = [pack.get("name") if isinstance(pack, dict) else pack for pack in present]
        packs = [
            self.find(KINDS["rules"], pack, None, typed.get("rule_packs", "rule_packs"))
            for pack in rule_packs
            if pack not in names
        ]
        if packs:
            data["rule_packs"] = [*present, *(pack.data for pack in packs)]
        resolved = self.resolve(kind, data, opened.label, opened.folder)
        for name, part in swapped.items():
            resolved.adopt((name,), part)
        for place, pack in enumerate(packs, start=len(present)):
            resolved.adopt(("rule_packs", place), pack)
        return resolved

    def override(
        self, resolved: Resolved, texts: Sequence[str], options: Mapping[str, str] | None = None
    ) -> None:
        """Apply `--set` texts, and fill in the references that they brought.

        options: text -> the option that stands for it, as messages name it.
        """
        changed = overrides.apply(resolved.data, texts, Scenario, options or {})
        for path in changed:
            if path[-3:] == ("gpu", "kernels", "of"):  # not of the GPU that lent them before
                kernels = resolved.data["cluster"]["gpu"]["kernels"]
                resolved.data["cluster"]["gpu"]["kernels"] = {"of": kernels["of"]}
        again = self.resolve(KINDS["scenario"], resolved.data, None, None, "--set")
        resolved.data = again.data
        resolved.lay_over(changed)
        for path, label in again.origins.items():
            resolved.origins.setdefault(path, label)

    def find(
        self, kind: Kind, reference: str | FilePath, folder: FilePath | None, user: str
    ) -> Resolved:
        """Return the document that a reference names, with its own references filled in."""
        opened = self.open(kind, reference, folder, user)
        opened.data.setdefault("name", opened.stem)
        return self.resolve(kind, opened.data, opened.label, opened.folder)

    def resolve(
        self,
        kind: Kind,
        data: Data,
        label: str | None,
        folder: FilePath | None,
        place: str = "spec",
    ) -> Resolved:
        """Fill in the references of a document.

        label: its file, or None for a mapping inside another document, which stands at `place`.
        """
        self.depth += 1
        if self.depth > MAX_BASES:
            raise SpecError(
                f"{label or place}: base: {MAX_BASES} documents deep; is there a circle?"
            )
        data = dict(data)
        place = label or place
        result = Resolved(data, {} if label is None else {(): label}, place)
        base = data.pop("base", None)
        if base is not None:
            result = self._with_base(kind, base, Resolved(data, result.origins, place), folder)
        if kind.name == "scenario" and result.data.get("recipe") is None:
            result.data["recipe"] = "default"
        for name, part in kind.parts.items():
            self._fill(result, name, KINDS[part], folder)
        if kind.name == "scenario":
            self._fill_rule_packs(result, folder)
        if kind.name == "gpu":
            self._borrow_kernels(result, folder)
        if kind.name == "recipe" and folder is not None:
            _anchor_plugins(result.data, folder)
        self.depth -= 1
        return result

    def _with_base(
        self, kind: Kind, base: Any, over: Resolved, folder: FilePath | None
    ) -> Resolved:
        user = f"{over.place}: base"
        if not isinstance(base, str):
            raise SpecError(f"{user}: found {documents.found(base)}, expected a name or a path")
        parent = self.find(kind, base, folder, user)
        if isinstance(over.data.get("kernels"), dict) and "of" in over.data["kernels"]:
            parent.data.pop("kernels", None)  # those of another GPU
        parent.lay_over({path: over.place for path in _leaves(over.data) if path})
        parent.data = _merged(parent.data, over.data)
        return parent

    def _fill(self, result: Resolved, name: str, kind: Kind, folder: FilePath | None) -> None:
        value = result.data.get(name)
        owner = result.where((name, "base") if isinstance(value, dict) else (name,))
        place = f"{owner}: {name}"
        if isinstance(value, str):
            part = self.find(kind, value, folder, place)
        elif isinstance(value, dict):
            part = self.resolve(kind, value, None, folder, place)
            part.relabel(place, owner)  # the path of a field says the rest
            part.data.setdefault("name", kind.name)
        else:
            return  # absent or of a wrong type: the schema says so
        result.data[name] = part.data
        result.adopt((name,), part)

    def _borrow_kernels(self, gpu: Resolved, folder: FilePath | None) -> None:
        """Lay the kernels of a GPU over those of the one that they name, if they have none."""
        own = gpu.data.get("kernels")
        if not isinstance(own, dict) or not isinstance(own.get("of"), str) or own.get("gemm"):
            return  # of a GPU that was measured itself, or borrowed before
        place = f"{gpu.where(('kernels', 'of'))}: kernels.of"
        lender = self.find(KINDS["gpu"], own["of"], folder, place).data.get("kernels")
        if not isinstance(lender, dict) or not lender.get("gemm"):
            raise SpecError(f"{place}: GPU {own['of']!r} has no kernels of its own to lend")
        gpu.data["kernels"] = _merged({k: v for k, v in lender.items() if k != "note"}, own)

    def _fill_rule_packs(self, result: Resolved, folder: FilePath | None) -> None:
        """Fill in the scenario's rule packs and add those that its recipe names."""
        packs = result.data.get("rule_packs") or []
        if not isinstance(packs, list):
            return
        recipe = result.data.get("recipe")
        named = recipe.get("rule_packs") if isinstance(recipe, dict) else None
        present = [p.get("name") if isinstance(p, dict) else p for p in packs]
        extra = [n for n in _texts(named) if n not in present]
        filled: list[Any] = []
        for place, pack in enumerate([*packs, *extra]):
            user = f"{result.where(('rule_packs', place))}: rule_packs[{place}]"
            part = self.find(KINDS["rules"], pack, folder, user) if isinstance(pack, str) else None
            filled.append(part.data if part else pack)
            if part:
                result.adopt(("rule_packs", place), part)
        if filled:
            result.data["rule_packs"] = filled

    def open(
        self, kind: Kind, reference: str | FilePath, folder: FilePath | None, user: str
    ) -> _Opened:
        """Return the text of a reference as data; a plan counts as the scenario that it embeds."""
        limit = MAX_JSON_BYTES if kind.name in ("scenario", "plan") else MAX_SPEC_BYTES
        text = str(reference)
        if not text:
            place = f"{user}: " if user else ""
            raise SpecError(f"{place}found '', expected a name or a path")
        if text == "-" and folder is None:
            opened = _Opened(_read_stdin(kind, limit), "standard input", None, "stdin")
        elif (
            isinstance(reference, FilePath) or is_path(text) or self._is_folder(kind, text, folder)
        ):
            path = FilePath(text) if folder is None else folder / text
            try:
                data = _read(kind, path, limit)
            except SpecError as error:
                raise SpecError(f"{user}: {error}" if user else str(error)) from None
            opened = _Opened(data, documents.label_of(path), path.parent, path.stem)
        else:
            opened = self._named(kind, text, user)
        return _of_kind(kind, opened)

    def _is_folder(self, kind: Kind, text: str, folder: FilePath | None) -> bool:
        """Whether a plain word on the command line is a model's folder, not a catalogue name."""
        if kind.name != "llm" or folder is not None or len(text) >= 200 or "\0" in text:
            return False
        in_catalogue = any(entry == text for entry, _ in entries(kind, self.roots, text))
        return not in_catalogue and FilePath(text).is_dir()

    def _named(self, kind: Kind, name: str, user: str) -> _Opened:
        for entry, at in entries(kind, self.roots, name):
            if entry != name:
                continue
            if isinstance(at, FilePath):
                label = documents.label_of(at)
                if at.is_relative_to(str(data_root(kind.root))):
                    label = f"{kind.folder}/{at.name}"
                return _Opened(documents.read(at), label, at.parent, name)
            return _Opened(documents.parse(at.read_text("utf-8"), at.name), at.name, None, name)
        known = sorted({entry for entry, _ in entries(kind, self.roots)})
        here = FilePath(name) if len(name) < 200 and "\0" not in name else FilePath("?")
        hint = f"; for the file of that name write ./{name}" if here.exists() else ""
        place = f"{user}: " if user else ""
        raise SpecError(
            f"{place}unknown {kind.name} {shorten(name)}{suggest(name, known) or hint} "
            f"(autopar catalog {kind.folder} lists them; a path ends in .yaml or .json)"
        )


def _is_config(data: Data) -> bool:
    """Whether a document is a config.json of Hugging Face, not a spec of ours."""
    return "kind" not in data and ("model_type" in data or "architectures" in data)


def _read(kind: Kind, path: FilePath, limit: int) -> Data:
    """Return the data of a file; a config.json, or a folder that holds one, becomes an LLM."""
    if kind.name != "llm":
        return documents.read(path, max_bytes=limit)
    if not path.is_dir() and not _is_config(documents.read_config(path)):
        return documents.read(path, max_bytes=limit)
    from autopar.ingest import read_config  # noqa: PLC0415  only configs need it

    return read_config(path).document()


def _read_stdin(kind: Kind, limit: int) -> Data:
    """Return the data on standard input; a config.json becomes an LLM there, too."""
    text, label = documents.read_text("-", max_bytes=limit), documents.label_of("-")
    if kind.name == "llm" and text.lstrip().startswith("{"):
        config = documents.parse(text, label, constant=str)
        if _is_config(config):
            from autopar.ingest import llm_from_config  # noqa: PLC0415  only configs need it

            return llm_from_config(config, where=label).document()
    return documents.parse(text, label)


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _of_kind(kind: Kind, opened: _Opened) -> _Opened:
    stated = opened.data.get("kind")
    if kind.name == "scenario" and stated in _ANSWERS:
        spec = opened.data.get("spec")
        if not isinstance(spec, dict):
            raise SpecError(
                f"{opened.label}: kind: expected kind scenario, found a {stated} that embeds no "
                "spec to replay"
            )
        return opened._replace(data=spec, label=f"{opened.label}: spec")
    allowed = _ANSWERS if kind.name == "plan" else (kind.name,)
    if stated is not None and stated not in allowed:
        raise kind_error(opened.label, kind.name, opened.data)
    if stated is None:
        _refuse_other_kind(kind, opened)
    return opened


def _refuse_other_kind(kind: Kind, opened: _Opened) -> None:
    """Raise SpecError for a document without `kind` whose fields are plainly those of another."""
    keys = set(opened.data) - {"base"}

    def foreign(other: Kind) -> int:
        fields = other.model.model_fields
        return len(keys - {f.alias or name for name, f in fields.items()})

    best = min(KINDS.values(), key=foreign)
    if len(keys) > 2 and foreign(best) == 0 and foreign(kind) > len(keys) // 2:
        raise SpecError(
            f"{opened.label}: expected kind {kind.name}, found the fields of {best.name}"
        )


def _merged(base: Data, over: Data) -> Data:
    """Return `base` with `over` on top: mappings merge, null unsets, all else replaces."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(below, dict) and "base" not in value:
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result


def _leaves(data: Any, prefix: Path = ()) -> Iterator[Path]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*prefix, key))
    else:
        yield prefix


def _anchor_plugins(recipe: Data, folder: FilePath) -> None:
    """Make the plug-in paths of a recipe independent of the working folder."""
    plugins = recipe.get("plugins")
    if isinstance(plugins, list):
        recipe["plugins"] = [
            str((folder / p).resolve()) if isinstance(p, str) and "\0" not in p else p
            for p in plugins
        ]
