"""The audit of a plan's claims: each is recomputed, and the verdict follows from the numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from autopar.errors import SpecError, shorten, suggest
from autopar.expressions import parse
from autopar.problem import Plan
from autopar.results import Verdict
from autopar.specs import Claim, Scenario
from autopar.verifier import reasons
from autopar.verifier.layout import Layout
from autopar.verifier.metrics import Measured
from autopar.verifier.quantities import DIMENSIONS, Book, quantities

APPROXIMATE = 0.05  # what "about" may be off by, relative to the recomputed value

_PER = re.compile(r"\s*(?:/|\bper\b)\s*(?:GPU|token|stage|layer|expert|replica)s?$")
_NOUN = re.compile(r"(?:([kKMGTPEB]) )?[A-Za-z][A-Za-z -]*")


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim with its unit resolved: `value` x `factor` is in the base unit of `dimension`."""

    claim: Claim
    dimension: str
    factor: float

    def agrees(self, recomputed: float, factor: float | None = None) -> bool:
        """Whether the stated number, read in a unit of `factor`, is the recomputed one.

        Within half a unit of its last written digit; within 5 % if the claim says "about".
        """
        real = recomputed / (factor or self.factor)
        if self.claim.approximate:
            return abs(self.claim.value - real) <= APPROXIMATE * abs(real)
        exponent = Decimal(repr(float(self.claim.value))).normalize().as_tuple().exponent
        digit = 10.0 ** min(int(exponent), 0)
        return abs(self.claim.value - real) <= digit / 2 * (1 + 1e-9)

    def said(self, base_value: float | bool | None = None) -> str:
        """Return a value in base units in the claim's unit; the stated one by default."""
        if base_value is None:
            value: float | bool = self.claim.value
        elif isinstance(base_value, bool):
            value = base_value
        else:
            value = base_value / self.factor
        return f"{reasons.number(value)} {self.claim.unit}".strip()


def audit(
    scenario: Scenario,
    plan: Plan,
    layout: Layout,
    measured: Measured | None,
    claims: Sequence[Claim],
) -> tuple[Verdict, ...]:
    """Return one verdict per claim, in order.

    Raises SpecError if a claim's unit or derivation cannot be read.
    """
    if not claims:
        return ()
    book = quantities(scenario, plan, layout, measured)
    return tuple(_audit(scenario, claim, book) for claim in claims)


def _audit(scenario: Scenario, claim: Claim, book: Book) -> Verdict:
    names, derived, no_value = _derived(claim, book)
    dimension = None
    if claim.metric is not None:
        quantity = book.get(claim.metric)
        if quantity is None:
            near = suggest(claim.metric, book)
            return _not_derivable(claim, f"verify knows no quantity {claim.metric!r}{near}")
        if quantity.value is None:
            return _not_derivable(claim, f"{claim.metric}: {quantity.why}")
        dimension = quantity.dimension
    if no_value:
        return _not_derivable(claim, no_value)
    statement = _statement(claim, dimension, names, book)
    if isinstance(statement, Verdict):
        return statement
    real = book[claim.metric].value if claim.metric is not None else derived
    assert real is not None  # a claim has a metric or a derivation, and both have a value here
    if isinstance(claim.value, bool) or isinstance(real, bool) or isinstance(derived, bool):
        return _audit_condition(claim, real, derived)
    if not statement.agrees(real):
        return _wrong(statement, real, reasons.of(statement, real, book))
    if derived is not None and not statement.agrees(derived):
        why = reasons.of_derivation(statement, real, derived, names, book)
        return _wrong(
            statement, derived, f"{claim.derivation} gives {statement.said(derived)}; {why}"
        )
    caveat = reasons.caveat(scenario, claim, book)
    if caveat:
        return _not_derivable(claim, caveat)
    factor = claim.value * statement.factor / real if real else None
    why = _source(claim, book)
    return Verdict(
        claim.name, "reproduced", statement.said(), statement.said(real), factor, why, claim.says
    )


def _audit_condition(claim: Claim, real: float | bool, derived: float | bool | None) -> Verdict:
    """Judge a claim that something holds; a metric beside it must then be a truth value too."""
    truth = derived if derived is not None else real
    stated = reasons.number(claim.value)
    if not isinstance(truth, bool) or not isinstance(claim.value, bool):
        kind = "a condition" if isinstance(truth, bool) else "a number"
        why = f"what is recomputed is {kind}, the claim states {stated}"
        return Verdict(claim.name, "wrong", stated, reasons.number(truth), None, why, claim.says)
    holds = truth == claim.value
    said = f"{claim.derivation} is {'true' if truth else 'false'}"
    return Verdict(
        claim.name, "reproduced" if holds else "wrong", stated, reasons.number(truth), None, said,
        claim.says,
    )  # fmt: skip


def _derived(claim: Claim, book: Book) -> tuple[frozenset[str], float | bool | None, str]:
    """Return the names of the derivation, its value, and why it has none."""
    if claim.derivation is None:
        return frozenset(), None, ""
    try:
        expression = parse(claim.derivation, book)
    except ValueError as error:
        raise SpecError(f"claims: {claim.name}: derivation: {error}") from error
    missing = [name for name in sorted(expression.names) if book[name].value is None]
    if missing:
        return expression.names, None, f"{missing[0]}: {book[missing[0]].why}"
    try:
        value = expression.evaluate({name: book[name].value for name in expression.names})
    except ValueError as error:
        return expression.names, None, str(error)
    return expression.names, value, ""


def _statement(
    claim: Claim, dimension: str | None, names: frozenset[str], book: Book
) -> Statement | Verdict:
    """Resolve the claim's unit; a unit of another dimension than the metric's is a verdict."""
    unit = _PER.sub("", claim.unit.strip())
    if isinstance(claim.value, bool):
        return Statement(claim, "count", 1.0)
    homes = [key for key, table in DIMENSIONS.items() if unit in table]
    if dimension is None:
        dimension = _likely(homes, names, book)
    if dimension in homes:
        return Statement(claim, dimension, DIMENSIONS[dimension][unit])
    noun = _NOUN.fullmatch(unit)
    if dimension == "count" and noun and not homes:
        return Statement(claim, "count", DIMENSIONS["count"].get(noun[1] or "", 1.0))
    if homes and unit:
        why = f"{claim.unit!r} is a unit of a {homes[0]}, but {claim.metric} is a {dimension}"
        return Verdict(
            claim.name, "wrong", f"{reasons.number(claim.value)} {claim.unit}", "", None, why,
            claim.says,
        )  # fmt: skip
    expected = [u for u in DIMENSIONS[dimension] if u]
    raise SpecError(
        f"claims: {claim.name}: unit: found {shorten(claim.unit)}{suggest(unit, expected)}, "
        f"expected a unit of a {dimension}: {', '.join(expected)}"
    )


def _likely(homes: list[str], names: frozenset[str], book: Book) -> str:
    """Return the dimension of a derivation: that of its unit; of its names where two share it."""
    among = {book[name].dimension for name in names}
    both = [key for key in homes if key in among]
    return (both or homes or ["count"])[0]


def _wrong(statement: Statement, real: float, why: str) -> Verdict:
    claim = statement.claim
    factor = claim.value * statement.factor / real if real else None
    return Verdict(
        claim.name, "wrong", statement.said(), statement.said(real), factor, why, claim.says
    )


def _not_derivable(claim: Claim, why: str) -> Verdict:
    stated = f"{reasons.number(claim.value)} {claim.unit}".strip()
    return Verdict(claim.name, "not derivable", stated, "", None, why, claim.says)


def _source(claim: Claim, book: Book) -> str:
    """Return where the recomputed value comes from."""
    if claim.derivation is not None:
        return f"{claim.derivation} gives it" + (
            f", and so does {claim.metric}" if claim.metric is not None else ""
        )
    assert claim.metric is not None  # the spec demands one of the two
    origin = book[claim.metric].origin
    words = {
        "spec": "as stated in the spec",
        "plan": "counted in the plan",
        "recomputed": "recomputed from plan and spec",
    }
    return words[origin]
