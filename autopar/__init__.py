"""autopar: plan how to lay a large transformer over a GPU cluster, and prove it.

Everything public is named here and loaded on first use, so that importing the package costs
nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopar.api import compare as compare
    from autopar.api import explain as explain
    from autopar.api import robustness as robustness
    from autopar.api import solve as solve
    from autopar.api import verify as verify
    from autopar.catalog import load_plan as load_plan
    from autopar.catalog import load_scenario as load_scenario
    from autopar.constraints import register as register
    from autopar.errors import AutoparError as AutoparError
    from autopar.errors import DeviceError as DeviceError
    from autopar.errors import InfeasibleError as InfeasibleError
    from autopar.errors import PluginError as PluginError
    from autopar.errors import SolveLimitError as SolveLimitError
    from autopar.errors import SpecError as SpecError
    from autopar.errors import VerificationError as VerificationError
    from autopar.placement.answer import place as place

__version__ = "0.1.0"

_HOME = {
    "solve": "autopar.api",
    "verify": "autopar.api",
    "compare": "autopar.api",
    "explain": "autopar.api",
    "robustness": "autopar.api",
    "place": "autopar.placement.answer",
    "load_scenario": "autopar.catalog",
    "load_plan": "autopar.catalog",
    "register": "autopar.constraints",
    "AutoparError": "autopar.errors",
    "DeviceError": "autopar.errors",
    "InfeasibleError": "autopar.errors",
    "PluginError": "autopar.errors",
    "SolveLimitError": "autopar.errors",
    "SpecError": "autopar.errors",
    "VerificationError": "autopar.errors",
}
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604  the keys of _HOME are strings


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autopar' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
