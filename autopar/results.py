"""What the verbs return: frozen, typed, free of the solver and of any formatting."""

from dataclasses import dataclass, field
from typing import Literal

from autopar.errors import InfeasibleError, SolveLimitError
from autopar.problem import AnyPlan, Metrics
from autopar.specs import Scenario

Status = Literal["optimal", "feasible", "infeasible", "unknown"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a running solve: the objective at work, its incumbent, its bound, their gap."""

    wall_s: float
    objective: str
    value: float | None
    bound: float | None
    gap: float | None


@dataclass(frozen=True, slots=True)
class ObjectiveValue:
    """One objective of the lexicographic order: what the plan reaches and what cannot be beaten.

    gap: |value - bound| / max(|value|, |bound|), 0.0 when proven optimal. `tied` says that every
    layout that was as good in the objectives before it is equal in this one too, so that it decided
    nothing.
    rounding_error: the most by which the integer model's value may differ from the float one.
    """

    name: str
    value: float
    bound: float
    gap: float
    unit: str
    sense: Literal["max", "min"]
    tied: bool
    rounding_error: float


@dataclass(frozen=True, slots=True)
class Uniqueness:
    """Whether another optimum exists that is not the same plan renamed.

    unique: True or False when proven, None when not established. `method` says how.
    """

    unique: bool | None
    method: str
    other: str = ""


Degrees = dict[str, int | None]  # by their short keys; None where the stages differ


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """The best plan of all layouts with other degrees; batch and parts of a prompt do not count.

    objective: the first one, of which value, bound and lead speak. degrees: of it, of each role
    where there are two; None where only a bound is known, or no other layout satisfies the spec.
    value: what it reaches. bound: what no other layout beats, proven; None where there is none.
    lead: how much better the plan is, of `value`, else of `bound`, as better / worse - 1.
    band: the lead that two predictions like these need to be told apart, in the same terms; None
    where nothing like them was measured. decides: the objective that tells the two apart.
    over_fabric: whether only one of the two sums or gathers over the fabric between domains, or
    both do in other groups; nobody measured that, so that there is no band.
    """

    objective: str
    unit: str
    degrees: Degrees | dict[str, Degrees] | None
    value: float | None
    bound: float | None
    lead: float | None
    band: float | None = None
    decides: str | None = None
    over_fabric: bool = False

    @property
    def within_band(self) -> bool | None:
        """Whether predictions are too uncertain to tell the two apart; None where not known."""
        if self.lead is None or self.band is None:
            return None
        return self.lead <= self.band


@dataclass(frozen=True, slots=True)
class Move:
    """One kind of cost moved to an end of its band, and what is best then.

    factor: on the times of the kind. verdict: whether the plan's layout, with the best batch, stays
    the best; "no plan" where nothing satisfies the spec any more. regret: the share of the first
    objective that keeping the layout gives away; None where there is none to keep, or no plan.
    flip: the factor from which on another layout wins, and degrees: those of it, of each role where
    there are two. breaks: what the plan as it stands, with its own batch, violates then. lead: of
    the plan's layout over that of the named runner-up, as better / worse - 1, below 0 where the
    runner-up is ahead; None where one of them has no plan, or no runner-up is named.
    """

    factor: float
    verdict: Literal["stays", "changes", "no plan", "not decided"]
    regret: float | None = None
    flip: float | None = None
    degrees: Degrees | dict[str, Degrees] | None = None
    breaks: tuple[str, ...] = ()
    lead: float | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """One kind of cost, moved to both ends of its band.

    overtakes: the factor from which on the named runner-up is ahead of the plan's layout; None
    where it is not inside the band.
    """

    kind: str
    band: float
    faster: Move
    slower: Move
    overtakes: float | None = None

    @property
    def moves(self) -> tuple[Move, Move]:
        """Both ends."""
        return self.faster, self.slower


@dataclass(frozen=True, slots=True)
class Measurement:
    """The measurement that would settle which layout is best: of the cost that decides first.

    flip: the factor at which another layout wins, part: of its band, in logarithms, that this is;
    None where no cost alone makes another layout win: then the cost is the one that takes most of
    the lead over the runner-up, at `end` of its band, and lead is what is left. what: the
    operations, in words.
    """

    kind: str
    flip: float | None
    part: float | None
    what: tuple[str, ...]
    end: float | None = None
    lead: float | None = None


@dataclass(frozen=True, slots=True)
class Robustness:
    """Whether the plan's layout stays the best where each cost is off as far as it may be.

    skipped: kinds of cost that the scenario does not have, and why. settles: None where no other
    layout has a plan.
    """

    doubts: tuple[Doubt, ...]
    skipped: dict[str, str]
    settles: Measurement | None

    @property
    def holds(self) -> bool:
        """Whether the layout stays the best under every move, as proven."""
        moves = [move for doubt in self.doubts for move in doubt.moves]
        return all(move.verdict == "stays" for move in moves)


@dataclass(frozen=True, slots=True)
class Repair:
    """One change that makes an infeasible spec feasible: where, from what, to what, how much."""

    requirement: str
    change: str  # as `--set` takes it, or "drop <name>"
    size: str  # the change in engineering units
    relative: float | None  # |new - old| / |old|, where the change is of a number


@dataclass(frozen=True, slots=True)
class SolverInfo:
    """How the answer was found, enough to replay it."""

    wall_s: float
    cost_model: str
    version: str
    seed: int
    fingerprint: str
    ortools_version: str
    parameters: dict[str, str | int | float]
    candidates: int  # rows of the table before any constraint
    candidates_in_model: int  # rows that bounds could not rule out
    deterministic_time: float
    phases_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Solution:
    """The answer of `solve`."""

    scenario: Scenario
    status: Status
    plan: AnyPlan | None
    metrics: Metrics | None
    objectives: tuple[ObjectiveValue, ...]
    binding: tuple[str, ...] | None  # None: not determined
    conflict: tuple[str, ...]
    repairs: tuple[Repair, ...]
    uniqueness: Uniqueness | None
    notes: tuple[str, ...]
    solver: SolverInfo
    interrupted: bool = False
    because: dict[str, str] = field(default_factory=dict)  # what each named constraint demands
    roles: dict[str, Metrics] = field(default_factory=dict)  # metrics of each role of the plan
    runner_up: RunnerUp | None = None  # None: not looked for
    robustness: Robustness | None = None  # None: not asked for
    undecided: tuple[str, ...] = ()  # of which it was not decided within the limits if they bind

    def require_plan(self) -> AnyPlan:
        """Return the plan, for callers that cannot go on without one.

        Raises InfeasibleError, with the clashing constraints, if there provably is none, and
        SolveLimitError if the limit was reached without one.
        """
        if self.plan is not None:
            return self.plan
        if self.status == "infeasible":
            clash = ", ".join(self.conflict) or "the structure of a plan"
            raise InfeasibleError(f"{self.scenario.name}: no plan exists: {clash}", self.conflict)
        raise SolveLimitError(f"{self.scenario.name}: no plan was found within the limit")


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which a plan breaks the spec: a stable kind, and a sentence with the place."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit of one claim: what it states, what the plan and the spec give, and why."""

    name: str
    verdict: Literal["reproduced", "wrong", "not derivable"]
    stated: str  # with unit
    recomputed: str  # with unit; empty where not derivable
    factor: float | None  # stated / recomputed, where both are numbers
    why: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """A second opinion on an explicit plan, from the spec and the plan alone."""

    plan: str
    violations: tuple[Violation, ...]
    metrics: Metrics | None  # None where the plan is too broken to be measured
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    roles: dict[str, Metrics] = field(default_factory=dict)  # metrics of each role of the plan

    @property
    def ok(self) -> bool:
        """Whether the plan satisfies the spec; claims may still be wrong."""
        return not self.violations


@dataclass(frozen=True, slots=True)
class ComparedPlan:
    """One column of a comparison."""

    name: str
    plan: AnyPlan
    report: VerifyReport
    gaps: dict[str, float | None]  # per objective, to `Comparison.bounds`; None where that is 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hand-written plans beside the solver's own, by the same verifier."""

    solution: Solution
    plans: tuple[ComparedPlan, ...]
    best: dict[str, tuple[str, ...]]  # objective -> names of the feasible plans that lead it
    bounds: dict[str, float]  # objective -> what no plan of the spec beats in it alone, proven
    notes: tuple[str, ...] = ()
    relaxed: Solution | None = None  # the optimum under weaker coverage, where that is better


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a spec has no plan, or what binds the one it has."""

    status: Status
    conflict: tuple[str, ...]
    because: dict[str, str]
    repairs: tuple[Repair, ...]
    binding: tuple[str, ...] | None  # None: not determined
    notes: tuple[str, ...] = field(default=())
    runner_up: RunnerUp | None = None  # None: not looked for
    undecided: tuple[str, ...] = ()  # of which it was not decided within the limits if they bind
