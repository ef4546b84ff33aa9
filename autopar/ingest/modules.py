"""The names of modules in quantisation lists: plain names, globs, simple regular expressions.

A plain name also means everything below it (`lm_head`, `mlp.gate`), and so does a glob
(`model.layers.*.self_attn`). Of the regular expressions, which stand after `re:`, those are read
that say the same as a few globs: a glob is matched in linear time, which an expression from a file
may not be. Names are compared from `layers.` on, whatever the text part is called.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from typing import Any

from autopar.documents import found
from autopar.errors import SpecError
from autopar.ingest.fields import Fields

# Bounds of the time that lists from anywhere take; those of the largest models are far shorter.
MAX_PATTERNS = 20_000
MAX_EXPRESSIONS = 1_000  # after `re:`
MAX_OPEN_PATTERNS = 32  # without the number of a layer: every module is held against them
_MAX_EXPRESSION = 500  # characters
_MAX_PARENTHESES = 8
_MAX_ALTERNATIVES = 64

# What may stand before `layers` in the name of a module of the text part.
_ROOT = re.compile(r"(?:\*\.?|model\.|language_model\.|backbone\.|transformer\.)*(?=layers\.)")


def matcher(fields: Fields, name: str, patterns: Sequence[Any]) -> Callable[[str], bool]:
    """Return the test whether a module's name, from `layers.` on, is meant by one of the patterns.

    Raises SpecError for a pattern that is no text or that cannot be read.
    """
    if len(patterns) > MAX_PATTERNS:
        raise fields.error(name, f"found {len(patterns):,} entries, more than {MAX_PATTERNS:,}")
    if sum(isinstance(p, str) and p.startswith("re:") for p in patterns) > MAX_EXPRESSIONS:
        raise fields.error(name, f"found more than {MAX_EXPRESSIONS:,} expressions, expected fewer")
    plain: set[str] = set()
    globs: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise fields.error(name, f"found {found(pattern)}, expected names of modules")
        if pattern.startswith("re:"):
            globs += [_rooted(g) for g in _globs(fields, name, pattern[3:])]
        elif "*" in pattern or "?" in pattern:
            globs += [_rooted(pattern), f"{_rooted(pattern)}.*"]
        else:
            plain.add(_rooted(pattern))
    by_layer: dict[str, list[re.Pattern[str]]] = {}
    for glob in filter(_may_match, dict.fromkeys(globs)):
        layer = _LAYER.match(glob)
        by_layer.setdefault(layer[0] if layer else "", []).append(re.compile(translate(glob)))
    everywhere = by_layer.get("", [])
    if len(everywhere) > 2 * MAX_OPEN_PATTERNS:
        message = f"found more than {MAX_OPEN_PATTERNS} patterns that name no layer, expected fewer"
        raise fields.error(name, message)

    def matches(module: str) -> bool:
        if not plain.isdisjoint(_parts(module)):
            return True
        layer = _LAYER.match(module)
        tests = [*everywhere, *(by_layer.get(layer[0], []) if layer else [])]
        return any(test.match(module) for test in tests)

    return matches


_LAYER = re.compile(r"layers\.\d+\.")
_LITERAL = re.compile(r"[^*?\[]*")


def _may_match(glob: str) -> bool:
    """Whether a glob can match a module of the text part, whose name starts with `layers.`."""
    literal = _LITERAL.match(glob)
    start = literal[0] if literal else ""
    return "layers.".startswith(start) or start.startswith("layers.")


def _rooted(pattern: str) -> str:
    return _ROOT.sub("", pattern, count=1) if _ROOT.match(pattern) else pattern


def _parts(module: str) -> Iterable[str]:
    """Yield every run of a name's steps: `a.b.c`, `a.b`, `b.c`, `a`, `b`, `c`."""
    steps = module.split(".")
    for start in range(len(steps)):
        for stop in range(start + 1, len(steps) + 1):
            yield ".".join(steps[start:stop])


_WILDCARDS = (("\\.", "."), (".*", "*"), (".+", "*"), ("\\d+", "*"), ("[0-9]+", "*"))
_GROUP = re.compile(r"\(\??:?([^()]*)\)")


def _globs(fields: Fields, name: str, pattern: str) -> list[str]:
    r"""Return the globs of a simple regular expression: literals, `.*`, `\d+`, `(a|b)`, `$`."""
    texts = [pattern.removeprefix("^")]
    if len(pattern) > _MAX_EXPRESSION or pattern.count("(") > _MAX_PARENTHESES:
        raise _unreadable(fields, name, pattern)
    while True:
        group = _GROUP.search(texts[0])
        if group is None:
            break
        head = [(t[: m.start()], t[m.end() :]) for t in texts if (m := _GROUP.search(t))]
        texts = [before + word + after for before, after in head for word in group[1].split("|")]
        if len(texts) > _MAX_ALTERNATIVES:
            raise _unreadable(fields, name, pattern)
    globs = []
    for text in texts:
        glob = text.removesuffix("$") if text.endswith("$") else f"{text}*"
        for written, meant in _WILDCARDS:  # a dot alone is that of a name: it means a dot
            glob = glob.replace(written, meant)
        if not re.fullmatch(r"[\w.*-]*", glob):
            raise _unreadable(fields, name, pattern)
        globs.append(glob)
    return globs


def _unreadable(fields: Fields, name: str, pattern: str) -> SpecError:
    expected = "an expression of names, .*, \\d+ and (a|b)"
    return fields.error(name, f"found {found('re:' + pattern)}, expected {expected}")
