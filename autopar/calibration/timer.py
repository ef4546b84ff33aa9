"""What a device must do to be measured; `torch_timer` does it with PyTorch, tests without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from autopar.calibration.cases import Case


class NotTimedError(Exception):
    """A case that this device, or this version of its libraries, cannot run; str: the reason."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured, and with what; versions are empty where they are not known."""

    device_name: str
    num_devices: int
    memory_bytes: float
    l2_bytes: float
    torch: str = ""
    cuda: str = ""
    driver: str = ""
    nccl: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one case: the median of several runs.

    spread: of the middle eight tenths of the runs, over the median. kernel: which one ran.
    """

    us: float
    spread: float
    kernel: str = ""


class Timer(Protocol):
    """A device under measurement."""

    @property
    def machine(self) -> Machine:
        """What is measured."""
        ...

    def time(self, case: Case) -> Timing:
        """Time one kernel.

        Raises NotTimedError if it cannot run here.
        """
        ...

    def time_together(self, cases: Sequence[Case], seconds: float) -> dict[Case, Timing]:
        """Time collectives over several GPUs; those that are not reached in `seconds` are missing.

        Raises NotTimedError if none can run here.
        """
        ...
