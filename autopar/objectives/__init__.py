"""One aim per file; a recipe orders them, and the solver optimises them one after another."""

from autopar.objectives.base import Objective
from autopar.objectives.registry import OBJECTIVES, objectives_for

__all__ = ["OBJECTIVES", "Objective", "objectives_for"]
