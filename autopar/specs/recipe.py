"""How to solve: objective order, constraints on or off, rules, CP-SAT parameters."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from autopar.specs.base import Document, Name, Spec

MAX_EXPRESSION_CHARACTERS = 500
Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500)]
_OF_BOTH_ROLES = re.compile(r"\b(?:(?:prefill|decode)\s*\.|same_stages\b)")


class RuleSpec(Spec):
    """One rule: a predicate over a layout (require, forbid) or a bound on a total (sum)."""

    name: Name
    require: Expression | None = None
    forbid: Expression | None = None
    sum: Expression | None = None
    at_most: float | None = None
    at_least: float | None = None
    because: Reason

    @property
    def text(self) -> str:
        """The expression."""
        return self.require or self.forbid or self.sum or ""

    @property
    def is_of_pair(self) -> bool:
        """Whether it speaks of both roles of a disaggregated service, as in `prefill.tp`."""
        return _OF_BOTH_ROLES.search(self.text) is not None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = [f for f in ("require", "forbid", "sum") if getattr(self, f) is not None]
        if len(forms) != 1:
            found = " and ".join(forms) or "none"
            raise ValueError(f"expected exactly one of require, forbid, sum; found {found}")
        bounds = self.at_most is not None or self.at_least is not None
        if bounds != (forms == ["sum"]):
            raise ValueError("at_most and at_least go with sum, and sum needs at least one of them")
        return self


class CpSatParameters(Spec):
    """CP-SAT parameters; the defaults give the same answer on every run."""

    num_workers: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)] = 0
    # CP-SAT's own deterministic seconds, so that the limit does not depend on the machine.
    deterministic_time_limit: Annotated[float, Field(gt=0, le=1e6)] = 60.0
    symmetry: Literal["canonical", "explicit"] = "canonical"


class Recipe(Document):
    """A named way to solve, in `solvers/recipes`."""

    kind: Literal["recipe"] = "recipe"
    objectives: Annotated[tuple[Name, ...], Field(min_length=1)] = (
        "throughput",
        "ttft",
        "tpot",
        "traffic",
        "memory",
    )
    disable: tuple[Name, ...] = ()
    rules: tuple[RuleSpec, ...] = ()
    rule_packs: tuple[Name, ...] = ()
    plugins: tuple[str, ...] = ()
    cp_sat: CpSatParameters = CpSatParameters()


class RulePack(Document):
    """Rules that belong together, for an engine or a kind of hardware, in `solvers/rules`."""

    kind: Literal["rules"] = "rules"
    rules: Annotated[tuple[RuleSpec, ...], Field(min_length=1)]
