import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.expressions import MAX_DEPTH, parse, parse_condition

KNOWN = {"tp": 2, "ep": 16, "pp": 8, "is_moe": True, "zero": 0}


def evaluate(text, values=None):
    return parse(text, KNOWN).evaluate(KNOWN if values is None else values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tp", 2),
        ("ep * tp * pp", 256),
        ("ep + tp * pp - 1", 31),
        ("-(ep - tp)", -14),
        ("+tp", 2),
        ("ep / 5", 3.2),
        ("ep // 5", 3),
        ("ep % 5", 1),
        ("1e3 * tp", 2000),
        ("tp == 2", True),
        ("1 < tp <= ep < 17", True),
        ("1 < tp > ep", False),
        ("tp != 2 or ep >= 16 and not pp > 8", True),
        ("not is_moe", False),
        ("is_moe and tp == 2", True),
        ("(tp == 2) == (ep == 16)", True),
        ("  tp\n  <= ep ", True),
    ],
)
def test_expression_has_the_value_of_ordinary_arithmetic(text, value):
    found = evaluate(text)
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("__import__('os').system('x')", "a function call"),
        ("tp.real", "an attribute"),
        ("tp[0]", "a subscript"),
        ("tp ** ep", "a power"),
        ("tp if ep else pp", "a conditional"),
        ("lambda: 1", "a lambda"),
        ("[x for x in tp]", "a comprehension"),
        ("(tp := 3)", "an assignment"),
        ("tp | ep", "a bit operator"),
        ("~tp", "a bit operator"),
        ("tp is ep", "the operator is"),
        ("tp in ep", "the operator in"),
        ("'tp' == tp", "'tp' is not a number"),
        ("True", "True is not a number"),
        ("1j", "1j is not a number"),
        ("f'{tp}'", "a text"),
        ("(tp, ep)", "a tuple"),
        ("tp # <= 3", "a comment"),
        ("1e999", "too large"),
        ("9" * 40, "too large"),
        ("", "empty expression"),
        ("tp <=", "invalid syntax"),
        ("import os", "invalid syntax"),
        ("tp; ep", "invalid syntax"),
        ("tp\0", "expected numbers"),
        ("(" * 240 + "tp" + ")" * 240, "expected numbers"),
        ("tp + " * 120 + "1", "500 characters"),
        ("-" * (MAX_DEPTH + 1) + "tp", "nests deeper"),
        ("(tp == 2) + 1", "expected a number"),
        ("tp + 1 and ep == 2", "expected a condition"),
        ("not 3", "expected a condition"),
    ],
)
def test_forbidden_expression_is_refused_with_its_name(text, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        parse(text, KNOWN)


def test_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match="unknown name 'ap'") as caught:
        parse("ap <= 3", {"ep", "tp"})
    assert "expected one of ep, tp" in str(caught.value)
    with pytest.raises(ValueError, match="did you mean 'expert_group_gpus'"):
        parse("expert_grup_gpus <= 3", {"expert_group_gpus", "tp"})


@pytest.mark.parametrize(
    "text", ["tp > 1", "is_moe", "not is_moe or tp == 2", "(tp > 1) == is_moe"]
)
def test_comparisons_and_flags_are_conditions(text):
    assert parse_condition(text, KNOWN).evaluate(KNOWN) == parse(text, KNOWN).evaluate(KNOWN)


@pytest.mark.parametrize(
    ("text", "number"),
    [("tp", "tp"), ("tp + 1", "tp + 1"), ("is_moe and tp", "tp"), ("not (is_moe or ep)", "ep"),
     ("3", "3"), ("a.tp", "a.tp")],
)  # fmt: skip
def test_a_number_is_no_condition(text, number):
    """It would hold of every plan, and look as if it had been asked."""
    says = f"'{number}' is a number; expected a condition, such as '{number} > 1'"
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_condition(text, {**KNOWN, "a.tp": 1})


def test_names_and_kind_are_known_without_values():
    expression = parse("tp * ep <= pp", KNOWN)
    assert expression.names == {"tp", "ep", "pp"}
    assert expression.is_condition is True
    assert parse("tp * ep", KNOWN).is_condition is False
    assert parse("is_moe", KNOWN).is_condition is None


@pytest.mark.parametrize(
    ("text", "values", "says"),
    [
        ("tp / zero", {"tp": 1, "zero": 0}, "division by zero in 'tp / zero'"),
        ("tp // zero", {"tp": 1, "zero": 0}, "division by zero"),
        ("tp % zero", {"tp": np.array([1, 2]), "zero": np.array([1, 0])}, "division by zero"),
        ("zero != 0 and tp / zero > 1", {"tp": 1, "zero": 0}, "division by zero"),
        ("tp * ep", {"tp": 1e200, "ep": 1e200}, "not a finite number"),
        ("tp * ep", {"tp": np.array([1e200]), "ep": 1e200}, "not a finite number"),
        ("tp", {"tp": float("nan")}, "tp is not a finite number"),
        ("tp", {}, "tp has no value here"),
        ("tp", {"tp": None}, "tp has no value here"),
    ],
)
def test_value_that_is_not_a_number_is_reported(text, values, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        evaluate(text, values)


NUMBERS = st.integers(1, 50)
LEAVES = st.sampled_from(["tp", "ep", "pp", "3", "7.5"])
ARITHMETIC = st.recursive(
    LEAVES,
    lambda part: st.tuples(part, st.sampled_from(["+", "-", "*"]), part).map(
        lambda p: f"({' '.join(p)})"
    ),
    max_leaves=6,
)
CONDITIONS = st.recursive(
    st.tuples(ARITHMETIC, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), ARITHMETIC).map(
        " ".join
    ),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from(["and", "or"]), part).map(lambda p: f"({' '.join(p)})"),
        part.map(lambda p: f"(not {p})"),
    ),
    max_leaves=4,
)


@given(
    st.one_of(ARITHMETIC, CONDITIONS), st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1)
)
def test_arrays_give_row_by_row_what_numbers_give_and_what_python_gives(text, rows):
    if len(text) > 500:
        return
    expression = parse(text, KNOWN)
    columns = dict(zip(("tp", "ep", "pp"), np.array(rows, dtype=np.int64).T, strict=True))
    together = np.broadcast_to(expression.evaluate(columns), (len(rows),))
    for index, row in enumerate(rows):
        values = dict(zip(("tp", "ep", "pp"), row, strict=True))
        alone = expression.evaluate(values)
        assert together[index] == alone
        assert alone == eval(text, {"__builtins__": {}}, values)
