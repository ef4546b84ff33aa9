"""Which layouts of prefill and of decode may go together, by the rules that relate both roles.

A rule sees no more of a layout than its degrees, so layouts fall into a few *kinds* for each role,
and the rules are asked once for every two kinds. What they say may depend on whether both roles cut
the layers into the same stages, which two splits decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autopar.pair_rules import ROLE_NAMES, SAME_STAGES, PairRule
from autopar.problem import BoolArray, Candidates, IntArray
from autopar.specs import Scenario
from autopar.specs.roles import ROLES, Role


@dataclass(frozen=True, slots=True)
class Kinds:
    """Layouts of one role that differ to the rules.

    names: of the degrees that tell them apart. table: shape (kinds, names). codes: a number for
    each kind, ascending. widths: of the numbers that a degree adds to a code.
    """

    names: tuple[str, ...]
    table: IntArray
    codes: IntArray
    widths: IntArray

    @classmethod
    def of(cls, names: Sequence[str], rows: Candidates) -> "Kinds":
        """Return the kinds of some layouts."""
        columns = _columns(names, rows)
        sizes = columns.max(axis=0, initial=0) + 1
        widths = np.cumprod(np.concatenate([[1], sizes[:-1]])).astype(np.int64)[: len(names)]
        codes, first = np.unique(columns @ widths, return_index=True)
        return cls(tuple(names), columns[first], codes, widths)

    def __len__(self) -> int:
        return len(self.codes)

    def column(self, name: str) -> IntArray:
        """Return one degree of each kind."""
        column: IntArray = self.table[:, self.names.index(name)]
        return column

    def of_rows(self, rows: Candidates) -> IntArray:
        """Return the kind of each layout, all of which were known from the start."""
        return np.searchsorted(self.codes, _columns(self.names, rows) @ self.widths)


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What some rules say of every two kinds of layouts.

    kinds: of prefill and of decode. together: whether two kinds may go together with some splits;
    needs_same, needs_other: where they may, whether that takes splits which cut the layers into the
    same stages, or into others. All of shape (kinds of prefill, kinds of decode).
    """

    kinds: tuple[Kinds, Kinds]
    together: BoolArray
    needs_same: BoolArray
    needs_other: BoolArray

    @classmethod
    def of(
        cls, rules: Sequence[PairRule], scenario: Scenario, layouts: Sequence[Candidates]
    ) -> "Compatibility":
        """Ask the rules; layouts: of prefill and of decode, all that there may be."""
        prefill, decode = (
            Kinds.of(_names(rules, role), rows) for role, rows in zip(ROLES, layouts, strict=True)
        )
        shape = (len(prefill), len(decode))
        values = {f"prefill.{n}": prefill.column(n)[:, None] for n in prefill.names}
        values |= {f"decode.{n}": decode.column(n)[None, :] for n in decode.names}

        def allowed(same: int) -> BoolArray:
            result = np.ones(shape, dtype=np.bool_)
            for rule in rules if all(shape) else ():
                result &= rule.allows(scenario, {**values, SAME_STAGES: same}, shape)
            return result

        if not _speak_of_stages(rules):
            none = np.zeros(shape, dtype=np.bool_)
            return cls((prefill, decode), allowed(0), none, none)
        mine, theirs = values["prefill.pp"], values["decode.pp"]
        may_be_same, may_differ = mine == theirs, (mine != theirs) | (mine > 1)
        if_same, if_other = allowed(1), allowed(0)
        together = (if_same & may_be_same) | (if_other & may_differ)
        return cls(
            (prefill, decode),
            together,
            together & may_differ & ~if_other,
            together & may_be_same & ~if_same,
        )

    @property
    def says_nothing(self) -> bool:
        """Whether any two layouts may go together, however they are cut."""
        return bool(self.together.all() and not (self.needs_same | self.needs_other).any())

    def of_role(self, role: int) -> BoolArray:
        """Return `together` seen from a role, shape (its kinds, kinds of the other)."""
        return self.together if role == 0 else self.together.T

    def allows(self, prefill: int, decode: int, *, same: bool) -> bool:
        """Whether two kinds may go together with splits that are the same, or are not."""
        against = self.needs_other if same else self.needs_same
        return bool(self.together[prefill, decode] and not against[prefill, decode])


def _names(rules: Sequence[PairRule], role: Role) -> list[str]:
    used = {name for rule in rules for name in rule.expression.names}
    needed = {"pp"} if _speak_of_stages(rules) else set()
    return [name for name in ROLE_NAMES if f"{role}.{name}" in used or name in needed]


def _speak_of_stages(rules: Sequence[PairRule]) -> bool:
    return any(SAME_STAGES in rule.expression.names for rule in rules)


def _columns(names: Sequence[str], rows: Candidates) -> IntArray:
    """Return degrees of layouts whose stages are alike, shape (rows, names)."""
    found = {
        "gpus": rows.stage_gpus(np.ones_like(rows.pp)),
        "expert_grid_gpus": rows.ep * rows.etp,
    }
    columns = [found[name] if name in found else getattr(rows, name) for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((len(rows), 0), dtype=np.int64)
