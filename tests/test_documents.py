"""YAML and JSON are read as YAML 1.2 and JSON define them, and written so that they read back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.documents import dump_yaml, found, parse, parse_value, path_text
from autopar.errors import SpecError

WORDS = ["yes", "no", "null", "~", "1e3", "0o7", "0x1F", "12:30", "2020-01-01", "<<", "-", ".5", ""]
ALPHABET = "ab1 -+.:,#&*!|>'\"%@`{}[]?\\\t\n=_eE~\u00e9\u00b5\u4e2d"
TEXTS = st.sampled_from(WORDS) | st.text(st.sampled_from(ALPHABET), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(TEXTS, SCALARS, max_size=3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+7", 7),
        ("true", True),
        ("yes", "yes"),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("~", None),
        ("", ""),
        ("'1'", "1"),
        ('"a\\tb"', "a\tb"),
        ("tp == etp", "tp == etp"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("!!str 1", "1"),
    ],
)
def test_plain_scalars_follow_the_core_schema(text, value):
    read = parse_value(text, "x")
    assert read == value
    assert type(read) is type(value)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_written_as_yaml_reads_back(document):
    assert parse(dump_yaml(document), "x.yaml") == document


@given(st.text(st.sampled_from(ALPHABET), max_size=60))
def test_any_text_is_read_or_refused_with_one_error(text):
    refused = None
    try:
        data = parse("a: " + text, "x")
    except SpecError as error:
        refused = str(error)
    assert isinstance(data, dict) if refused is None else refused.startswith("x: ")


def test_values_are_shown_short():
    assert found(None) == "null"
    assert found(True) == "true"
    assert found([1] * 2000) == "a list of 2,000 items"
    assert found("x" * 10_000).endswith("(10,000 characters)")
    assert len(found(10**5000)) < 60
    assert found(math.inf) == "inf"


def test_paths_are_written_as_people_write_them():
    assert path_text(("stages", 2, "layers")) == "stages[2].layers"
    assert len(path_text(("k" * 1000,))) < 70
