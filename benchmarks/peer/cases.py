"""The benchmark's cases, and how a case becomes a command line of either program."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CASES_FILE = HERE / "cases.yaml"


class CasesError(ValueError):
    """The file of cases is not as expected."""


@dataclass(frozen=True, slots=True)
class PeerInput:
    """What the peer is given; `cannot` says why it has no answer, and then nothing else counts."""

    model: str = ""
    system: str = ""
    backend: str = ""
    folder: bool = False
    quantization: Mapping[str, Any] | None = None
    cannot: str = ""

    @property
    def needs_folder(self) -> bool:
        """Whether the model is handed over as a folder instead of by its name."""
        return self.folder or self.quantization is not None


@dataclass(frozen=True, slots=True)
class Case:
    """One case; limits in ms, lengths in tokens."""

    name: str
    gpus: int
    ttft_ms: float
    tpot_ms: float
    input_tokens: int
    output_tokens: int
    peer: PeerInput
    autopar: Mapping[str, Any]
    ways: Mapping[str, Mapping[str, Any]]  # workload, options, share of TPOT by way of serving
    why: str = ""

    @property
    def modes(self) -> list[str]:
        """Ways of serving that autopar is asked for: agg, disagg, or both."""
        return list(self.autopar.get("modes", ["agg"]))

    def autopar_arguments(self, mode: str = "agg") -> list[str]:
        """Return the words after `autopar` that solve this case."""
        way = self.ways[mode]
        tpot_ms = self.tpot_ms * way.get("tpot_share", 1.0)
        return [
            "solve",
            *("--model", str(self.autopar["model"])),
            *("--cluster", str(self.autopar["cluster"])),
            *("--workload", str(way["workload"])),
            *("--ttft", f"{self.ttft_ms:g}ms"),
            *("--tpot", f"{tpot_ms:.4g}ms"),
            *(str(word) for word in self.autopar.get("options", [])),
            *(str(word) for word in way["options"]),
            "--json",
        ]

    def peer_arguments(self, model_path: str, save_dir: str) -> list[str]:
        """Return the words after `aiconfigurator` that search this case."""
        return [
            *("cli", "default", "--no-color"),
            *("--model-path", model_path),
            *("--system", self.peer.system),
            *("--backend", self.peer.backend),
            *("--total-gpus", str(self.gpus)),
            *("--isl", str(self.input_tokens)),
            *("--osl", str(self.output_tokens)),
            *("--ttft", f"{self.ttft_ms:g}"),
            *("--tpot", f"{self.tpot_ms:g}"),
            *("--save-dir", save_dir),
        ]

    def autopar_command(self, mode: str = "agg") -> str:
        """Return the command as a user types it."""
        return "autopar " + shlex.join(self.autopar_arguments(mode))


def load_cases(path: Path = CASES_FILE) -> list[Case]:
    """Read the cases, in the file's order.

    Raises CasesError where a name is used twice or a field is missing or unknown.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    cases = []
    for entry in document["cases"]:
        fields = dict(entry)
        try:
            peer = PeerInput(**fields.pop("peer"))
            case = Case(
                input_tokens=document["input_tokens"],
                output_tokens=document["output_tokens"],
                peer=peer,
                ways=document["modes"],
                **fields,
            )
        except (KeyError, TypeError) as error:
            raise CasesError(f"{path.name}: {entry.get('name', entry)}: {error}") from error
        cases.append(case)
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CasesError(f"{path.name}: named twice: {', '.join(twice)}")
    return cases


def select(cases: list[Case], names: list[str]) -> list[Case]:
    """Return the named cases, all where no name is given.

    Raises CasesError for an unknown name.
    """
    known = {case.name: case for case in cases}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CasesError(f"no case {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else cases
