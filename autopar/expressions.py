"""A safe grammar for rules and claims: numbers, names, arithmetic, comparisons, and / or / not.

Text is parsed into a syntax tree, every node of which is checked against a short list before
anything is evaluated; no Python code is ever executed. There are no calls, attributes, subscripts
or powers; `role.name` is a name with a dot, where such names are known. Every part of an expression
is evaluated, also behind a false `and`, so that it means the same for one layout and for a whole
table of them.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autopar.errors import shorten, suggest

MAX_LENGTH = 500
MAX_DEPTH = 100
_LARGEST = 1e24  # the largest literal, as in `units`

GRAMMAR = "numbers, names, + - * / // %, comparisons, and, or, not and parentheses"

# How the names begin that are 1 or 0.
_FLAGS = ("is_", "uses_", "keeps_", "same_")

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_DIVISIONS = (ast.Div, ast.FloorDiv, ast.Mod)
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
# What users try that is not in the grammar, in their words.
_FORBIDDEN: Mapping[type[ast.AST], str] = {
    ast.Call: "a function call",
    ast.Attribute: "an attribute (x.y)",
    ast.Subscript: "a subscript (x[y])",
    ast.Pow: "a power (**)",
    ast.MatMult: "a matrix product (@)",
    ast.LShift: "a bit shift",
    ast.RShift: "a bit shift",
    ast.BitOr: "a bit operator (|)",
    ast.BitXor: "a bit operator (^)",
    ast.BitAnd: "a bit operator (&)",
    ast.Invert: "a bit operator (~)",
    ast.IfExp: "a conditional (x if y else z)",
    ast.Lambda: "a lambda",
    ast.NamedExpr: "an assignment (:=)",
    ast.JoinedStr: "a text",
    ast.List: "a list",
    ast.Tuple: "a tuple",
    ast.Set: "a set",
    ast.Dict: "a mapping",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Starred: "a star",
    ast.Is: "the operator is",
    ast.IsNot: "the operator is not",
    ast.In: "the operator in",
    ast.NotIn: "the operator not in",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression.

    is_condition: True for a comparison or a logical expression, False for arithmetic, None for a
    bare name, which may be either.
    """

    text: str
    names: frozenset[str]
    is_condition: bool | None
    tree: ast.expr

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Return a float or a bool; an array where any value is one (they broadcast together).

        Raises ValueError on a missing value, a division by zero anywhere, or a result that is not
        finite.
        """
        with np.errstate(all="ignore"):  # every operation checks its own result
            return _value(self.tree, values)


def parse(text: str, known: Collection[str]) -> Expression:
    """Return the expression of `text`, whose names must all be in `known`.

    Raises ValueError with what was found and what is allowed.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(
            f"expression of {len(text):,} characters; expected at most {MAX_LENGTH} characters"
        )
    if "#" in text:  # a comment would swallow the rest of a folded text
        raise ValueError(f"an expression cannot hold a comment (#); expected {GRAMMAR}")
    names: set[str] = set()
    tree = _syntax_tree(" ".join(text.split()))
    is_condition = _check(tree, names, MAX_DEPTH)
    has_dotted = any("." in name for name in known)
    for name in sorted(names):
        if "." in name and not has_dotted:
            raise ValueError(_not_allowed(_FORBIDDEN[ast.Attribute]))
        if name not in known:
            raise ValueError(
                f"unknown name {shorten(name)}{suggest(name, known)} "
                f"(expected one of {', '.join(sorted(known))})"
            )
    return Expression(text, frozenset(names), is_condition, tree)


def parse_condition(text: str, known: Collection[str]) -> Expression:
    """Return the expression of `text`, which must be true or false, and not a number taken for it.

    `tp` alone would hold of every plan; names of `_FLAGS` are conditions by themselves.
    Raises ValueError with what was found and what is allowed.
    """
    expression = parse(text, known)
    for part in _conditions(expression.tree):
        is_flag = isinstance(part, ast.Name) and part.id.startswith(_FLAGS)
        if not isinstance(part, ast.Compare) and not is_flag:
            number = ast.unparse(part)
            example = shorten(f"{number} > 1")
            raise ValueError(
                f"{shorten(number)} is a number; expected a condition, such as {example}"
            )
    return expression


def _conditions(node: ast.expr) -> Iterator[ast.expr]:
    """Yield what `and`, `or` and `not` join, or the whole."""
    match node:
        case ast.BoolOp():
            for part in node.values:
                yield from _conditions(part)
        case ast.UnaryOp(op=ast.Not()):
            yield from _conditions(node.operand)
        case _:
            yield node


def _syntax_tree(text: str) -> ast.expr:
    if not text:
        raise ValueError(f"empty expression; expected {GRAMMAR}")
    try:
        with warnings.catch_warnings():  # the tokenizer warns of `1or 2` and of odd escapes
            warnings.simplefilter("ignore")
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "cannot be parsed"
        raise ValueError(f"{shorten(text)}: {reason}; expected {GRAMMAR}") from None


def _check(node: ast.AST, names: set[str], depth: int) -> bool | None:
    """Check one node and those below it, collect names, and return whether it is a condition."""
    if depth == 0:
        raise ValueError(f"the expression nests deeper than {MAX_DEPTH} levels")
    match node:
        case ast.Constant():
            return _check_number(node)
        case ast.Name():
            names.add(node.id)
            return None
        case ast.Attribute(value=ast.Name(id=owner)):
            names.add(f"{owner}.{node.attr}")  # a name with a dot, known or not
            return None
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            for operand in (node.left, node.right):
                _expect(operand, names, depth, condition=False)
            return False
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            _expect(node.operand, names, depth, condition=False)
            return False
        case ast.UnaryOp(op=ast.Not()):
            _expect(node.operand, names, depth, condition=True)
            return True
        case ast.BoolOp():
            for operand in node.values:
                _expect(operand, names, depth, condition=True)
            return True
        case ast.Compare() if all(type(op) in _COMPARISONS for op in node.ops):
            for operand in (node.left, *node.comparators):
                _check(operand, names, depth - 1)
            return True
    raise ValueError(_not_allowed(_construct(node)))


def _not_allowed(construct: str) -> str:
    return f"{construct} is not allowed in an expression; expected {GRAMMAR}"


def _expect(node: ast.AST, names: set[str], depth: int, *, condition: bool) -> None:
    found = _check(node, names, depth - 1)
    if found is not None and found != condition:
        text = shorten(ast.unparse(node))
        raise ValueError(
            f"{text} is a number; expected a condition beside and, or, not"
            if condition
            else f"{text} is a condition; expected a number in arithmetic"
        )


def _check_number(node: ast.Constant) -> bool:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shorten(value)} is not a number; expected {GRAMMAR}")  # noqa: TRY004
    if abs(value) > _LARGEST:  # also refuses infinity, which a literal such as 1e999 gives
        raise ValueError(f"number {shorten(value)} is too large; expected at most {_LARGEST:g}")
    return False


def _construct(node: ast.AST) -> str:
    inner: list[ast.AST] = [node]
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        inner.append(node.op)
    if isinstance(node, ast.Compare):
        inner += node.ops
    names = [_FORBIDDEN[type(part)] for part in inner if type(part) in _FORBIDDEN]
    return names[0] if names else f"{type(node).__name__!r}"


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return float(node.value)  # type: ignore[arg-type]  # _check_number has seen it
        case ast.Name():
            return _name(node.id, values)
        case ast.Attribute(value=ast.Name(id=owner)):
            return _name(f"{owner}.{node.attr}", values)
        case ast.BinOp():
            return _binary(node, _value(node.left, values), _value(node.right, values))
        case ast.UnaryOp(op=ast.Not()):
            return _logical(np.logical_not(_value(node.operand, values)))
        case ast.UnaryOp():
            operand = _number(_value(node.operand, values))
            return -operand if isinstance(node.op, ast.USub) else operand
        case ast.BoolOp():
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            parts = [_value(part, values) for part in node.values]
            result = parts[0]
            for part in parts[1:]:
                result = join(result, part)
            return _logical(result)
        case ast.Compare():
            sides = [_value(part, values) for part in (node.left, *node.comparators)]
            holds: Any = True
            for op, left, right in zip(node.ops, sides, sides[1:], strict=False):
                holds = np.logical_and(holds, _COMPARISONS[type(op)](left, right))
            return _logical(holds)
    raise AssertionError(f"unchecked node {node!r}")  # parse() lets no other node through


def _name(name: str, values: Mapping[str, Any]) -> Any:
    value = values.get(name)
    if value is None:
        raise ValueError(f"{name} has no value here")
    array = np.asarray(value)
    if array.dtype == np.bool_:
        return array if array.ndim else bool(array)
    numbers = array.astype(np.float64)
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name} is not a finite number")
    return numbers if array.ndim else float(numbers)


def _binary(node: ast.BinOp, left: Any, right: Any) -> Any:
    left, right = _number(left), _number(right)
    if isinstance(node.op, _DIVISIONS) and np.any(np.equal(right, 0.0)):
        raise ValueError(f"division by zero in {shorten(ast.unparse(node))}")
    result = _ARITHMETIC[type(node.op)](left, right)
    if not (
        np.all(np.isfinite(result)) if isinstance(result, np.ndarray) else math.isfinite(result)
    ):
        raise ValueError(f"{shorten(ast.unparse(node))} is not a finite number")
    return result


def _number(value: Any) -> Any:
    return value.astype(np.float64) if isinstance(value, np.ndarray) else float(value)


def _logical(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) and value.ndim else bool(value)
