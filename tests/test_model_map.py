"""docs/model.md and measured.md map every formula to a function and to tests that are there."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module, util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = "\n".join(
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("model.md", "measured.md")
)
PACKAGES = ("autopar.costs.operations", "autopar.costs", "autopar")  # below which names are told
MAPPED = ("function", "source", "test")
WITHOUT_FORMULAS = {("metric", "meaning"), ("symbol", "meaning"), ("measured", "error")}
FEWEST_ROWS = 100  # else the parser has lost the tables


@dataclass(frozen=True)
class Row:
    line: int
    header: tuple[str, ...]
    cells: tuple[str, ...]

    def of(self, column: str) -> str:
        return self.cells[self.header.index(column)]

    def spans(self, column: str) -> list[str]:
        return re.findall(r"`([^`]+)`", self.of(column))


def tables() -> Iterator[tuple[int, tuple[str, ...], list[Row]]]:
    """Every table of the pages, one after the other: its line, its header, its rows."""
    header: tuple[str, ...] = ()
    start, rows = 0, []
    for number, line in enumerate([*PAGE.splitlines(), ""], 1):
        if not line.startswith("|"):
            if header:
                yield start, header, rows
            header, rows = (), []
            continue
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if not header:
            start, header = number, cells
        elif number > start + 1:  # after the rule
            rows.append(Row(number, header, cells))


TABLES = list(tables())
ROWS = [row for _, header, rows in TABLES if set(MAPPED) <= set(header) for row in rows]
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line {row.line}")


def found(name: str) -> list[Any]:
    """What the name stands for: in a module below one of the packages, attribute by attribute."""
    hits = []
    for package in PACKAGES:
        *modules, last = [package, *name.split(".")]
        attributes = [last]
        while modules:
            path = ".".join(modules)
            if len(modules) > 1 and is_module(path):
                value: Any = import_module(path)
                for attribute in attributes:
                    value = getattr(value, attribute, None)
                hits += [] if value is None else [value]
                break
            attributes.insert(0, modules.pop())
    return hits


@cache
def is_module(path: str) -> bool:
    try:
        return util.find_spec(path) is not None
    except ModuleNotFoundError:
        return False


@cache
def functions_of(file: str) -> frozenset[str]:
    """Names of the tests of the files of that name; there is one, or one per package."""
    paths = list((ROOT / "tests").rglob(file))
    assert paths, file
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    nodes = (node for tree in trees for node in ast.walk(tree))
    names = (node.name for node in nodes if isinstance(node, ast.FunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


def test_every_table_with_formulas_is_mapped() -> None:
    for line, header, _ in TABLES:
        assert set(MAPPED) <= set(header) or header in WITHOUT_FORMULAS, f"line {line}: {header}"
    assert len(ROWS) >= FEWEST_ROWS


@rows
def test_every_row_has_every_cell(row: Row) -> None:
    assert len(row.cells) == len(row.header)
    assert all(row.of(column) for column in MAPPED)


@rows
def test_every_function_is_there(row: Row) -> None:
    names = row.spans("function")
    assert names
    for name in names:
        assert len(found(name)) == 1, f"{name}: expected one object of that name"


@rows
def test_every_test_is_there(row: Row) -> None:
    names = row.spans("test")
    assert names
    file = ""
    for name in names:
        own, separator, test = name.partition("::")
        file = own or file
        assert separator, f"{name}: expected file::name"
        assert test in functions_of(file), f"{file} has no {test}"


def test_a_name_that_is_not_there_is_not_found() -> None:
    assert found("timing.Clock.hop_us")
    assert found("disaggregated.objectives.ttft")
    assert not found("timing.Clock.hop")
    assert not found("nowhere.Clock.hop_us")
