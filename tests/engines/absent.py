"""Stand-ins for packages that an engine imports and that its argument checks do not need.

Engines import kernels, compilers and drivers long before they look at arguments. A machine without
a GPU has none of them, so that every missing one becomes a module which has every name, and every
name a class that can be called, subclassed, indexed and used as a decorator.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any, ClassVar


class _Kind(type):
    """Makes a stand-in class answer for everything that is asked of a class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)

    def __getitem__(cls, item: object) -> Any:
        return cls

    def __or__(cls, other: object) -> Any:
        return object

    __ror__ = __or__

    def __iter__(cls) -> Any:
        return iter(())

    def __len__(cls) -> int:
        return 0


def stand_in(name: str) -> Any:
    def init(self: object, *_: object, **__: object) -> None: ...

    def call(self: object, *given: Any, **named: Any) -> Any:
        if len(given) == 1 and not named and callable(given[0]):
            return given[0]  # a decorator
        return stand_in(name)()

    def attribute(self: object, inner: str) -> Any:
        if inner.startswith("__"):
            raise AttributeError(inner)
        return stand_in(inner)()

    body = {"__init__": init, "__call__": call, "__getattr__": attribute}
    return _Kind(name, (), body)


class AbsentModule(ModuleType):
    __path__: ClassVar[list[str]] = []
    __version__ = "99.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = stand_in(name)
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, tops: set[str]) -> None:
        self.tops = tops

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self.tops:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def stand_in_for(*names: str) -> None:
    """Let those of the packages that are not installed be imported."""
    absent = {name for name in names if importlib.util.find_spec(name) is None}
    sys.meta_path.append(_Finder(absent))
