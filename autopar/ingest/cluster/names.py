"""The GPU of the catalogue that a driver, a label or a scheduler names in its own way."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from autopar.errors import SpecError, shorten
from autopar.ingest.cluster.findings import How
from autopar.specs.cluster import Links

MEMORY_TOLERANCE = 0.1  # drivers keep some back, and GB and GiB are mixed up

_MAKERS = ("nvidia", "amd", "instinct", "geforce", "tesla", "oam", "gpu")
_SXM = re.compile(r"sxm\d")
_GB = re.compile(r"(\d+)g(?:i?b)?")


@dataclass(frozen=True, slots=True)
class KnownCluster:
    """A cluster of the catalogue: what may be assumed of others with the same GPU."""

    name: str
    gpu: str
    num_nodes: int
    gpus_per_node: int
    gpus_per_domain: int
    links: Links


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What is known beforehand: bytes of memory by GPU, and the names that drivers give GPUs."""

    gpus: Mapping[str, float]
    devices: Mapping[str, str]
    clusters: Sequence[KnownCluster] = ()

    def like(self, gpu: str, gpus_per_node: int) -> KnownCluster | None:
        """Return the cluster of this GPU whose nodes are most like these; the smallest of them."""
        of_gpu = [cluster for cluster in self.clusters if cluster.gpu == gpu]
        return min(
            of_gpu,
            key=lambda c: (abs(c.gpus_per_node - gpus_per_node), c.num_nodes, c.name),
            default=None,
        )


@dataclass(frozen=True, slots=True)
class Match:
    """A GPU of the catalogue; why: how it was found; doubt: what may be wrong with that."""

    gpu: str
    how: How
    why: str
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Names:
    """Finds GPUs by name; given: those that the user named, by what was found, "" for any."""

    catalogue: Catalogue
    given: Mapping[str, str] = field(default_factory=dict)

    def match(self, found: str | None, memory_bytes: float | None, where: str) -> Match:
        """Return the GPU of the catalogue that `found` names.

        Raises SpecError, with the nearest ones, if there is none or more than one.
        """
        given = self.given.get(found or "", self.given.get(""))
        shown = "no name" if found is None else shorten(found)
        if given is not None:
            return Match(given, "given", f"--gpu; the input says {shown}")
        if found is None:
            raise SpecError(
                f"{where}: GPUs without a name, expected one in the input, or --gpu NAME "
                "(autopar catalog gpus lists them)"
            )
        exact = self._exact(found)
        if exact is not None:
            return Match(exact, "read", f"{shown}")
        matches = self._short(found, memory_bytes)
        if len(matches) == 1:
            return Match(matches[0], "inferred", f"{shown}, the only one of that name")
        preferred = [name for name in matches if "-sxm-" in name]
        usual = [name for name in matches if "-nvl-" not in name]  # which says so in its name
        if len(preferred) == 1 and self._are_alike(usual):
            others = " or ".join(name for name in matches if name != preferred[0])
            why = f"{shown}, taken for the SXM form"
            return Match(preferred[0], "inferred", why, f"it may be {others} too")
        raise SpecError(f"{where}: {self._unknown(found, matches)}")

    def is_given(self, found: str | None) -> bool:
        """Whether the user says what a GPU of this name is."""
        return (found or "") in self.given or "" in self.given

    def candidates(self, found: str | None) -> set[str]:
        """Return the GPUs that a name may mean; all of them for none."""
        given = self.given.get(found or "", self.given.get(""))
        if given is not None:
            return {given}
        if found is None:
            return set(self.catalogue.gpus)
        exact = self._exact(found)
        return set(self._short(found, None)) if exact is None else {exact}

    def _exact(self, found: str) -> str | None:
        if found in self.catalogue.gpus:
            return found
        words = _words(found)
        for device, name in self.catalogue.devices.items():
            if _words(device) == words and name in self.catalogue.gpus:
                return name
        return None

    def _short(self, found: str, memory_bytes: float | None) -> list[str]:
        """Return the GPUs whose name has all words of `found`, and about its memory."""
        words = set(_words(found))
        return [
            name
            for name, size in self.catalogue.gpus.items()
            if words
            and words <= set(_words(name))
            and (memory_bytes is None or is_near(memory_bytes, size))
        ]

    def _are_alike(self, names: Iterable[str]) -> bool:
        sizes = [self.catalogue.gpus[name] for name in names]
        return max(sizes) <= min(sizes) * (1 + MEMORY_TOLERANCE)

    def _unknown(self, found: str, matches: Sequence[str]) -> str:
        if matches:
            return (
                f"found the GPU {shorten(found)}, which may be {' or '.join(matches)}; say which "
                "by --gpu NAME"
            )
        hint = did_you_mean(found, self.catalogue.gpus)
        return (
            f"unknown GPU {shorten(found)}{hint} (autopar catalog gpus lists them; --gpu NAME "
            "takes one for it)"
        )


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the GPUs of the same first word, or one much like it."""
    words = _words(found)
    names: dict[str, list[str]] = {}
    for name in known:
        names.setdefault(_words(name)[0], []).append(name)
    firsts = get_close_matches(words[0][:60] if words else "", names, n=2, cutoff=0.7)
    near = names.get(words[0] if words else "") or [n for first in firsts for n in names[first]]
    return f"; did you mean {' or '.join(repr(name) for name in near[:3])}?" if near else ""


def is_near(one: float, other: float) -> bool:
    """Whether two sizes of memory may be those of the same GPU."""
    return abs(one / other - 1.0) <= MEMORY_TOLERANCE


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a name, without makers: NVIDIA-A100-SXM4-80GB -> a100 sxm 80gb."""
    words = (_SXM.sub("sxm", word) for word in re.split(r"[\s_\-]+", name.lower()))
    sized = (f"{match[1]}gb" if (match := _GB.fullmatch(word)) else word for word in words)
    return tuple(word for word in sized if word and word not in _MAKERS)
