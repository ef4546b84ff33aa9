"""The analytic model computed a second time, pair by pair, in scalars; and what it must obey.

What a step works on, and what each operation is asked for, is written down again here; the time of
one operation is the package's own.
"""

from dataclasses import fields
from math import ceil, exp

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopar.costs.analytic import AnalyticCosts
from autopar.costs.operations import kernels
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.costs.operations.parts import RUNTIME_RESERVE_BYTES
from autopar.costs.operations.precisions import precision_bytes
from autopar.errors import SpecError
from autopar.problem import Candidate, Candidates, StageCosts

many = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def costs_of(scenario, candidate, first, stop):
    pair = Candidates.of([candidate])
    return AnalyticCosts(scenario).stage_costs(pair, np.array([first]), np.array([stop]))


class Work:
    """One step in scalars: t tokens of a group, r of a rank, m of a stage; see `Reference`."""

    def __init__(self, c, d, *, tokens=0.0, prompts=0.0, parts=0.0, seen=0.0, keys=0.0,
                 running=0.0, queries=1.0, context=0.0, stage=None):  # fmt: skip
        self.tokens, self.prompts, self.parts, self.seen = tokens, prompts, parts, seen
        self.keys, self.running, self.queries, self.context = keys, running, queries, context
        self.t = tokens + running * queries
        self.r = ceil(self.t / c.cp)
        self.m = self.t * d if stage is None else stage
        self.logits = prompts + running * queries


class Reference:
    """One stage in scalars."""

    def __init__(self, scenario, candidate, first, stop):
        self.scenario, self.c = scenario, candidate
        self.arch, self.work = scenario.llm.architecture, scenario.workload
        self.layers = self.arch.layer_sequence[first:stop]
        self.first, self.last = first == 0, stop == self.arch.num_layers
        self.d = candidate.stage_attn_dp(stop - first)
        self.gpus = candidate.tp * candidate.cp * self.d
        self.net, self.gpu = Network.of(scenario.cluster), Device.of(scenario.cluster.gpu)
        self.steps()

    def steps(self):
        """Set quiet and loaded steps, share of long turns, passes, waits, what stays, output."""
        c, d, w = self.c, self.d, self.work
        self.quiet = self.loaded = None
        self.share, self.passes, self.waits, self.gain = 1.0, 1.0, 0.0, 1.0
        if not w.is_open and w.phase == "prefill":
            total, q = w.batch_tokens, min(w.sequence_tokens, w.batch_tokens)
            n = ceil(ceil(total / q) / d)
            t = min(n * q, total)
            self.loaded = Work(c, d, tokens=t, prompts=n, parts=n, seen=q, keys=t, stage=total)
            self.kept, self.sequences, self.out = c.pp * ceil(t / c.cp), c.pp * n, total
        elif not w.is_open:
            turn, keys = ceil(w.batch_sequences / c.pp), ceil(w.sequence_tokens / c.cp)
            self.quiet = Work(c, d, running=ceil(turn / d), context=keys, stage=turn)
            self.sequences = ceil(w.batch_sequences / d)
            self.kept, self.out = self.sequences * keys, w.batch_sequences / c.pp
        else:
            self.open_steps()

    def open_steps(self):
        c, d, w = self.c, self.d, self.work
        n, length, output = c.chunks, w.input_tokens, w.output_tokens or 0
        part, mean_keys = length / n, length * (n + 1) / (2 * n)
        pages = ceil(ceil((length + output) / 16) * 16 / c.cp)
        fit = max(1, w.prefill_chunk_tokens // ceil(length / n))
        self.passes = (n + c.pp - 1) / c.pp * (1 + w.prompts_ahead)
        if w.phase == "prefill":
            self.loaded = Work(
                c, d, tokens=c.batch * part, prompts=c.batch / n, parts=c.batch, seen=length,
                keys=c.batch * mean_keys,
            )  # fmt: skip
            self.sequences, self.out = c.pp * c.batch, c.batch * part * d
            self.kept = self.sequences * pages
            return
        queries = 1.0
        if w.speculation is not None:
            queries += w.speculation.draft_tokens
            self.gain = sum(w.speculation.acceptance**i for i in range(int(queries)))
        running = {
            "running": c.batch, "queries": queries, "context": ceil((length + output / 2) / c.cp)
        }  # fmt: skip
        self.quiet = Work(c, d, **running)
        self.sequences, self.out = c.pp * c.batch, c.batch * self.gain * d
        if w.phase == "serving":
            come = c.batch * n * self.gain / max(output - 1, 1)
            parts = min(max(come / (1 - exp(-come)), 1.0), fit)
            busy, load = min(come / parts, 1.0), min(come / fit, 1 - 1e-9)
            self.loaded = Work(
                c, d, tokens=parts * part, prompts=parts / n, parts=parts, seen=length,
                keys=parts * mean_keys, **running,
            )  # fmt: skip
            self.share = 1 - (1 - busy) ** ((n + c.pp - 1) / n)
            self.waits = 0.5 + n / fit * load / (2 * (1 - load))
            self.sequences = c.pp * (c.batch + ceil(parts))
        else:
            self.passes = 1.0
        self.kept = self.sequences * pages

    def width(self, part):
        return precision_bytes(getattr(self.scenario.llm.precisions, part))

    def gemm(self, rows, i, o, part):
        precision = getattr(self.scenario.llm.precisions, part)
        return float(kernels.gemm_us(rows, i, o, precision, self.gpu))

    def ffn(self, s, size, matrices):
        precision = self.scenario.llm.precisions.feed_forward
        h = self.arch.hidden_size
        return float(kernels.feed_forward_us(s.r, h, size, matrices, precision, self.gpu))

    def sum_over_tp(self, s):
        return float(self.net.all_reduce_us(s.r * self.arch.hidden_size * 2, self.c.tp))

    def seen(self, s, window):
        """Mean keys that a token of a prompt sees: token i min(i, window) of them."""
        length = int(s.seen)
        window = min(window or length, length)
        return (window * (window + 1) / 2 + (length - window) * window) / length if length else 0.0

    def prompt_scores(self, s, window, keys, **shapes):
        return float(
            kernels.prefill_attention_us(
                s.tokens / self.c.cp, self.seen(s, window), keys, device=self.gpu, **shapes
            )
        )

    def attention(self, a, s):
        mixers = {"gqa": self.grouped, "mla": self.latent, "linear": self.linear}
        return mixers[a.kind](a, s) + self.sum_over_tp(s)

    def grouped(self, a, s):
        c, h, d = self.c, self.arch.hidden_size, a.head_dim
        v = a.v_head_dim or d
        heads, kv = ceil(a.num_heads / c.tp), ceil(a.num_kv_heads / c.tp)
        shapes = {
            "kv_heads": kv, "qk_head_dim": d, "v_head_dim": v,
            "kv_precision": self.scenario.llm.precisions.kv_cache,
        }  # fmt: skip
        keys, context = s.keys, s.context
        if a.window_tokens:
            keys = min(keys, s.tokens + s.parts * a.window_tokens)
            context = min(context, ceil(a.window_tokens / c.cp))
        columns = heads * (d + v * a.gates_output) + kv * (d if a.keys_are_values else d + v)
        time = self.gemm(s.r, h, columns, "attention")
        time += self.prompt_scores(s, a.window_tokens, keys, heads=heads, **shapes)
        time += float(
            kernels.decode_attention_us(
                s.running, context, heads=heads * s.queries, device=self.gpu, **shapes
            )
        )
        time += self.over_cp(s, kv * (d + v), heads * v)
        return time + self.gemm(s.r, heads * v, h, "attention")

    def over_cp(self, s, cached, result):
        if self.c.cp == 1:
            return 0.0
        apart = self.c.cp, self.c.tp  # ranks of tp neighbours each
        time = float(self.net.all_gather_us(s.tokens * cached * 2, *apart))
        return time + float(self.net.all_reduce_us(s.running * s.queries * result * 2, *apart))

    def latent(self, a, s):
        c, h, p = self.c, self.arch.hidden_size, "attention"
        heads, rank, kv = ceil(a.num_heads / c.tp), a.q_lora_rank or 0, a.kv_lora_rank
        nope, rope, v = a.qk_nope_head_dim, a.qk_rope_head_dim, a.v_head_dim
        n = s.running * s.queries
        precision = self.scenario.llm.precisions.kv_cache
        time = self.gemm(s.r, h, rank + kv + rope, p)
        time += self.gemm(s.r, rank or h, heads * (nope + rope), p)
        time += self.gemm(s.keys, kv, heads * (nope + v), p)
        time += self.gemm(n, heads * nope, kv, p) + self.gemm(n, heads * v, kv, p)
        time += self.prompt_scores(
            s, a.index_tokens, s.keys, heads=heads, kv_heads=heads, qk_head_dim=nope + rope,
            v_head_dim=v, kv_precision=precision,
        )  # fmt: skip
        context = s.context
        if a.index_tokens:
            context = min(context, ceil(a.index_tokens / c.cp))
        time += float(
            kernels.latent_decode_attention_us(
                s.running, context, heads=heads * s.queries, latent_dim=kv, rope_dim=rope,
                kv_precision=precision, device=self.gpu,
            )
        )  # fmt: skip
        if a.index_heads:
            shapes = {
                "kv_heads": 1, "qk_head_dim": a.index_head_dim, "v_head_dim": 0,
                "kv_precision": "fp8",
            }  # fmt: skip
            time += self.gemm(s.r, rank or h, a.index_heads * a.index_head_dim, p)
            time += self.prompt_scores(s, None, s.keys, heads=a.index_heads, **shapes)
            time += float(
                kernels.decode_attention_us(
                    s.running, s.context, heads=a.index_heads * s.queries, device=self.gpu, **shapes
                )
            )
        time += self.over_cp(s, kv + rope, heads * kv)
        return time + self.gemm(s.r, heads * v, h, p)

    def linear(self, a, s):
        h, tp = self.arch.hidden_size, self.c.tp
        mix = kernels.linear_attention_us(
            s.t, s.running + s.parts, state_elements=ceil(a.state_elements / tp), device=self.gpu
        )
        columns = ceil(a.input_columns / tp)
        time = self.gemm(s.r, h, columns, "attention") + float(mix)
        time += float(self.net.all_gather_us(s.t * columns * 2, self.c.cp, tp))
        return time + self.gemm(s.r, ceil(a.output_rows / tp), h, "attention")

    def feed_forward(self, f, s):
        if f.kind == "dense":
            time = self.ffn(s, ceil(f.ffn_size / self.c.tp), f.num_matrices)
            return time + self.sum_over_tp(s)
        c, h = self.c, self.arch.hidden_size
        held, precision = ceil(f.num_experts / c.ep), self.scenario.llm.precisions.experts
        copies = min(f.experts_per_token, c.ep)
        arrive = min(s.m * held / f.num_experts * copies, s.m)
        experts = float(
            kernels.routed_experts_us(
                s.m, held, num_experts=f.num_experts, experts_per_token=f.experts_per_token,
                law=self.work.expert_load, hidden_size=f.latent_size or h,
                ffn_size=ceil(f.expert_size / c.etp), num_matrices=f.num_matrices,
                precision=precision, device=self.gpu, sorted_tokens=arrive,
            )
        )  # fmt: skip
        time = self.gemm(s.r, h, f.num_experts, "embeddings") + experts
        if f.latent_size:
            time += self.gemm(s.r, 2 * h, f.latent_size, "feed_forward")
        places, row = self.d * c.cp, (f.latent_size or h) * 2
        if places == 1:
            whole = h * 2 if f.shared_size else row  # shared experts work on the full width
            time += float(self.net.all_reduce_us(s.m * whole, self.gpus))
        else:
            sent = s.r * copies
            out = row / 2 if precision in ("fp8", "fp8_block", "nvfp4") else row
            there = max(sent * c.etp / c.tp, arrive) * out
            back = max(sent, arrive * c.tp / c.etp) * row
            time += float(self.net.all_to_all_us(there, places, self.gpus, copies))
            time += float(self.net.all_reduce_us(arrive * row, c.etp))
            time += float(self.net.all_to_all_us(back, places, self.gpus, copies))
        if f.shared_size:
            time += self.ffn(s, ceil(f.shared_size / c.tp), f.num_matrices)
            time += self.sum_over_tp(s) if places > 1 else 0.0
        return time

    def layer(self, kind, s):
        norm = float(kernels.elementwise_us(s.r * self.arch.hidden_size * 8, self.gpu))
        attention, part = self.arch.attention_of(kind), self.arch.feed_forward_of(kind)
        time = 0.0 if attention is None else norm + self.attention(attention, s)
        return time + (0.0 if part is None else norm + self.feed_forward(part, s))

    def head(self, s):
        vocab, h = self.arch.vocab_size, self.arch.hidden_size
        gather = float(self.net.all_gather_us(s.logits * vocab * 2, self.c.tp))
        return self.gemm(s.logits, h, ceil(vocab / self.c.tp), "embeddings") + gather

    def step_us(self, s):
        """Time of the stage in one step."""
        h = self.arch.hidden_size
        time = sum(self.layer(kind, s) for kind in self.layers)
        if self.first:
            time += float(kernels.elementwise_us(s.r * h * 4, self.gpu))
        if not self.last:
            return time + float(self.net.point_to_point_us(s.r * h * 2, 2 * self.gpus))
        drafts, spoken = self.arch.next_token_prediction, self.work.speculation
        time += self.head(s)
        if spoken is not None:
            each = Work(self.c, self.d, running=s.running + s.prompts, context=s.context)
            for number in range(spoken.draft_tokens):
                taken = s if number < drafts.count else each
                time += self.layer(drafts.layer, taken) + self.head(each)
                time += self.gemm(taken.r, 2 * h, h, "feed_forward")
        return time

    def times_us(self):
        """Between two steps, and what the stage adds to the first token."""
        quiet = None if self.quiet is None else self.step_us(self.quiet)
        loaded = None if self.loaded is None else self.step_us(self.loaded)
        if loaded is None:
            return quiet, quiet
        tick = loaded if quiet is None else quiet + self.share * (loaded - quiet)
        return tick, self.passes * loaded + self.waits * tick


@many
@given(data=st.data())
def test_every_time_agrees_with_a_second_computation(
    data, analytic_scenario, architectures, works, layouts
):
    """Layers of several kinds, every phase, all precisions."""
    precisions = {
        part: data.draw(st.sampled_from(["bf16", "fp8", "fp8_block", "int4", "mxfp4"]))
        for part in ("attention", "feed_forward", "experts", "embeddings", "kv_cache")
    }
    scenario = analytic_scenario(
        architecture=data.draw(architectures(4, data.draw(st.sampled_from([64, 1000])))),
        precisions=precisions,
        **data.draw(works),
    )
    c = data.draw(layouts(scenario))
    first = data.draw(st.integers(0, scenario.llm.num_layers - 1))
    stop = data.draw(st.integers(first + 1, scenario.llm.num_layers))
    costs = costs_of(scenario, c, first, stop)
    reference = Reference(scenario, c, first, stop)
    tick_us, passing_us = reference.times_us()
    assert costs.time_us[0] == pytest.approx(passing_us, rel=1e-11)
    rate = c.replicas * reference.out / tick_us * 1e6
    assert costs.tokens_per_s[0] == pytest.approx(rate, rel=1e-11)
    assert costs.reserved_bytes[0] == RUNTIME_RESERVE_BYTES
    if scenario.workload.phase == "prefill":
        assert costs.tpot_us is None
    else:
        assert costs.tpot_us[0] == pytest.approx(c.pp * tick_us / reference.gain, rel=1e-11)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_table_is_its_pairs_one_by_one(data, analytic_scenario, architectures, works, layouts):
    scenario = analytic_scenario(architecture=data.draw(architectures(5)), **data.draw(works))
    rows = data.draw(st.lists(layouts(scenario), min_size=2, max_size=6))
    layers = scenario.llm.num_layers
    first = np.array([data.draw(st.integers(0, layers - 1)) for _ in rows])
    stop = np.array([data.draw(st.integers(f + 1, layers)) for f in first.tolist()])
    table = AnalyticCosts(scenario).stage_costs(Candidates.of(rows), first, stop)
    for i, row in enumerate(rows):
        one = costs_of(scenario, row, int(first[i]), int(stop[i]))
        assert one.time_us[0] == table.time_us[i]
        assert one.tokens_per_s[0] == table.tokens_per_s[i]
        assert one.memory_bytes[0] == table.memory_bytes[i]


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_was_worked_out_ahead_is_what_each_row_has(
    data, analytic_scenario, architectures, works, layouts
):
    """Bit for bit: a rounding apart, an optimum might not be found again."""
    scenario = analytic_scenario(architecture=data.draw(architectures(5)), **data.draw(works))
    rows = Candidates.of([data.draw(layouts(scenario)) for _ in range(4)])
    ahead, alone = AnalyticCosts(scenario), AnalyticCosts(scenario)
    ahead.look_ahead(rows)
    num_layers = scenario.llm.num_layers
    first, stop = (edge.astype(np.int64) for edge in np.triu_indices(num_layers))
    for index in range(len(rows)):
        one = rows.take(np.full(len(first), index))
        with_it, without = (m.stage_costs(one, first, stop + 1) for m in (ahead, alone))
        for field in fields(StageCosts):
            a, b = getattr(with_it, field.name), getattr(without, field.name)
            assert (a is None and b is None) or (a == b).all(), field.name


def test_one_row_with_many_segments_is_a_table_too(analytic_scenario):
    """One candidate's pieces are computed once and remembered, whatever is asked in between."""
    model = AnalyticCosts(analytic_scenario(num_layers=5))
    rows = [Candidate(1, 2, 1, 1, 3, 3, 1, 1), Candidate(1, 2, 1, 1, 6, 3, 1, 2)]
    first, stop = (a.astype(np.int64) for a in np.triu_indices(5))
    for row in (*rows, *rows):
        many_at_once = Candidates.of([row] * len(first))
        found = model.stage_costs(many_at_once, first, stop + 1)
        for i in range(len(first)):
            one = costs_of(analytic_scenario(num_layers=5), row, first[i], stop[i] + 1)
            assert one.time_us[0] == found.time_us[i]
            assert one.memory_bytes[0] == found.memory_bytes[i]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), phase=st.sampled_from(["prefill", "decode"]), batch=st.integers(1, 2000))
def test_more_work_is_never_faster(data, phase, batch, analytic_scenario, layouts):
    def time_us(**sizes):
        scenario = analytic_scenario(phase=phase, **({"batch": batch} | sizes))
        return costs_of(scenario, candidate, 1, 3).time_us[0]

    candidate = data.draw(layouts(analytic_scenario(phase=phase, batch=batch)))
    base_us = time_us()
    assert time_us(batch=batch + 7) >= base_us
    assert time_us(batch=2 * batch) >= base_us
    assert time_us(num_shared_experts=1) > base_us
    if phase == "decode":  # longer prompts of the same batch may spread better over the groups
        assert time_us(sequence_tokens=30) >= base_us


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_better_hardware_is_never_slower(data, analytic_scenario, architectures, works, layouts):
    sizes = {"architecture": data.draw(architectures(3)), **data.draw(works)}
    scenario = analytic_scenario(**sizes)
    candidate = data.draw(layouts(scenario))
    slow, fast = (
        costs_of(built, candidate, 0, scenario.llm.num_layers)
        for built in (scenario, analytic_scenario(**sizes, bandwidth=2.0))
    )
    assert fast.time_us[0] <= slow.time_us[0]
    assert fast.tokens_per_s[0] >= slow.tokens_per_s[0]
    assert fast.memory_bytes[0] == slow.memory_bytes[0]


def test_a_second_expert_grid_costs_time_because_only_one_works(analytic_scenario):
    """16 GPUs, 8 attention groups: one grid of 16 (etp 2 x ep 8) against two of 8 (ep 8)."""
    scenario = analytic_scenario(num_experts=8, phase="prefill", batch=80_000, sequence_tokens=1000)
    one = costs_of(scenario, Candidate(1, 1, 1, 1, 16, 8, 2, 1), 0, 4)
    two = costs_of(scenario, Candidate(1, 1, 1, 1, 16, 8, 1, 2), 0, 4)
    assert two.time_us[0] > one.time_us[0]
    assert two.weights_bytes[0] == one.weights_bytes[0]  # half the layers, twice the width


def test_replicas_multiply_the_rate_and_nothing_else(analytic_scenario):
    scenario = analytic_scenario()
    one = costs_of(scenario, Candidate(1, 2, 2, 1, 3, 3, 2, 1), 0, 2)
    three = costs_of(scenario, Candidate(3, 2, 2, 1, 3, 3, 2, 1), 0, 2)
    assert three.tokens_per_s[0] == pytest.approx(3 * one.tokens_per_s[0])
    assert three.time_us[0] == one.time_us[0]
    assert three.memory_bytes[0] == one.memory_bytes[0]


def without(spec, **fields):
    return spec.model_copy(update=fields)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("llm", "architecture"),
        ("cluster", "links"),
        ("cluster.gpu", "memory_bandwidth_bytes_per_s"),
    ],
)
def test_what_the_model_needs_and_the_scenario_lacks_is_named(part, field, analytic_scenario):
    scenario = analytic_scenario()
    if part == "cluster.gpu":
        gpu = without(scenario.cluster.gpu, **{field: None})
        changed = without(scenario, cluster=without(scenario.cluster, gpu=gpu))
    else:
        changed = without(scenario, **{part: without(getattr(scenario, part), **{field: None})})
    with pytest.raises(SpecError, match=rf"^{part}\.{field}: missing.*'analytic'"):
        AnalyticCosts(changed)


@pytest.mark.parametrize(
    ("sizes", "said", "unsaid"),
    [
        ({"phase": "prefill"}, "a prompt is not split", "TTFT is a mean"),
        ({"phase": "decode"}, "experts are taken as evenly loaded", "a prompt is not split"),
        ({"phase": "serving", "input_tokens": 20}, "TTFT is a mean", "a prompt is not split"),
        ({"num_experts": 0}, "nothing overlaps", "evenly loaded"),
        ({"work": {"expert_load": "power_law_1.2"}}, "nothing overlaps", "evenly loaded"),
    ],
)
def test_notes_say_what_is_left_out(sizes, said, unsaid, analytic_scenario):
    notes = " ".join(AnalyticCosts(analytic_scenario(**sizes)).notes())
    assert said in notes
    assert unsaid not in notes
