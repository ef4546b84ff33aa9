"""Numbers and layouts in words."""

import pytest

from autopar.report import words


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0 %"),
        (1e-9, "<0.01 %"),
        (-1e-9, "-<0.01 %"),
        (0.00061, "0.061 %"),
        (0.125, "12.5 %"),
        (-0.5, "-50 %"),
        (12.0, "1,200 %"),
    ],
)
def test_percent_tells_zero_from_small(fraction, text):
    assert words.percent(fraction) == text


def test_difference_is_relative_and_empty_where_equal():
    assert words.difference(1.0, 1.0 + 1e-12) == ""
    assert words.difference(1.25, 1.0) == "+25 %"
    assert words.difference(0.0, 7.0) == "-100 %"
    assert words.difference(7.0, 0.0) == "+7"


def test_ranges_join_neighbours_and_count_what_they_cut():
    assert words.ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert words.ranges([]) == ""
    assert words.ranges(range(0, 200, 2)) == "0, 2, 4, 6, 8, ... 198 (100 in all)"


def test_quantities_carry_their_unit():
    assert words.quantity(None, "us") == "not stated"
    assert words.quantity(1.6e6, "us") == "1.60 s"
    assert words.quantity(39062500.0, "bytes") == "39.1 MB"
    assert words.quantity(7.0, "stage boundaries") == "7 stage boundaries"
    assert words.quantity(123456789.0, "GPUs") == "123,456,789 GPUs"
