"""Constraints from a Python file or from an installed package."""

import importlib.util
import sys
from collections.abc import Iterable
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path

from autopar.constraints import PlugIn, registered
from autopar.errors import PluginError

GROUP = "autopar.constraints"


def load_file(path: str | Path) -> list[PlugIn]:
    """Run a Python file and return the constraints that it registers.

    The file runs with the rights of the user; call this only for files the user has allowed.
    Raises PluginError if the file is missing, fails, or registers nothing.
    """
    file = Path(path)
    if not file.is_file():
        raise PluginError(f"plug-in {str(path)!r}: no such file")
    digest = sha256(str(file.resolve()).encode()).hexdigest()[:12]
    name = f"autopar_plugin_{file.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"plug-in {str(path)!r}: expected a Python file (.py)")
    before = registered()
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PluginError(f"plug-in {str(path)!r}: {type(error).__name__}: {error}") from error
    now = registered()
    added = [c for key, c in now.items() if before.get(key) is not c]
    if not added:
        raise PluginError(f"plug-in {str(path)!r} registers no constraint; use @autopar.register")
    return _checked(added, str(path))


def load_installed() -> list[PlugIn]:
    """Return the constraints that installed packages offer in the group `autopar.constraints`."""
    found = []
    for entry in entry_points(group=GROUP):
        try:
            found.append(entry.load()())
        except Exception as error:
            raise PluginError(f"plug-in {entry.value!r}: {error}") from error
    return _checked(found, "installed packages")


def _checked(constraints: Iterable[object], where: str) -> list[PlugIn]:
    checked = []
    for constraint in constraints:
        if not isinstance(constraint, PlugIn):
            raise PluginError(
                f"plug-in {where!r}: {type(constraint).__name__} needs name, post(model, "
                "variables, problem) and check(plan, problem)"
            )
        checked.append(constraint)
    return checked
