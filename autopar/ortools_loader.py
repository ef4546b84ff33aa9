"""Import CP-SAT without paying for pandas.

`ortools.sat.python.cp_model` imports pandas for two type names, `Index` and `Series`, which takes
longer than solving the problems of this project (docs/adr/0004). While it is imported, a stand-in
takes the place of pandas: it answers `isinstance` and construction of those two names through the
real pandas, which it loads only then. If pandas is loaded already, or never was installed, nothing
is replaced.
"""

import importlib
import sys
import threading
from importlib.util import find_spec
from types import ModuleType
from typing import Any

SEARCH_THREAD = "cp-sat"  # the name of threads in which CP-SAT searches

_lock = threading.Lock()


class _LazyType(type):
    """A pandas class that is known by name only, until someone makes an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        real = sys.modules.get("pandas")
        return real is not None and isinstance(instance, getattr(real, cls.__name__))

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module("pandas"), cls.__name__)(*args, **kwargs)


class _LazyPandas(ModuleType):
    """Stands for pandas while ortools is imported, and forwards everything else to it."""

    Index = _LazyType("Index", (), {})
    Series = _LazyType("Series", (), {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(importlib.import_module("pandas"), name)


def load_cp_model() -> ModuleType:
    """Return the module `ortools.sat.python.cp_model`."""
    name = "ortools.sat.python.cp_model"
    with _lock:
        if name in sys.modules or "pandas" in sys.modules or find_spec("pandas") is None:
            return importlib.import_module(name)
        sys.modules["pandas"] = _LazyPandas("pandas")
        try:
            return importlib.import_module(name)
        finally:
            del sys.modules["pandas"]
