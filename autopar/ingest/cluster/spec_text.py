"""A draft as the YAML of a cluster spec, with how each field came about in comments."""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping

from autopar.ingest.cluster.draft import Draft
from autopar.ingest.cluster.findings import LeftOut, Level, Said
from autopar.ingest.cluster.hostlist import compress
from autopar.specs import Link

_WIDTH = 100
_HEAD = """\
# Written by `autopar ingest cluster`. Read it, correct it, then: autopar solve --cluster FILE ...
# Above each field, how it came about: read (an input says so), inferred (it follows from inputs),
# measured, given (by an option), assumed (no input says so: check it)."""
# Text that YAML takes as it stands: words of YAML and what reads as a number are quoted.
_PLAIN = re.compile(r"(?!(?:null|true|false|yes|no|on|off|nan|inf)\Z)[a-z][\w.-]*", re.IGNORECASE)


def spec_text(draft: Draft, left_out: Iterable[LeftOut] = ()) -> str:
    """Return the file; autopar reads it back as the same cluster."""
    return "".join(f"{line}\n" for line in _lines(draft, tuple(left_out)))


def _lines(draft: Draft, left_out: tuple[LeftOut, ...]) -> Iterator[str]:
    said = {each.field: each for each in draft.said}
    yield from _HEAD.splitlines()
    for warning in draft.warnings:
        yield from _comment(f"warning: {warning}")
    for why, nodes in _by_reason(left_out).items():
        yield from _comment(f"left out: {compress(nodes)}: {why}")
    yield "schema: 1"
    yield "kind: cluster"
    yield f"name: {_text(draft.name)}"
    yield f"description: {_text(draft.description)}"
    yield "sources:"
    yield from (f"  - {_text(source)}" for source in draft.sources)
    fields = ("gpu", "num_nodes", "gpus_per_node", "gpus_per_domain")
    for name in fields:
        value = getattr(draft, name)
        yield from _comment(_how(said[name]))
        yield f"{name}: {_text(value) if isinstance(value, str) else value}"
    yield "links:"
    for level, link in draft.links.items():
        yield from _link(level, link, said)


def _link(level: Level, link: Link, said: Mapping[str, Said]) -> Iterator[str]:
    field = f"links.{level}"
    bandwidth, latency = said[f"{field}.bandwidth_bytes_per_s"], said[f"{field}.latency_us"]
    yield from _comment(f"bandwidth {_how(bandwidth)}", "  ")
    yield from _comment(f"latency {_how(latency)}", "  ")
    rate = f"{link.bandwidth_bytes_per_s / 1e9:.10g} GB/s"
    yield f"  {level}: {{bandwidth_bytes_per_s: {rate}, latency_us: {link.latency_us:.10g} us}}"


def _how(said: Said) -> str:
    return f"{said.how}: {said.why}"


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """Yield a comment of lines of the usual width; text of others holds no line break then."""
    yield from textwrap.wrap(
        _printable(text),
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _text(value: str) -> str:
    """Return a text as YAML, which takes that of JSON."""
    return value if _PLAIN.fullmatch(value) else json.dumps(_printable(value), ensure_ascii=False)


def _printable(text: str) -> str:
    """Return a text without line breaks and what YAML cannot hold, as names of files may have."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _by_reason(left_out: Iterable[LeftOut]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for each in left_out:
        reasons.setdefault(each.why, []).append(each.node)
    return reasons
