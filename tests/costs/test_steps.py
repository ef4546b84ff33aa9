"""What one step works on in every phase, by hand."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopar.costs.shape import Shape
from autopar.costs.steps import Steps, most_sequences, parts_per_step
from autopar.problem import Candidate, Candidates
from autopar.specs import Workload

DRAFTS = {"draft_tokens": 2, "acceptance": 0.5}  # gains 1 + 0.5 + 0.25 tokens a step


def steps_of(scenario, groups=1, *, pp=1, cp=1, batch=0, chunks=1, **work):
    """Steps of stages with so many attention groups; one GPU each but for cp."""
    workload = scenario.workload.model_copy(update=work)
    row = Candidate(1, pp, 1, cp, groups, groups * cp, 1, 1, batch, chunks)
    shape = replace(Shape.of(scenario.llm, scenario.workload), workload=workload)
    return Steps.of(shape, Candidates.of([row]), np.array([groups]))


def work_of(**fields):
    return Workload(
        name="w", **({"phase": "serving", "input_tokens": 20, "output_tokens": 9} | fields)
    )


class TestGivenPrefill:
    """100 tokens in prompts of 30: 4 prompts, the last one cut."""

    @pytest.fixture
    def scenario(self, analytic_scenario):
        return analytic_scenario(phase="prefill", batch=100, sequence_tokens=30)

    @pytest.mark.parametrize(("groups", "prompts", "tokens"), [(1, 4, 100), (3, 2, 60), (6, 1, 30)])
    def test_a_prompt_stays_whole_in_its_group(self, scenario, groups, prompts, tokens):
        """1 group: all. 3 groups: 2 prompts in the busiest. 6 groups: one, and two are idle."""
        steps = steps_of(scenario, groups)
        step = steps.loaded
        assert steps.quiet is None
        assert (step.prompts, step.prompt_parts, step.prompt_tokens) == (prompts, prompts, tokens)
        assert (step.group_tokens, step.prompt_keys, step.logit_rows) == (tokens, tokens, prompts)
        assert (step.sequences, step.prompt_length) == (0, 30)
        assert step.stage_tokens == steps.tokens == 100

    def test_a_prompt_longer_than_the_batch_is_cut_to_it(self, analytic_scenario):
        scenario = analytic_scenario(phase="prefill", batch=100, sequence_tokens=500)
        step = steps_of(scenario).loaded
        assert (step.prompts, step.prompt_length, step.prompt_tokens) == (1, 100, 100)

    def test_every_stage_keeps_one_batch(self, scenario):
        """3 stages, cp 2: 3 x 50 tokens of 3 x 4 prompts on a rank."""
        steps = steps_of(scenario, pp=3, cp=2)
        assert (steps.resident_tokens, steps.resident_sequences) == (150, 12)
        assert steps.loaded.rank_tokens == 50

    def test_a_batch_passes_once_and_waits_for_nothing(self, scenario):
        steps = steps_of(scenario, pp=3)
        assert (steps.share, steps.passes, steps.waits) == (1, 1, 0)


class TestGivenDecode:
    """50 sequences of 20 tokens."""

    @pytest.fixture
    def scenario(self, analytic_scenario):
        return analytic_scenario(batch=50)

    def test_sequences_take_turns_in_micro_batches(self, scenario):
        """pp 4: 13 at once; 3 groups: 5 of them in the busiest.

        All 50 stay: ceil(50 / 3) = 17 sequences x 20 tokens of context = 340 tokens.
        """
        steps = steps_of(scenario, 3, pp=4)
        step = steps.quiet
        assert steps.loaded is None
        assert (step.stage_tokens, step.sequences, step.group_tokens) == (13, 5, 5)
        assert (step.rank_tokens, step.logit_rows, step.context) == (5, 5, 20)
        assert (steps.resident_tokens, steps.resident_sequences) == (340, 17)

    def test_a_turn_of_the_pipeline_produces_all_sequences_once(self, scenario):
        """4 micro-batches of 13, 13, 12 and 12: 12.5 tokens a step on average."""
        assert steps_of(scenario, 3, pp=4).tokens == 12.5

    def test_the_context_of_a_sequence_is_split_over_cp(self, analytic_scenario):
        """48 sequences, 2 groups: 24; cp 3: 8 tokens a rank; ceil(20 / 3) = 7 keys; 24 x 7."""
        steps = steps_of(analytic_scenario(), 2, cp=3)
        step = steps.quiet
        assert (step.group_tokens, step.rank_tokens, step.context) == (24, 8, 7)
        assert steps.resident_tokens == 168


class TestOpenPrefill:
    """Steps that take 64 prompt tokens."""

    def test_prompts_shorter_than_a_step_are_batched(self, analytic_scenario):
        """3 prompts of 20 in each of 2 groups, cp 2; kept in 2 pages of 16 a prompt by 2 stages."""
        scenario = analytic_scenario(phase="prefill", input_tokens=20)
        steps = steps_of(scenario, 2, pp=2, cp=2, batch=3)
        step = steps.loaded
        assert steps.quiet is None
        assert (step.prompts, step.prompt_parts, step.prompt_tokens) == (3, 3, 60)
        assert (step.prompt_keys, step.rank_tokens, step.stage_tokens) == (60, 30, 120)
        assert steps.tokens == 120
        assert (steps.resident_tokens, steps.resident_sequences) == (2 * 3 * 16, 6)
        assert (steps.passes, steps.waits) == (1, 0)

    def test_a_prompt_longer_than_a_step_takes_several(self, analytic_scenario):
        """150 tokens in 3 parts of 50, which read 50, 100 and 150 keys: 100 on average.

        A third of the steps ends a prompt. Its 10 pages stay.
        """
        scenario = analytic_scenario(phase="prefill", input_tokens=150)
        steps = steps_of(scenario, 2, batch=1, chunks=3)
        step = steps.loaded
        assert (step.prompt_tokens, step.prompt_keys, step.prompt_parts) == (50, 100, 1)
        assert step.prompts == pytest.approx(1 / 3)
        assert (step.prompt_length, steps.tokens, steps.resident_tokens) == (150, 100, 160)

    @pytest.mark.parametrize(("pp", "passes"), [(1, 3), (2, 2), (4, 1.5)])
    def test_parts_follow_each_other_through_the_stages(self, pp, passes, analytic_scenario):
        """3 parts through pp stages take 3 + pp - 1 stage times; all stages together take pp."""
        scenario = analytic_scenario(phase="prefill", input_tokens=150)
        assert steps_of(scenario, pp=pp, batch=1, chunks=3).passes == pytest.approx(passes)

    def test_prompts_that_arrived_before_pass_first(self, analytic_scenario):
        scenario = analytic_scenario(phase="prefill", input_tokens=150)
        steps = steps_of(scenario, batch=1, chunks=3, prompts_ahead=0.5)
        assert steps.passes == pytest.approx(4.5)


class TestOpenDecode:
    """Requests of 20 + 8 tokens, kept in 2 pages of 16."""

    @pytest.fixture
    def scenario(self, analytic_scenario):
        return analytic_scenario(input_tokens=20, output_tokens=8)

    def test_half_of_the_output_stands_in_the_context(self, scenario):
        """5 sequences in each of 3 groups; 2 micro-batches stay."""
        steps = steps_of(scenario, 3, pp=2, batch=5)
        step = steps.quiet
        assert steps.loaded is None
        assert (step.sequences, step.context, step.stage_tokens, step.logit_rows) == (5, 24, 15, 5)
        assert steps.tokens == 15
        assert (steps.resident_tokens, steps.resident_sequences) == (2 * 5 * 32, 10)
        assert (step.prompt_tokens, step.prompts) == (0, 0)

    def test_context_and_pages_are_split_over_cp(self, scenario):
        """cp 3: 24 / 3 keys, ceil(32 / 3) tokens kept, ceil(5 / 3) tokens a rank."""
        steps = steps_of(scenario, cp=3, batch=5)
        assert (steps.quiet.context, steps.resident_tokens, steps.quiet.rank_tokens) == (8, 55, 2)

    def test_drafts_are_computed_and_some_of_them_count(self, scenario):
        """3 queries a sequence, 1.75 tokens gained."""
        speculation = work_of(phase="decode", speculation=DRAFTS).speculation
        steps = steps_of(scenario, 3, batch=4, speculation=speculation)
        step = steps.quiet
        assert (step.queries, step.group_tokens, step.stage_tokens) == (3, 12, 36)
        assert step.logit_rows == 12
        assert steps.tokens == 4 * 1.75 * 3


class TestServing:
    """Requests of 20 + 9 tokens: the first comes with the prompt, 8 steps of their own."""

    @pytest.fixture
    def scenario(self, analytic_scenario):
        return analytic_scenario(phase="serving", input_tokens=20, output_tokens=9)

    def test_prompts_come_at_random(self, scenario):
        """4 sequences of 8 steps: 1 / 2 prompts a step; a step has none with exp(-1 / 2).

        The others have 0.5 / (1 - exp(-1 / 2)) = 1.2707 of them, 20 tokens each.
        """
        steps = steps_of(scenario, 2, batch=4)
        some = 1 - exp(-0.5)
        parts = 0.5 / some
        assert steps.share == pytest.approx(some)
        assert (steps.quiet.sequences, steps.quiet.prompt_tokens) == (4, 0)
        assert steps.loaded.sequences == 4
        assert steps.loaded.prompts == steps.loaded.prompt_parts == pytest.approx(parts)
        assert steps.loaded.prompt_tokens == pytest.approx(20 * parts)
        assert steps.loaded.prompt_keys == pytest.approx(20 * parts)
        assert steps.loaded.logit_rows == pytest.approx(4 + parts)
        assert steps.loaded.stage_tokens == pytest.approx(2 * (4 + 20 * parts))
        assert steps.tokens == 8

    def test_a_prompt_waits_for_the_step_under_way_and_for_those_before_it(self, scenario):
        """3 prompts fit in a step: load 1 / 6, and a prompt is a third of a step's work.

        M/D/1: 1/6 / (2 x 5/6) = 0.1 of a prompt's time, 0.0333 steps; half a step besides.
        """
        steps = steps_of(scenario, 2, batch=4)
        assert steps.waits == pytest.approx(0.5 + 0.1 / 3)
        assert steps.passes == 1

    def test_the_longest_stage_holds_up_the_others(self, scenario):
        """2 stages work on 2 micro-batches; a turn is short if neither has a prompt."""
        assert steps_of(scenario, 2, pp=2, batch=4).share == pytest.approx(1 - exp(-1.0))

    def test_running_sequences_and_prompts_stay(self, scenario):
        """4 + 2 in each of 2 micro-batches, 29 tokens in 2 pages."""
        steps = steps_of(scenario, 2, pp=2, batch=4)
        assert (steps.resident_sequences, steps.resident_tokens) == (12, 12 * 32)

    def test_parts_of_long_prompts_come_one_by_one(self, analytic_scenario):
        """150 tokens in 3 parts of 50, one a step: 3 / 8 of the steps, wait 1.4.

        M/D/1 over the 3 parts: 3 x 3/8 / (2 x 5/8) = 0.9. Through 2 stages: 4 stage times of 2.
        """
        scenario = analytic_scenario(phase="serving", input_tokens=150, output_tokens=9)
        steps = steps_of(scenario, pp=2, batch=1, chunks=3)
        assert steps.loaded.prompt_parts == 1
        assert steps.loaded.prompt_tokens == 50
        assert steps.loaded.prompts == pytest.approx(1 / 3)
        assert steps.loaded.prompt_keys == 100
        assert steps.waits == pytest.approx(0.5 + 0.9)
        assert steps.passes == 2
        assert steps.share == pytest.approx(1 - (5 / 8) ** (4 / 3))

    def test_with_drafts_requests_end_sooner_and_prompts_come_more_often(self, scenario):
        """2 sequences gain 1.75 tokens a step of 8: 0.4375 prompts a step."""
        speculation = work_of(speculation=DRAFTS).speculation
        steps = steps_of(scenario, batch=2, speculation=speculation)
        assert steps.share == pytest.approx(1 - exp(-0.4375))
        assert steps.quiet.group_tokens == 6
        assert steps.tokens == 3.5

    def test_a_full_server_waits_long_but_not_for_ever(self, scenario):
        """24 sequences of 8 steps bring the 3 prompts that a step can take."""
        steps = steps_of(scenario, batch=24)
        assert 1e6 < steps.waits < 1e12

    def test_buffers_are_for_as_many_prompts_as_fit_not_for_the_mean(self, scenario):
        """4 sequences and the 3 prompts of 20 tokens that a step of 64 takes; 1.27 on average."""
        steps = steps_of(scenario, batch=4)
        assert steps.fullest.prompt_parts == 3
        assert steps.fullest.group_tokens == 4 + 3 * 20
        assert steps.loaded.prompt_parts < 3


@pytest.mark.parametrize(
    ("length", "chunk", "chunks", "expected"),
    [
        (20, 64, 1, 3),
        (64, 64, 1, 1),
        (150, 64, 3, 1),
        (150, 64, 6, 2),
        (150, 64, 7, 2),
        (1, 64, 1, 64),
    ],
)
def test_parts_that_fit_in_a_step(length, chunk, chunks, expected):
    """150 tokens in 6 parts of 25: 64 / 25 = 2; in 7 of 22 (the longest): 2."""
    work = work_of(input_tokens=length, prefill_chunk_tokens=chunk)
    assert parts_per_step(work, np.array([chunks])) == expected


@pytest.mark.parametrize(
    ("fields", "chunks", "expected"),
    [
        # prompts of 20: 3 of them fit, unless fewer sequences may run
        ({"phase": "prefill", "output_tokens": None, "prefill_chunk_tokens": 64}, 1, 3),
        (
            {
                "phase": "prefill", "output_tokens": None, "prefill_chunk_tokens": 64,
                "max_batch_sequences": 2,
            },
            1,
            2,
        ),
        # parts of one prompt at a time
        ({"phase": "prefill", "output_tokens": None, "prefill_chunk_tokens": 64}, 2, 1),
        ({"phase": "decode", "max_batch_sequences": 5}, 1, 5),
        # 3 prompts a step, one for every 8 steps of a sequence: 24 would fill every step
        ({"prefill_chunk_tokens": 64}, 1, 23),
        ({"prefill_chunk_tokens": 64, "max_batch_sequences": 5}, 1, 5),
        # and with 1.75 tokens a step: 13.7
        ({"prefill_chunk_tokens": 64, "speculation": DRAFTS}, 1, 13),
        # 3 parts a request and one a step: 8 / 3
        ({"input_tokens": 150, "prefill_chunk_tokens": 64}, 3, 2),
        # one token of output comes with the prompt: no steps of its own, counted as one
        ({"output_tokens": 1, "prefill_chunk_tokens": 64}, 1, 2),
        ({"input_tokens": 150, "output_tokens": 2, "prefill_chunk_tokens": 64}, 3, 0),
    ],
)  # fmt: skip
def test_the_largest_batch_worth_a_thought(fields, chunks, expected):
    assert most_sequences(work_of(**fields), np.array([chunks])).tolist() == [expected]


@given(
    length=st.integers(1, 500),
    output=st.integers(1, 100),
    chunk=st.integers(1, 300),
    chunks=st.integers(1, 4),
)
def test_the_largest_batch_is_the_last_whose_prompts_keep_up(length, output, chunk, chunks):
    work = work_of(
        input_tokens=length, output_tokens=output, prefill_chunk_tokens=chunk,
        max_batch_sequences=65_536,
    )  # fmt: skip
    chunks *= work.fewest_chunks
    most = int(most_sequences(work, np.array([chunks]))[0])
    fits = chunk // -(-length // chunks) or 1  # parts that a step takes
    steps = max(output - 1, 1)
    assert most * chunks < fits * steps <= (most + 1) * chunks
