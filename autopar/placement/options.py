"""How hard a placement is looked for."""

from dataclasses import dataclass
from typing import Literal

Effort = Literal["quick", "normal", "exact"]


@dataclass(frozen=True, slots=True)
class Options:
    """How hard to try.

    tolerance: gap at which a layer is left as it is. rounds: kicks of the local search in a row
    that find nothing. effort: `quick` stops there; `normal` proves small layers and those with two
    slots per GPU; `exact` gives every open layer to CP-SAT. exact_s: deterministic seconds of
    CP-SAT for one layer.
    """

    tolerance: float = 1e-3
    rounds: int = 40
    effort: Effort = "normal"
    exact_s: float = 0.5
    seed: int = 0


DEFAULT = Options()
