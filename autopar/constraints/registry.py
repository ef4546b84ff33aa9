"""The registry that plug-ins add to."""

from typing import TypeVar

from autopar.constraints.base import PlugIn

_registered: dict[str, PlugIn] = {}
_Class = TypeVar("_Class", bound=type)


def register(cls: _Class) -> _Class:
    """Class decorator: make an instance of a constraint known to every later solve.

    Raises ValueError if the class has no name or the name is taken by another class.
    """
    instance = cls()
    name = getattr(instance, "name", "")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{cls.__name__}: a constraint needs a class attribute `name`")
    known = _registered.get(name)
    if known is not None and type(known).__qualname__ != cls.__qualname__:
        raise ValueError(f"two constraints have the name {name!r}")
    _registered[name] = instance
    return cls


def registered() -> dict[str, PlugIn]:
    """Return the constraints that plug-ins have registered so far, by name."""
    return dict(_registered)
