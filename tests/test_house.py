"""The rules of the house that no other tool enforces: sizes, places, headings, what stays out."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autopar"
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

# Written in pieces, so that this file does not contain what it looks for.
FORBIDDEN_TEXT = {
    "home folder": re.compile("/" + r"(?:home|Users)/\w" + "|" + "/" + r"root/"),
    "working folder": re.compile("(?<![\\w.])/" + r"work(?:space)?/\w"),
    "package index": re.compile(
        r"https?://[^\s/]*(?:" + "|".join(["py" + "pi", "pythonhost" + "ed", "npm" + "js"]) + ")"
        r"|(?:extra-)?index" + r"-url\s*[=:]"
    ),
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_names() -> list[str]:
    parts = (path.relative_to(ROOT).with_suffix("").parts for path in PACKAGE.rglob("*.py"))
    names = (".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts)
    return sorted(name for name in names if not name.endswith("__main__"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def text_files() -> list[Path]:
    """Tracked files, and those about to be; all files outside a checkout, as in an sdist."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        folders = ("autopar", "models", "solvers", "tests", "docs")
        paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def run_python(code: str) -> str:
    """Run code in a fresh interpreter in the checkout, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_after(*modules: str) -> set[str]:
    out = run_python(
        f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    )
    return set(json.loads(out))


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module, and the public methods of its public classes.

    A method of a Protocol's implementation needs a docstring as well: it says what differs.
    Overloads and setters repeat the function that they belong to.
    """
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for item in functions(ast.Module(node.body, [])):
                    repeats = any(
                        ast.unparse(d).endswith((".setter", "overload"))
                        for d in item.decorator_list
                    )
                    if item in node.body and not item.name.startswith("_") and not repeats:
                        yield f"{node.name}.{item.name}", item


def test_the_rules_have_something_to_look_at() -> None:
    assert len(python_files("autopar", "tests")) > 10
    assert len(text_files()) > 20


@pytest.mark.parametrize("path", python_files("autopar", "tests", "benchmarks"), ids=name_of)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines; cut it where it holds two ideas"


@pytest.mark.parametrize("path", python_files("autopar", "tests", "benchmarks"), ids=name_of)
def test_no_function_is_too_long(path: Path) -> None:
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in functions(ast.parse(path.read_text(encoding="utf-8")))
        if node.end_lineno and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not long


@pytest.mark.parametrize("path", python_files("autopar"), ids=name_of)
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [
        name
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node)  # type: ignore[arg-type]
    ]
    assert not missing
    assert ast.get_docstring(tree), "the module itself"


@pytest.mark.parametrize("catalogue", ["models", "solvers"])
def test_catalogues_are_data_beside_the_package(catalogue: str) -> None:
    """A folder autopar/models would be merged with the catalogue in the wheel (docs/adr/0001)."""
    assert (ROOT / catalogue).is_dir()
    assert not (PACKAGE / catalogue).exists()
    assert not list((ROOT / catalogue).rglob("__init__.py"))


def test_folders_that_the_wheel_must_include_hold_files() -> None:
    """Hatchling skips an empty folder in the sdist and then fails to build the wheel from it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert set(included) >= {"models", "solvers"}
    for folder in included:
        assert any(path.is_file() for path in (ROOT / folder).rglob("*")), folder


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_no_text_file_names_a_machine_or_an_index() -> None:
    found = [
        f"{name_of(path)}:{number}: {kind}"
        for path in text_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        for kind, pattern in FORBIDDEN_TEXT.items()
        if pattern.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("home folder", "see /" + "home/ann/plan.yaml"),
        ("home folder", "/" + "root/.cache"),
        ("working folder", "cd /" + "work/main"),
        ("package index", "https://" + "files.pythonhost" + "ed.org/packages"),
        ("package index", "--extra-index" + "-url = x"),
    ],
)
def test_forbidden_text_is_recognised(kind: str, text: str) -> None:
    assert FORBIDDEN_TEXT[kind].search(text)


@pytest.mark.parametrize("text", ["~/plans/mine.yaml", "docs/" + "work/x", "how to " + "work/rest"])
def test_harmless_text_is_left_alone(text: str) -> None:
    assert not any(pattern.search(text) for pattern in FORBIDDEN_TEXT.values())


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "adr").glob("*.md")), ids=name_of)
def test_every_decision_record_has_its_four_parts(path: Path) -> None:
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
    headings = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = ["Context", "Options", "Decision", "Consequences"]
    assert [h for h in headings if h in wanted] == wanted


def test_decision_records_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs" / "adr").glob("*.md")]
    assert numbers
    assert len(numbers) == len(set(numbers))


def test_every_module_imports_alone() -> None:
    """In one interpreter, each module with no other module of ours loaded: hidden cycles surface.

    What is not ours stays loaded, and so do the specs once each of them has been imported alone:
    they know only units and errors (.importlinter), so no cycle leads through them, and building
    their models anew for every module would take most of the time.
    """
    ground = ("autopar.specs", "autopar.units", "autopar.errors")
    names = module_names()
    first = [name for name in names if name.startswith(ground)]
    assert first
    code = f"""
import importlib, sys
def check(names, kept):
    for name in names:
        for loaded in [m for m in sys.modules if m.split(".")[0] == "autopar"]:
            if not loaded.startswith(kept):
                del sys.modules[loaded]
        try:
            importlib.import_module(name)
        except Exception as error:
            sys.exit(f"{{name}}: {{type(error).__name__}}: {{error}}")
check({first!r}, ())
check({[name for name in names if name not in first]!r}, {ground!r})
"""
    run_python(code)


@pytest.mark.parametrize("module", ["autopar", "autopar.cli", "autopar.verifier", "autopar.api"])
def test_key_modules_import_in_a_fresh_interpreter(module: str) -> None:
    assert module in loaded_after(module)


@pytest.mark.parametrize("module", ["autopar", "autopar.errors"])
def test_importing_the_package_costs_nothing(module: str) -> None:
    heavy = {"ortools", "numpy", "pydantic", "yaml", "rich", "click", "pandas"}
    assert not heavy & loaded_after(module)


def test_the_command_line_starts_without_heavy_imports() -> None:
    assert not {"ortools", "numpy", "pydantic", "pandas"} & loaded_after("autopar.cli")


def test_torch_and_scipy_are_loaded_by_what_needs_them_and_by_nothing_else() -> None:
    """They are in an extra (docs/adr/0014): importing every module may not import them."""
    loaded = loaded_after(*(name for name in module_names() if "calibrat" in name))
    assert "autopar.calibration.torch_collectives" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "scipy")}
    for path in python_files("autopar"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (torch|scipy)\b", text, re.MULTILINE), path


def test_the_second_opinion_runs_no_code_of_the_search() -> None:
    """What a graph of imports cannot show: a package's `__init__` runs with its submodules."""
    search = {
        *("candidates", "constraints", "objectives", "rules", "solve", "oracle", "unfold"),
        *("variables", "plugins", "diagnose", "ortools_loader", "search", "segments", "splits"),
    }
    ours = [name for name in module_names() if name.startswith("autopar.verifier")]
    loaded = loaded_after("autopar.verifier", *ours)
    assert not {f"autopar.{name}" for name in search} & loaded
    assert not {name for name in loaded if name.split(".")[0] == "ortools"}
    physics = {name for name in loaded if name.startswith("autopar.costs.")}
    assert not {name for name in physics if name.split(".")[2] != "operations"}
