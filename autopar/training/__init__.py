"""What one training step takes, in time and in memory, from the configuration alone.

Nothing here searches: a row of published measurements goes in, with its model and its cluster. The
physics are those of single operations in `autopar.costs.operations`.
"""

from autopar.training.memory import TrainingMemory, memory
from autopar.training.step import StepTime, step_us

__all__ = ["StepTime", "TrainingMemory", "memory", "step_us"]
