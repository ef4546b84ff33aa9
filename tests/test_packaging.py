"""The wheel, built through the sdist as a release is, holds what a user needs and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CATALOGUES = ("models", "solvers")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with sdist and wheel. hatchling is a development dependency: no network is needed."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile) -> str:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return wheel.read(name).decode()


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_every_catalogue_file_is_in_the_wheel_unchanged(
    wheel: zipfile.ZipFile, catalogue: str
) -> None:
    expected = files(ROOT / catalogue)
    assert any(name.endswith(".yaml") for name in expected)
    prefix = f"autopar/{catalogue}/"
    assert {n.removeprefix(prefix) for n in wheel.namelist() if n.startswith(prefix)} == expected
    for name in expected:
        assert wheel.read(prefix + name) == (ROOT / catalogue / name).read_bytes()


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {f"autopar/{name}" for name in files(ROOT / "autopar")}
    assert {"autopar/py.typed", "autopar/__init__.py"} <= expected
    assert expected <= set(wheel.namelist())


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = tops - {"autopar"}
    assert info.endswith(".dist-info")
    folders = {name.split("/")[1] for name in wheel.namelist() if name.startswith("autopar/")}
    assert not {"tests", "results", "benchmarks", "docs"} & folders


def test_the_licence_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("/licenses/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
    assert Parser().parsestr(metadata(wheel))["License-Expression"] == "Apache-2.0"


def test_core_dependencies_are_the_six_of_the_house(wheel: zipfile.ZipFile) -> None:
    """Another one needs a decision record first."""
    required = Parser().parsestr(metadata(wheel)).get_all("Requires-Dist") or []
    core = {line.split(";")[0] for line in required if "extra ==" not in line}
    names = {"".join(c for c in line.split("<")[0].split(">")[0] if c.isalnum()) for line in core}
    assert {n.lower() for n in names} == {"ortools", "pydantic", "numpy", "click", "pyyaml", "rich"}


def test_the_command_is_declared(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("/entry_points.txt"))
    assert "autopar = autopar.cli:main" in wheel.read(name).decode()


def test_the_sdist_can_be_tested_but_carries_no_results(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        tops = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    assert {"autopar", "models", "solvers", "tests", "pyproject.toml", "LICENSE"} <= tops
    assert not {"results", ".venv", ".ci"} & tops
