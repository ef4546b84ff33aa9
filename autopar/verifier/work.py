"""What one step of a stage works on, dealt to its attention groups, and how often it is taken.

A group is tp * cp GPUs that share their sequences; a context rank of it is the tp GPUs that hold
the same tokens. A stage takes its micro-batches in turn, one step each.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autopar.problem import Plan, Stage
from autopar.specs import Workload

FloatArray = NDArray[np.float64]

# Tokens of a page of keys and values: vLLM `--block-size`, its default on CUDA GPUs
PAGE_TOKENS = 16
_FLOAT = 1e-12  # relative; the float error of a rate of arrivals
_FULL = 1 - 1e-9  # steps that are filled to the last part would let a queue grow for ever


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One step of one stage; arrays have shape (groups,).

    prompt_tokens: new tokens of prompts, in prompt_parts prompts or chunks of them, of which
    prompt_ends reach their last token (a mean). prompt_length: tokens of one whole prompt.
    prompt_keys: tokens, cached and new, whose keys the prompts read.
    sequences: running ones; each has `queries` tokens in the step and sees `context` keys on one
    context rank.
    stage_tokens: of all groups together.
    """

    cp: int
    prompt_tokens: FloatArray
    prompt_parts: FloatArray
    prompt_ends: FloatArray
    prompt_keys: FloatArray
    prompt_length: int
    sequences: FloatArray
    queries: int
    context: int
    stage_tokens: float

    @property
    def query_tokens(self) -> FloatArray:
        """Tokens of running sequences."""
        return self.sequences * self.queries

    @property
    def group_tokens(self) -> FloatArray:
        """Tokens of a group."""
        return self.prompt_tokens + self.query_tokens

    @property
    def rank_tokens(self) -> FloatArray:
        """Tokens of a context rank."""
        return np.ceil(self.group_tokens / self.cp)

    @property
    def logit_rows(self) -> FloatArray:
        """Tokens whose logits are computed."""
        return self.prompt_ends + self.query_tokens

    def halved(self) -> "Turn":
        """Return one of the two equal halves that a turn is cut into."""
        return replace(
            self,
            prompt_tokens=self.prompt_tokens / 2,
            prompt_parts=self.prompt_parts / 2,
            prompt_ends=self.prompt_ends / 2,
            prompt_keys=self.prompt_keys / 2,
            sequences=self.sequences / 2,
            stage_tokens=self.stage_tokens / 2,
        )

    def next_drafts(self) -> "Turn":
        """Return a turn of one token for every sequence that has its first one by then."""
        none, sequences = np.zeros_like(self.sequences), self.sequences + self.prompt_ends
        return replace(
            self,
            prompt_tokens=none,
            prompt_parts=none,
            prompt_ends=none,
            prompt_keys=none,
            sequences=sequences,
            queries=1,
            stage_tokens=float(sequences.sum()),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The steps of one stage and the weights that make metrics of their times.

    tick, passing: one weight per turn; the weighted sums of a stage's times are the mean time
    between two of its steps, and what it adds to the time from a request's start to its first token
    (one step, where no prompts are worked on). fullest: the turn with most tokens, whose buffers
    must have room.
    kept_tokens: tokens whose keys one context rank keeps in a layer without a window, with all
    their kept_sequences; shape (groups,).
    tokens: what all groups together produce in one step.
    """

    turns: tuple[Turn, ...]
    tick: FloatArray
    passing: FloatArray
    kept_tokens: FloatArray
    kept_sequences: FloatArray
    tokens: float
    fullest: Turn


def work_of(workload: Workload, plan: Plan, stage: Stage) -> Work:
    """Return the work of one stage of a plan; the batch of the plan counts if it is open."""
    if not workload.is_open:
        given = _given_prefill if workload.is_prefill else _given_decode
        return given(workload, plan.pp, stage)
    if workload.is_prefill:
        return _prompts(workload, plan, stage)
    running = _running(workload, plan, stage)
    return running if workload.phase == "decode" else _with_prompts(workload, plan, stage, running)


def tokens_gained(workload: Workload) -> float:
    """Mean tokens that a running sequence gains in one step."""
    return 1.0 if workload.speculation is None else workload.speculation.tokens_per_step


def prompts_of_batch(workload: Workload) -> int:
    """Return the prompts of a given batch, the last of which may be cut short."""
    batch = workload.batch_tokens or 0
    return _up(batch, min(workload.sequence_tokens or batch, batch))


def largest_batch(workload: Workload, chunks: int) -> tuple[int, str]:
    """Return the most sequences of a group and micro-batch that a scheduler takes, and why.

    chunks: parts in which each prompt is computed.
    """
    most, fit = workload.max_batch_sequences, _fit(workload, chunks)
    why = "max_batch_sequences"
    if workload.phase == "decode":
        return most, why
    if workload.is_prefill and chunks > 1:
        return 1, f"a step takes one of the {chunks} parts of a prompt"
    if workload.is_prefill:
        limit, other = fit, f"a step takes {workload.prefill_chunk_tokens:,} tokens of prompts"
    else:
        limit = math.floor(fit / _arrivals(workload, chunks, 1) * (1 - _FLOAT))
        other = "beyond that, prompts arrive as fast as the steps can take them"
    return (most, why) if most <= limit else (limit, other)


def _given_prefill(workload: Workload, pp: int, stage: Stage) -> Work:
    """Deal whole prompts to the groups; a batch keeps its keys until the last stage is done."""
    batch = workload.batch_tokens or 0
    length = min(workload.sequence_tokens or batch, batch)
    prompts = _dealt(prompts_of_batch(workload), stage.attn_dp)
    tokens = np.minimum(prompts * length, batch)
    turn = replace(
        _idle(stage),
        prompt_tokens=tokens,
        prompt_parts=prompts,
        prompt_ends=prompts,
        prompt_keys=tokens,
        prompt_length=length,
        stage_tokens=float(batch),
    )
    return Work(
        turns=(turn,),
        fullest=turn,
        tick=np.ones(1),
        passing=np.ones(1),
        kept_tokens=pp * np.ceil(tokens / stage.cp),
        kept_sequences=pp * prompts,
        tokens=float(batch),
    )


def _given_decode(workload: Workload, pp: int, stage: Stage) -> Work:
    """Running sequences take turns in pp micro-batches, and all of them keep their keys."""
    batch, context = workload.batch_sequences or 0, _up(workload.sequence_tokens or 1, stage.cp)
    at_once = _up(batch, pp)
    kept = _dealt(batch, stage.attn_dp)
    turn = replace(
        _idle(stage),
        sequences=_dealt(at_once, stage.attn_dp),
        context=context,
        stage_tokens=float(at_once),
    )
    return Work(
        turns=(turn,),
        fullest=turn,
        tick=np.ones(1),
        passing=np.ones(1),
        kept_tokens=kept * context,
        kept_sequences=kept,
        tokens=batch / pp,  # all micro-batches together give every sequence one token
    )


def _prompts(workload: Workload, plan: Plan, stage: Stage) -> Work:
    """Each group takes `batch` prompts into a step, or a chunk of one that is longer."""
    turn = _taking(_idle(stage), workload, plan, plan.batch)
    kept = plan.pp * turn.prompt_parts
    return Work(
        turns=(turn,),
        fullest=turn,
        tick=np.ones(1),
        passing=np.full(1, _passes(plan) * (1 + workload.prompts_ahead)),
        kept_tokens=kept * _up(_paged(workload.input_tokens or 1), stage.cp),
        kept_sequences=kept,
        tokens=turn.stage_tokens,
    )


def _running(workload: Workload, plan: Plan, stage: Stage) -> Work:
    """Each group runs `batch` sequences in a step; on average half of their output is done."""
    length, output = workload.input_tokens or 1, workload.output_tokens or 1
    sequences = np.full(stage.attn_dp, float(plan.batch))
    drafts = 0 if workload.speculation is None else workload.speculation.draft_tokens
    turn = replace(
        _idle(stage),
        sequences=sequences,
        queries=1 + drafts,
        context=_up(2 * length + output, 2 * stage.cp),
        stage_tokens=float(sequences.sum()) * (1 + drafts),
    )
    kept = plan.pp * sequences
    return Work(
        turns=(turn,),
        fullest=turn,
        tick=np.ones(1),
        passing=np.ones(1),
        kept_tokens=kept * _up(_paged(length + output), stage.cp),
        kept_sequences=kept,
        tokens=float(sequences.sum()) * tokens_gained(workload),
    )


def _with_prompts(workload: Workload, plan: Plan, stage: Stage, running: Work) -> Work:
    """Mix prompts into the steps of running sequences, at the rate at which these end.

    Parts of prompts come to the steps of a micro-batch at random, `arrivals` to a step on average,
    at most `fit` at once. So a step has none with probability exp(-arrivals), and one that has any
    has arrivals / (1 - exp(-arrivals)) of them, as long as these fit. All stages wait for the one
    that works on a prompt. The c parts of one follow each other through the stages, so that some
    stage is at work on them for c + pp - 1 steps: each start of a part makes (c + pp - 1) / c.
    A prompt waits for half of the step under way and for those before it, the queue of a server
    with equal service times (M/D/1; Kleinrock 1975, "Queueing Systems", vol. 1, section 5.5).
    """
    chunks, fit = plan.chunks, _fit(workload, plan.chunks)
    arrivals = _arrivals(workload, chunks, plan.batch)
    parts = min(max(arrivals / -math.expm1(-arrivals), 1.0), float(fit))
    share = 1 - (1 - min(arrivals / parts, 1.0)) ** ((chunks + plan.pp - 1) / chunks)
    filled = min(arrivals / fit, _FULL)
    waits = 0.5 + chunks / fit * filled / (2 * (1 - filled))
    tick = np.array([1 - share, share])
    request = (workload.input_tokens or 1) + (workload.output_tokens or 1)
    prompts = plan.pp * math.ceil(parts)  # those in progress keep their keys too
    first_token = np.array([0.0, _passes(plan) * (1 + workload.prompts_ahead)])
    return Work(
        turns=(running.turns[0], _taking(running.turns[0], workload, plan, parts)),
        fullest=_taking(running.turns[0], workload, plan, float(fit)),
        tick=tick,
        passing=waits * tick + first_token,
        kept_tokens=running.kept_tokens + prompts * _up(_paged(request), stage.cp),
        kept_sequences=running.kept_sequences + prompts,
        tokens=running.tokens,
    )


def _taking(turn: Turn, workload: Workload, plan: Plan, count: float) -> Turn:
    """Return a turn in which every group also takes `count` prompts, or parts of prompts.

    Part i of c reads the keys of i parts, (c + 1) / 2 of them on average.
    """
    length, chunks = workload.input_tokens or 1, plan.chunks
    parts = np.full(len(turn.sequences), float(count))
    taking = replace(
        turn,
        prompt_tokens=parts * (length / chunks),
        prompt_parts=parts,
        prompt_ends=parts / chunks,
        prompt_keys=parts * (length / chunks) * ((chunks + 1) / 2),
        prompt_length=length,
    )
    return replace(taking, stage_tokens=float(taking.group_tokens.sum()))


def _idle(stage: Stage) -> Turn:
    none = np.zeros(stage.attn_dp)
    return Turn(
        cp=stage.cp,
        prompt_tokens=none,
        prompt_parts=none,
        prompt_ends=none,
        prompt_keys=none,
        prompt_length=0,
        sequences=none,
        queries=1,
        context=0,
        stage_tokens=0.0,
    )


def _arrivals(workload: Workload, chunks: int, sequences: int) -> float:
    """Parts of prompts that come to one step in which so many sequences run.

    A request needs its prompt once in the steps that its output takes, the first token apart.
    """
    steps = max((workload.output_tokens or 1) - 1, 1) / tokens_gained(workload)
    return sequences * chunks / steps


def _passes(plan: Plan) -> float:
    """Times through all stages that a prompt needs in all its parts, which follow each other.

    The last part starts after the others have left the first stage, one of pp that count as equal.
    """
    return 1 + (plan.chunks - 1) / plan.pp


def _fit(workload: Workload, chunks: int) -> int:
    """Return how many prompts, or parts of them, one step takes."""
    return max(1, workload.prefill_chunk_tokens // _up(workload.input_tokens or 1, chunks))


def _paged(tokens: int) -> int:
    return _up(tokens, PAGE_TOKENS) * PAGE_TOKENS


def _dealt(count: int, places: int) -> FloatArray:
    """Deal `count` things over `places` as evenly as can be, the first ones get the rest."""
    return count // places + np.less(np.arange(places), count % places).astype(np.float64)


def _up(value: int, divisor: int) -> int:
    return -(-value // divisor)
