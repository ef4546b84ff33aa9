"""The forms of a workload: which fields each phase needs and which it refuses."""

from typing import Any

import pytest
from pydantic import ValidationError

from autopar.specs import Workload
from autopar.specs.workload import Speculation

GIVEN_PREFILL = {"phase": "prefill", "batch_tokens": 1024, "sequence_tokens": 256}
GIVEN_DECODE = {"phase": "decode", "batch_sequences": 8, "sequence_tokens": 256}
OPEN_PREFILL = {"phase": "prefill", "input_tokens": 1000}
OPEN_DECODE = {"phase": "decode", "input_tokens": 1000, "output_tokens": 200}
SERVING = {"phase": "serving", "input_tokens": 1000, "output_tokens": 200}
APART = {"phase": "disaggregated", "input_tokens": 1000, "output_tokens": 200}
DRAFTS = {"draft_tokens": 2, "acceptance": 0.5}
IN_FORM = "(tokens of one request; the batch is found)"
EITHER = "(a given batch), or input_tokens (the batch is found)"


def built(fields: dict[str, Any]) -> Workload:
    return Workload(name="w", **fields)


@pytest.mark.parametrize(
    ("fields", "is_open"),
    [
        (GIVEN_PREFILL, False),
        (GIVEN_DECODE, False),
        (OPEN_PREFILL, True),
        (OPEN_DECODE, True),
        (SERVING, True),
        (APART, True),
        (OPEN_DECODE | {"speculation": DRAFTS}, True),
        (
            SERVING | {"speculation": DRAFTS, "prompts_ahead": 1.5, "expert_load": "power_law_1.2"},
            True,
        ),
    ],
)
def test_every_form_is_accepted(fields: dict[str, Any], is_open: bool) -> None:
    found = built(fields)
    assert found.is_open == is_open
    assert found.is_prefill == (fields["phase"] == "prefill")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"phase": "prefill"}, f"phase 'prefill' needs batch_tokens {EITHER}"),
        ({"phase": "decode"}, f"phase 'decode' needs batch_sequences {EITHER}"),
        ({"phase": "prefill", "batch_tokens": 10}, "phase 'prefill' needs sequence_tokens"),
        ({"phase": "prefill", "sequence_tokens": 10}, "phase 'prefill' needs batch_tokens"),
        ({"phase": "decode", "batch_tokens": 10}, "phase 'decode' needs batch_sequences"),
        ({"phase": "decode", "input_tokens": 10}, "phase 'decode' needs output_tokens"),
        ({"phase": "serving"}, f"phase 'serving' needs input_tokens {IN_FORM}"),
        (
            {"phase": "serving", "input_tokens": 10},
            f"phase 'serving' needs output_tokens {IN_FORM}",
        ),
        ({"phase": "disaggregated"}, f"phase 'disaggregated' needs input_tokens {IN_FORM}"),
    ],
)
def test_what_a_form_lacks_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        built(fields)
    (error,) = caught.value.errors()
    assert error["msg"] == f"Value error, {message}"


@pytest.mark.parametrize(
    ("form", "lead", "refused"),
    [
        (GIVEN_PREFILL, "batch_tokens", {"batch_sequences": 4, "output_tokens": 4}),
        (GIVEN_DECODE, "batch_sequences", {"batch_tokens": 4, "output_tokens": 4}),
        (GIVEN_DECODE, "batch_sequences", {"speculation": DRAFTS}),
        (
            OPEN_PREFILL,
            "input_tokens",
            {"batch_tokens": 4, "batch_sequences": 4, "sequence_tokens": 4, "output_tokens": 4},
        ),
        (
            OPEN_DECODE,
            "input_tokens",
            {"batch_tokens": 4, "batch_sequences": 4, "sequence_tokens": 4},
        ),
        (SERVING, "input_tokens", {"batch_tokens": 4, "batch_sequences": 4, "sequence_tokens": 4}),
        (APART, "input_tokens", {"batch_tokens": 4, "batch_sequences": 4, "sequence_tokens": 4}),
    ],
)
def test_what_belongs_to_another_form_is_refused(
    form: dict[str, Any], lead: str, refused: dict[str, Any]
) -> None:
    for name, value in refused.items():
        with pytest.raises(ValidationError) as caught:
            built(form | {name: value})
        (error,) = caught.value.errors()
        expected = f"phase {form['phase']!r} with {lead} does not take {name}"
        assert error["msg"] == f"Value error, {expected}"


def test_a_prefill_without_output_has_nothing_to_draft() -> None:
    with pytest.raises(ValidationError, match="does not take speculation: it has no output tokens"):
        built(OPEN_PREFILL | {"speculation": DRAFTS})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_tokens", 0),
        ("output_tokens", 0),
        ("prefill_chunk_tokens", 0),
        ("max_batch_sequences", 0),
        ("max_batch_sequences", 65_537),
        ("prompts_ahead", -0.5),
        ("expert_load", "uneven"),
        ("speculation", {"draft_tokens": 0, "acceptance": 0.5}),
        ("speculation", {"draft_tokens": 17, "acceptance": 0.5}),
        ("speculation", {"draft_tokens": 2, "acceptance": 1.5}),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        built(SERVING | {name: value})
    assert all(error["loc"][0] == name for error in caught.value.errors())


def test_a_given_batch_counts_its_tokens_and_sequences() -> None:
    """1,024 tokens in prompts of 256: 4; of 300: 3.41; of 2,000: one, cut."""
    assert (built(GIVEN_PREFILL).tokens_per_step, built(GIVEN_PREFILL).num_sequences) == (1024, 4)
    assert built(GIVEN_PREFILL | {"sequence_tokens": 300}).num_sequences == pytest.approx(
        3.41, 1e-2
    )
    assert built(GIVEN_PREFILL | {"sequence_tokens": 2000}).num_sequences == 1
    assert (built(GIVEN_DECODE).tokens_per_step, built(GIVEN_DECODE).num_sequences) == (8, 8)


@pytest.mark.parametrize(
    ("drafts", "acceptance", "expected"),
    [(1, 0.8, 1.8), (2, 0.5, 1.75), (3, 1.0, 4.0), (4, 0.1, 1.1111)],
)
def test_a_step_gains_the_drafts_that_are_right_in_a_row(
    drafts: int, acceptance: float, expected: float
) -> None:
    """1 + a + a^2 + ...: for example 1 + 0.5 + 0.25."""
    found = Speculation(draft_tokens=drafts, acceptance=acceptance)
    assert found.tokens_per_step == pytest.approx(expected)


@pytest.mark.parametrize(
    ("length", "chunk", "expected"),
    [(1000, 1000, 1), (1001, 1000, 2), (1, 8192, 1), (8193, 1, 8193)],
)
def test_a_prompt_longer_than_a_step_takes_is_cut(length: int, chunk: int, expected: int) -> None:
    found = built(SERVING | {"input_tokens": length, "prefill_chunk_tokens": chunk})
    assert found.fewest_chunks == expected
    assert built(GIVEN_PREFILL).fewest_chunks == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"input_tokens": 4000}, (1, 2, 4, 8)),  # 16 parts would have 250 tokens
        ({"input_tokens": 511}, (1,)),
        ({"input_tokens": 3000, "prefill_chunk_tokens": 1000}, (3, 6)),
        ({"input_tokens": 4000, "chunked_prefill": False}, (1,)),
    ],
)
def test_prompts_are_cut_into_powers_of_two_of_at_least_256_tokens(
    changes: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert built(SERVING | changes).chunk_counts == expected
    assert built(GIVEN_PREFILL).chunk_counts == (1,)


def test_a_prompt_that_must_be_whole_must_fit_in_a_step() -> None:
    with pytest.raises(ValidationError, match=r"prefill_chunk_tokens is 1,000, input_tokens 1,001"):
        built(
            SERVING | {"input_tokens": 1001, "prefill_chunk_tokens": 1000, "chunked_prefill": False}
        )
