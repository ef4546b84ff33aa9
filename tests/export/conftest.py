"""Random legal plans, which several files of this folder export."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def plans() -> ModuleType:
    """The module plans.py beside this file: `draw`, `shuffled`, `layouts`, `same`."""
    spec = importlib.util.spec_from_file_location("plans", Path(__file__).with_name("plans.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
