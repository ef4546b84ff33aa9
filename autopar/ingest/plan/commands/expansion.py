"""What a shell puts in the place of $NAME, ${NAME:-default} and $((A * B)); commands are never run.

Source: POSIX, Shell Command Language, 2.6; arrays are those of bash. What nothing in the text sets
stays as it is written, so that messages can name it.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_BRACED = re.compile(
    r"([A-Za-z_]\w*)(\[[@*]\]|\[\d{1,4}\])?(?:(:?[-=])(.*))?", re.ASCII | re.DOTALL
)
_IN_ARITHMETIC = re.compile(r"\$\{?([A-Za-z_]\w*)\}?|\b([A-Za-z_]\w*)\b", re.ASCII)
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}
_LONGEST = 200  # characters of an arithmetic expression
_MOST_DEFAULTS = 8  # of defaults inside of defaults
MOST_CHARACTERS = 100_000  # that one expansion may give, so that a text cannot double itself


@dataclass(slots=True)
class Variables:
    """What a text has set so far: one value, or those of an array."""

    values: dict[str, list[str]] = field(default_factory=dict)

    def set(self, name: str, value: str, *, more: bool = False) -> None:
        """Give a variable a value; more: what `+=` does."""
        before = self.values.get(name, [""])[0] if more else ""
        self.values[name] = [(before + value)[:MOST_CHARACTERS]]

    def set_array(self, name: str, values: list[str], *, more: bool = False) -> None:
        """Give a variable the values of an array."""
        before = self.values.get(name, []) if more else []
        self.values[name] = [*before, *values][:MOST_CHARACTERS]

    def filled(self, text: str, escape: str | None = None) -> str:
        """Return a text with what stands for each $ in it; escape: what stands for $ itself."""
        parts: list[str] = []
        place = 0
        while place < len(text):
            if escape is not None and text.startswith(escape, place):
                parts.append("$")
                place += len(escape)
            elif text[place] == "$":
                values, _, place = self.expanded(text, place)
                parts.append(" ".join(values))
            else:
                parts.append(text[place])
                place += 1
        return "".join(parts)

    def expanded(self, text: str, place: int) -> tuple[list[str], bool, int]:
        """Return what stands for the $ at a place, whether it is an array, and where it ends.

        Where nothing sets it, that is the text itself.
        """
        if text.startswith("$((", place):
            end = closing(text, place + 1)
            inside = text[place + 3 : end - 2]
            value = self._arithmetic(inside) if end > place + 4 and text[end - 2] == ")" else None
            return [text[place:end] if value is None else str(value)], False, end
        if text.startswith("$(", place):
            end = closing(text, place + 1)
            return [text[place:end]], False, end
        if text.startswith("${", place):
            end = closing(text, place + 1)
            return (*self._braced(text[place:end], 0), end)
        match = _NAME.match(text, place + 1)
        if match is None:
            end = place + 2 if text[place + 1 : place + 2] in tuple("@*#?0123456789") else place + 1
            return [text[place:end]], False, end
        return self.values.get(match[0], [f"${match[0]}"])[:1], False, match.end()

    def _braced(self, word: str, depth: int) -> tuple[list[str], bool]:
        """Return what stands for ${...}."""
        match = _BRACED.fullmatch(word[2:-1]) if word.endswith("}") else None
        if match is None:
            return [word], False
        name, index, form, default = match.groups()
        values = self.values.get(name)
        if values is None or (form and form[0] == ":" and values == [""]):
            if form is None or depth > _MOST_DEFAULTS:
                return [word], False
            return [self._default(default, depth)], False
        if index in ("[@]", "[*]"):
            return values, True
        if index and any(map(_is_command, values)):
            return [word], False  # which of the words that a command would give
        number = int(index[1:-1]) if index else 0
        return values[number : number + 1], False

    def _default(self, text: str, depth: int) -> str:
        """Return a default, in which other variables may stand."""
        parts: list[str] = []
        place = 0
        while place < len(text) and sum(map(len, parts)) < MOST_CHARACTERS:
            if text[place] != "$":
                parts.append(text[place])
                place += 1
            elif text.startswith("${", place):
                end = closing(text, place + 1)
                parts.append(" ".join(self._braced(text[place:end], depth + 1)[0]))
                place = end
            else:
                values, _, place = self.expanded(text, place)
                parts.append(" ".join(values))
        return "".join(parts).strip("\"'")

    def _arithmetic(self, text: str) -> int | None:
        """Return the value of an expression of whole numbers; None where it is not known."""

        def value_of(match: re.Match[str]) -> str:
            return self.values.get(match[1] or match[2], ["?"])[0].strip() or "0"

        plain = _IN_ARITHMETIC.sub(value_of, self._default(text[: 10 * _LONGEST], 0))
        if len(plain) > _LONGEST or re.fullmatch(r"[\d\s()*/%+-]+", plain, re.ASCII) is None:
            return None
        try:
            return _evaluated(ast.parse(plain.strip(), mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            return None


def fields(value: str) -> list[str]:
    """Return the words of a value, as a shell splits it at blanks.

    What it would have to run, in $(...) or backquotes, is not known and stays in one word.
    """
    if "$(" not in value and "`" not in value:
        return value.split()
    found: list[str] = []
    word = ""
    place = 0
    while place < len(value):
        end = place + 1
        if value.startswith("$(", place):
            end = closing(value, place + 1)
        elif value[place] == "`":
            end = (value.find("`", place + 1) + 1) or len(value)
        elif value[place].isspace():
            found += [word] * bool(word)
            word = ""
            place = end
            continue
        word += value[place:end]
        place = end
    return [*found, *[word] * bool(word)]


def _is_command(value: str) -> bool:
    return value.startswith(("$(", "`")) and not value.startswith("$((")


def closing(text: str, start: int) -> int:
    """Return the place after the bracket that closes the one at `start`; the end without one."""
    pair = {"(": ")", "{": "}"}[text[start]]
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == text[start]) - (text[place] == pair)
        if depth == 0:
            return place + 1
    return len(text) + 1


def _evaluated(node: ast.expr) -> int:
    """Return the value of a tree of whole numbers.

    Raises ValueError for anything else.
    """
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10**9:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        found = _OPERATORS[type(node.op)](_evaluated(node.left), _evaluated(node.right))
        if abs(found) < 10**12:
            return found
    raise ValueError
