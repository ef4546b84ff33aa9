"""What one step of one stage works on, and how often: `docs/model.md`, "Steps".

A stage takes one step for each micro-batch in turn. A *group* is one data-parallel attention group
of tp * cp GPUs; every group works on as much as the others. A *rank* is a context-parallel part of
a group: tp GPUs that hold the same tokens.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from autopar.costs.operations.arrays import real
from autopar.costs.shape import Shape, ceil_div, whole_pages
from autopar.problem import Candidates, FloatArray, IntArray
from autopar.specs import Workload


@dataclass(frozen=True, slots=True)
class Step:
    """The busiest group's part of one step; every array has shape (rows,).

    prompt_*: of the prompts in the step. prompt_keys: cached and new tokens that they read.
    sequences: running ones; each adds `queries` tokens, and sees `context` keys on one rank.
    """

    prompt_tokens: FloatArray
    prompt_parts: FloatArray  # prompts, or chunks of longer ones
    prompts: FloatArray  # that end in this step, and so need logits
    prompt_length: float  # tokens of one prompt, over which its causal context is meant
    prompt_keys: FloatArray
    sequences: FloatArray
    queries: float
    context: FloatArray
    rank_tokens: FloatArray  # of both, on one rank
    stage_tokens: FloatArray  # of all groups

    @property
    def group_tokens(self) -> FloatArray:
        """Tokens of the group."""
        return self.prompt_tokens + self.sequences * self.queries

    @property
    def logit_rows(self) -> FloatArray:
        """Tokens whose logits the head computes."""
        return self.prompts + self.sequences * self.queries

    def half(self, cp: IntArray) -> "Step":
        """Return a step of half as much work in every group, prompts and sequences alike."""
        prompt_tokens, sequences = self.prompt_tokens / 2, self.sequences / 2
        return replace(
            self,
            prompt_tokens=prompt_tokens,
            prompt_parts=self.prompt_parts / 2,
            prompts=self.prompts / 2,
            prompt_keys=self.prompt_keys / 2,
            sequences=sequences,
            rank_tokens=np.ceil((prompt_tokens + sequences * self.queries) / cp),
            stage_tokens=self.stage_tokens / 2,
        )

    def drafting(self, cp: IntArray, groups: FloatArray) -> "Step":
        """Return one more token for each sequence, those whose prompts end in the step too."""
        none = np.zeros_like(self.sequences)
        sequences = self.sequences + self.prompts
        return replace(
            self,
            prompt_tokens=none,
            prompt_parts=none,
            prompts=none,
            prompt_keys=none,
            sequences=sequences,
            queries=1.0,
            rank_tokens=np.ceil(sequences / cp),
            stage_tokens=sequences * groups,
        )


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a workload under each candidate, and the weights that make metrics of them.

    quiet: a step of running sequences alone; None where there are none. loaded: the mean step with
    prompts; None in decode. fullest: the one with most tokens, for which buffers must be large
    enough. All weights have shape (rows,):
    share: of the steps that are as long as a loaded one.
    passes: loaded steps from the start of a prompt to its first token, those that it waits for
    included; waits: mean steps that it waits for besides.
    resident_tokens, resident_sequences: whose cache and state one rank keeps, full length.
    tokens: that all groups of a stage produce in one step (input tokens in prefill).
    """

    quiet: Step | None
    loaded: Step | None
    fullest: Step
    share: FloatArray
    passes: FloatArray
    waits: FloatArray
    resident_tokens: FloatArray
    resident_sequences: FloatArray
    tokens: FloatArray

    @classmethod
    def of(cls, shape: Shape, rows: Candidates, groups: IntArray) -> Self:
        """Return the steps of stages with `groups[i]` attention groups under `rows[i]`."""
        work = shape.workload
        if not work.is_open:
            given = _given_prefill if work.is_prefill else _given_decode
            return cls(**given(shape, rows, groups))
        if work.is_prefill:
            return cls(**_open_prefill(shape, rows, groups))
        return cls(**_open_decode(shape, rows, groups))


def _step(rows: Candidates, groups: IntArray, **parts: Any) -> Step:
    """Return a step; what is not given is 0."""
    zero = np.zeros(len(rows))
    given: dict[str, Any] = {
        "prompt_tokens": zero,
        "prompt_parts": zero,
        "prompts": zero,
        "prompt_length": 0.0,
        "prompt_keys": zero,
        "sequences": zero,
        "queries": 1.0,
        "context": zero,
        **parts,
    }
    tokens = given["prompt_tokens"] + given["sequences"] * given["queries"]
    return Step(
        rank_tokens=np.ceil(tokens / rows.cp),
        stage_tokens=given.pop("stage_tokens", tokens * real(groups)),
        **given,
    )


def _given_prefill(shape: Shape, rows: Candidates, groups: IntArray) -> dict[str, Any]:
    """Prompts of a batch that is given per replica; a prompt stays whole inside its group."""
    work = shape.workload
    batch = work.tokens_per_step
    length = min(work.sequence_tokens or batch, batch)
    prompts = ceil_div(-(-batch // length), groups)
    tokens = np.minimum(prompts * length, batch)
    one, none = np.ones(len(rows)), np.zeros(len(rows))
    step = _step(
        rows,
        groups,
        prompt_tokens=real(tokens),
        prompt_parts=real(prompts),
        prompts=real(prompts),
        prompt_length=float(length),
        prompt_keys=real(tokens),
        stage_tokens=np.full(len(rows), float(batch)),
    )
    return {
        "quiet": None,
        "loaded": step,
        "fullest": step,
        "share": one,
        "passes": one,
        "waits": none,
        # A batch keeps its keys until it has left the last stage: one batch per stage.
        "resident_tokens": real(rows.pp * ceil_div(tokens, rows.cp)),
        "resident_sequences": real(rows.pp * prompts),
        "tokens": np.full(len(rows), float(batch)),
    }


def _given_decode(shape: Shape, rows: Candidates, groups: IntArray) -> dict[str, Any]:
    """Running sequences that are given per replica take turns in pp micro-batches."""
    work = shape.workload
    batch, length = work.tokens_per_step, work.sequence_tokens or 1
    turn = ceil_div(batch, rows.pp)
    sequences = ceil_div(turn, groups)
    context = ceil_div(length, rows.cp)
    one, none = np.ones(len(rows)), np.zeros(len(rows))
    step = _step(
        rows,
        groups,
        sequences=real(sequences),
        context=real(context),
        stage_tokens=real(turn),
    )
    resident = ceil_div(batch, groups)
    return {
        "quiet": step,
        "loaded": None,
        "fullest": step,
        "share": none,
        "passes": one,
        "waits": none,
        "resident_tokens": real(resident * context),
        "resident_sequences": real(resident),
        # Over a whole turn of the pipeline, so that the sequences of all micro-batches count.
        "tokens": batch / real(rows.pp),
    }


def _open_prefill(shape: Shape, rows: Candidates, groups: IntArray) -> dict[str, Any]:
    """`batch` prompts per group and step; a prompt longer than the chunk takes several steps."""
    work = shape.workload
    length, chunks = work.input_tokens or 1, rows.chunks
    tokens = rows.batch * (length / chunks)
    one, none = np.ones(len(rows)), np.zeros(len(rows))
    step = _step(
        rows,
        groups,
        prompt_tokens=real(tokens),
        prompt_parts=real(rows.batch),
        prompts=rows.batch / chunks,
        prompt_length=float(length),
        prompt_keys=rows.batch * (length * (chunks + 1) / (2 * chunks)),
    )
    pages = whole_pages(length)
    return {
        "quiet": None,
        "loaded": step,
        "fullest": step,
        "share": one,
        "passes": _passes(rows) * (1 + work.prompts_ahead),
        "waits": none,
        "resident_tokens": real(rows.pp * rows.batch * ceil_div(pages, rows.cp)),
        "resident_sequences": real(rows.pp * rows.batch),
        "tokens": tokens * real(groups),
    }


def _open_decode(shape: Shape, rows: Candidates, groups: IntArray) -> dict[str, Any]:
    """`batch` running sequences per group and micro-batch, alone or with prompts among them.

    In `serving` a request needs `chunks` parts of its prompt once per `steps` steps of its own, so
    that `arrivals` parts come to a step on average. They come at random: a step finds none with
    probability exp(-arrivals), and as long as fewer than `most` fit, those that find some have
    arrivals / (1 - exp(-arrivals)) of them. A stage works on pp micro-batches in turn and the
    longest holds up the others, so that a turn is long in which any stage works on a prompt: the
    parts of one follow each other through the stages and make chunks + pp - 1 long turns.
    """
    work = shape.workload
    length, output = work.input_tokens or 1, work.output_tokens or 1
    queries = float(shape.queries_per_sequence)
    running = real(rows.batch)
    one, none = np.ones(len(rows)), np.zeros(len(rows))
    # On average half of the output stands in the context.
    context = np.ceil((length + output / 2) / rows.cp)
    alone = {"sequences": running, "queries": queries, "context": context}
    tokens = running * shape.tokens_per_sequence * real(groups)
    pages = ceil_div(whole_pages(length + output), rows.cp)
    quiet = _step(rows, groups, **alone)
    result: dict[str, Any] = {
        "quiet": quiet,
        "loaded": None,
        "fullest": quiet,
        "share": none,
        "passes": one,
        "waits": none,
        "resident_tokens": real(rows.pp) * running * pages,
        "resident_sequences": real(rows.pp) * running,
        "tokens": tokens,
    }
    if work.phase != "serving":
        return result
    chunks, most = rows.chunks, parts_per_step(work, rows.chunks)
    arrivals = running * chunks * shape.tokens_per_sequence / max(output - 1, 1)
    parts = np.clip(arrivals / -np.expm1(-arrivals), 1.0, most)
    busy = np.minimum(arrivals / parts, 1.0)  # of the steps of one micro-batch
    load = np.minimum(arrivals / most, 1 - 1e-9)  # of what its steps can take
    resident = real(rows.pp) * (running + np.ceil(parts))

    return result | {
        "loaded": _mixed(rows, groups, alone, length, parts),
        "fullest": _mixed(rows, groups, alone, length, real(most)),
        "share": 1 - (1 - busy) ** (rows.pp * _passes(rows) / chunks),
        "passes": _passes(rows) * (1 + work.prompts_ahead),
        # Half of the step that is under way, and the mean queue of a server with equal service
        # times (M/D/1: Kleinrock 1975, "Queueing Systems", vol. 1, section 5.5).
        "waits": 0.5 + chunks / most * load / (2 * (1 - load)),
        "resident_tokens": resident * pages,
        "resident_sequences": resident,
    }


def _mixed(
    rows: Candidates, groups: IntArray, alone: dict[str, Any], length: int, count: FloatArray
) -> Step:
    """Return a step of running sequences with so many parts of prompts of `length` tokens."""
    return _step(
        rows,
        groups,
        **alone,
        prompt_tokens=count * (length / rows.chunks),
        prompt_parts=count,
        prompts=count / rows.chunks,
        prompt_length=float(length),
        prompt_keys=count * (length * (rows.chunks + 1) / (2 * rows.chunks)),
    )


def _passes(rows: Candidates) -> FloatArray:
    """Times that the parts of a prompt need, of one part through all stages.

    They follow each other through pp stages that are taken as equally long.
    """
    return (rows.chunks + rows.pp - 1) / real(rows.pp)


def parts_per_step(workload: Workload, chunks: IntArray) -> IntArray:
    """Return how many parts of prompts fit in one step."""
    part = ceil_div(workload.input_tokens or 1, chunks)
    return np.maximum(1, workload.prefill_chunk_tokens // part)


def most_sequences(workload: Workload, chunks: IntArray) -> IntArray:
    """Return the largest batch of a group and micro-batch that is worth a thought.

    In `serving`, prompts must arrive more slowly than the steps can take them: at the same rate
    their queue has no end either.
    """
    most = parts_per_step(workload, chunks)
    if workload.is_prefill:
        return np.where(chunks == 1, np.minimum(most, workload.max_batch_sequences), 1)
    limit = np.full_like(chunks, workload.max_batch_sequences)
    if workload.phase != "serving":
        return limit
    speculation = workload.speculation
    gain = 1.0 if speculation is None else speculation.tokens_per_step
    rate = chunks * gain / max((workload.output_tokens or 1) - 1, 1)
    return np.minimum(limit, np.floor(most / rate * (1 - 1e-12)).astype(np.int64))
