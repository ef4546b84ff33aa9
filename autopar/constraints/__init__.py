"""One restriction per file: `post` adds it to CP-SAT, `check` says it again in plain Python."""

from autopar.constraints.base import Constraint, PlugIn
from autopar.constraints.registry import register, registered

__all__ = ["Constraint", "PlugIn", "register", "registered"]
