"""The analytic model against docs/model.md computed a second time, pair by pair, in scalars."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopar.costs.analytic import AnalyticCosts
from autopar.costs.operations import collectives, kernels, parts
from autopar.errors import SpecError
from autopar.problem import Candidate, Candidates

GROWS = {"attn_dp": 0, "spread": 0}


def costs_of(scenario, candidate, first, stop):
    pair = Candidates.of([candidate])
    return AnalyticCosts(scenario).stage_costs(pair, np.array([first]), np.array([stop]))


class Reference:
    """One stage, by docs/model.md, in scalars; shares only constants with the package."""

    def __init__(self, scenario, candidate, first, stop):
        self.llm, self.cluster = scenario.llm, scenario.cluster
        self.arch = a = scenario.llm.architecture
        self.c, self.n = candidate, stop - first
        self.first, self.last = first == 0, stop == self.llm.num_layers
        tp, cp = candidate.tp, candidate.cp
        self.d = candidate.stage_attn_dp(self.n)
        self.g = tp * cp * self.d
        work = scenario.workload
        self.prefill = work.phase == "prefill"
        total = work.tokens_per_step
        if self.prefill:
            self.q = min(work.sequence_tokens, total)
            count = math.ceil(total / self.q)
            self.m = total
            self.sequences = math.ceil(count / self.d)
            self.t = min(self.sequences * self.q, total)
            self.resident = candidate.pp * math.ceil(self.t / cp)
        else:
            self.m = math.ceil(total / candidate.pp)
            self.t = self.sequences = math.ceil(self.m / self.d)
            self.keys = math.ceil(work.sequence_tokens / cp)
            self.resident = math.ceil(total / self.d) * self.keys
        self.r = math.ceil(self.t / cp)
        self.heads = math.ceil(a.num_attention_heads / tp)
        self.kv = math.ceil(a.num_key_value_heads / tp)
        self.vocab = math.ceil(a.vocab_size / tp)
        moe = self.llm.num_experts > 0
        self.dense = 0 if moe else math.ceil(a.ffn_hidden_size / tp)
        self.shared = math.ceil(a.num_shared_experts * a.ffn_hidden_size / tp)
        self.fe = math.ceil(a.ffn_hidden_size / candidate.etp) if moe else 0
        if moe:
            self.er = math.ceil(self.llm.num_experts / candidate.ep)
            routed = self.m * self.er / self.llm.num_experts
            self.rows = routed * self.llm.experts_per_token
            self.copies = min(self.llm.experts_per_token, candidate.ep)
            self.x = min(routed * self.copies, self.m)
        else:
            self.er = self.rows = self.copies = self.x = 0

    def kernel(self, flops, size, fraction=kernels.GEMM_FRACTION):
        gpu = self.cluster.gpu
        seconds = max(
            flops / (fraction * gpu.peak_flops_per_s),
            size / (kernels.MEMORY_FRACTION * gpu.memory_bandwidth_bytes_per_s),
        )
        return kernels.KERNEL_START_US + seconds * 1e6 if flops else 0.0

    def gemm(self, rows, i, o, matrices=1):
        size = matrices * i * o * self.llm.bytes_per_parameter + rows * (i + o) * 2
        return self.kernel(2 * rows * i * o, size)

    def ffn(self, rows, width, matrices=1):
        h = self.arch.hidden_size
        return self.gemm(rows, h, 2 * width, matrices) + self.gemm(rows, width, h, matrices)

    def message(self, size, span, steps, share):
        if size == 0:
            return 0.0
        links = self.cluster.links
        link = links.fabric
        if span <= self.cluster.domain_gpus:
            link = links.domain
        if span <= self.cluster.gpus_per_node:
            link = links.node
        rate = collectives.LINK_FRACTION * link.bandwidth_bytes_per_s
        return collectives.COLLECTIVE_START_US + steps * link.latency_us + share * size / rate * 1e6

    def reduce(self, size, p, span=None):
        return self.message(size, span or p, 2 * (p - 1), 2 * (p - 1) / p) if p > 1 else 0.0

    def gather(self, size, p, span=None):
        return self.message(size, span or p, p - 1, (p - 1) / p) if p > 1 else 0.0

    def exchange(self, size, p, span):
        return self.message(size, span, math.ceil(math.log2(p)), (p - 1) / p)

    def attention(self):
        a, c, r, t = self.arch, self.c, self.r, self.t
        h, d, kv_width = a.hidden_size, a.head_dim, self.llm.kv_bytes_per_element
        time = self.gemm(r, h, (self.heads + 2 * self.kv) * d) + self.gemm(r, self.heads * d, h)
        if self.prefill:
            queries, context, keys = r, (self.q + 1) / 2, t
            time += self.gather(2 * t * self.kv * d * kv_width, c.cp, c.tp * c.cp)
        else:
            queries, context, keys = t, self.keys, t * self.keys
            time += self.reduce(t * self.heads * d * 2, c.cp, c.tp * c.cp)
        size = keys * 2 * self.kv * d * kv_width + 2 * queries * self.heads * d * 2
        flops = 4 * queries * context * self.heads * d
        time += self.kernel(flops, size, kernels.ATTENTION_FRACTION)
        return time + self.reduce(r * h * 2, c.tp)

    def feed_forward(self):
        c, h, r = self.c, self.arch.hidden_size, self.r
        if not self.llm.num_experts:
            return self.ffn(r, self.dense) + self.reduce(r * h * 2, c.tp)
        time = self.gemm(r, h, self.llm.num_experts)
        time += self.ffn(self.rows, self.fe, min(self.er, self.rows))
        groups = self.d * c.cp
        if groups == 1:
            time += self.reduce(self.m * h * 2, self.g)
        else:
            sent = r * self.copies
            time += self.exchange(max(sent * c.etp / c.tp, self.x) * h * 2, groups, self.g)
            time += self.reduce(self.x * h * 2, c.etp)
            time += self.exchange(max(sent, self.x * c.tp / c.etp) * h * 2, groups, self.g)
        if self.shared:
            time += self.ffn(r, self.shared) + self.reduce(r * h * 2, c.tp)
        return time

    def time_us(self):
        h = self.arch.hidden_size
        time = self.n * (self.attention() + self.feed_forward())
        if self.last:
            y = self.sequences if self.prefill else self.r
            logits = y * self.arch.vocab_size * 2
            return time + self.gemm(y, h, self.vocab) + self.gather(logits, self.c.tp)
        return time + self.message(self.r * h * 2, 2 * self.g, 1, 1)

    def weights(self):
        a, b = self.arch, self.llm.bytes_per_parameter
        h, total = a.hidden_size, 0
        for _ in range(self.n):
            total += h * a.head_dim * (2 * self.heads + 2 * self.kv) + 2 * h
            total += h * self.llm.num_experts + 3 * h * (self.dense + self.shared)
        per_grid = math.ceil(self.n / self.c.stage_spread(self.n))
        total += per_grid * self.er * 3 * h * self.fe
        total += h * self.vocab if self.first else 0
        if self.last:
            total += h
            total += 0 if self.first and a.shares_embeddings else h * self.vocab
        return total * b

    def kv_cache(self):
        return (
            self.n * self.resident * 2 * self.kv * self.arch.head_dim
        ) * self.llm.kv_bytes_per_element

    def activations(self):
        a, r = self.arch, self.r
        y = self.sequences if self.prefill else r
        largest = max(
            r * (2 * self.heads + 2 * self.kv) * a.head_dim,
            3 * r * (self.dense + self.shared),
            2 * self.x * a.hidden_size + 3 * self.rows * self.fe,
            y * self.vocab if self.last else 0,
        )
        return 2 * (2 * r * a.hidden_size + largest)


@st.composite
def scenarios(draw, build):
    dense = draw(st.booleans())
    prefill = draw(st.booleans())
    return build(
        num_layers=draw(st.integers(1, 6)),
        num_experts=0 if dense else draw(st.integers(2, 8)),
        experts_per_token=draw(st.integers(1, 2)),
        num_shared_experts=draw(st.integers(0, 2)),
        shares_embeddings=draw(st.booleans()),
        phase="prefill" if prefill else "decode",
        batch=draw(st.integers(1, 5000)),
        sequence_tokens=draw(st.integers(1, 3000)),
        bandwidth=draw(st.sampled_from([0.5, 1.0])),
    )


@st.composite
def candidates(draw, scenario):
    """Any candidate whose two grids tile one stage; degrees need not divide the model."""
    tp, cp = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    pp = draw(st.integers(1, scenario.llm.num_layers))
    replicas = draw(st.integers(1, 3))
    if not scenario.llm.num_experts:
        attn_dp = draw(st.integers(1, 4))
        spread = tp * cp * attn_dp
        return Candidate(replicas, pp, tp, cp, attn_dp, ep=1, etp=1, spread=spread)
    ep, etp = draw(st.integers(1, scenario.llm.num_experts)), draw(st.integers(1, 3))
    unit = tp * cp
    if draw(st.booleans()):
        ep *= unit  # one grid is a whole number of attention groups, so that any k of them are
        ep = min(ep, unit * scenario.llm.num_experts)
        return Candidate(replicas, pp, tp, cp, ep=ep, etp=etp, **GROWS)
    spread = unit * draw(st.integers(1, 2))
    return Candidate(replicas, pp, tp, cp, ep * etp * spread // unit, ep, etp, spread)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_number_agrees_with_the_documented_formulas(data, analytic_scenario):
    scenario = data.draw(scenarios(analytic_scenario))
    candidate = data.draw(candidates(scenario))
    first = data.draw(st.integers(0, scenario.llm.num_layers - 1))
    stop = data.draw(st.integers(first + 1, scenario.llm.num_layers))
    costs = costs_of(scenario, candidate, first, stop)
    reference = Reference(scenario, candidate, first, stop)
    time_us = reference.time_us()
    assert costs.time_us[0] == pytest.approx(time_us, rel=1e-12)
    assert costs.weights_bytes[0] == pytest.approx(reference.weights(), rel=1e-12)
    assert costs.kv_cache_bytes[0] == pytest.approx(reference.kv_cache(), rel=1e-12)
    assert costs.activation_bytes[0] == pytest.approx(reference.activations(), rel=1e-12)
    assert costs.reserved_bytes[0] == parts.RUNTIME_RESERVE_BYTES
    batch = candidate.replicas * scenario.workload.tokens_per_step
    if scenario.workload.phase == "prefill":
        assert costs.tpot_us is None
        assert costs.tokens_per_s[0] == pytest.approx(batch / time_us * 1e6, rel=1e-12)
    else:
        assert costs.tpot_us[0] == pytest.approx(candidate.pp * time_us, rel=1e-12)
        rate = batch / (candidate.pp * time_us) * 1e6
        assert costs.tokens_per_s[0] == pytest.approx(rate, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_table_is_its_pairs_one_by_one(data, analytic_scenario):
    scenario = data.draw(scenarios(analytic_scenario))
    rows = data.draw(st.lists(candidates(scenario), min_size=2, max_size=6))
    layers = scenario.llm.num_layers
    first = np.array([data.draw(st.integers(0, layers - 1)) for _ in rows])
    stop = np.array([data.draw(st.integers(f + 1, layers)) for f in first.tolist()])
    table = AnalyticCosts(scenario).stage_costs(Candidates.of(rows), first, stop)
    for i, row in enumerate(rows):
        one = costs_of(scenario, row, int(first[i]), int(stop[i]))
        assert one.time_us[0] == table.time_us[i]
        assert one.tokens_per_s[0] == table.tokens_per_s[i]
        assert one.memory_bytes[0] == table.memory_bytes[i]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), phase=st.sampled_from(["prefill", "decode"]), batch=st.integers(1, 2000))
def test_more_work_is_never_faster_and_better_hardware_never_slower(
    data, phase, batch, analytic_scenario
):
    def time_us(**sizes):
        scenario = analytic_scenario(phase=phase, **({"batch": batch} | sizes))
        return costs_of(scenario, candidate, 1, 3).time_us[0]

    candidate = data.draw(candidates(analytic_scenario()))
    base_us = time_us()
    assert time_us(batch=batch + 7) >= base_us
    assert time_us(batch=2 * batch) >= base_us
    assert time_us(bandwidth=2.0) <= base_us
    assert time_us(num_shared_experts=1) > base_us
    if phase == "decode":  # longer prompts of the same batch may spread better over the groups
        assert time_us(sequence_tokens=30) >= base_us


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
        ("llm", "experts_per_token"),
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


def test_notes_say_what_is_left_out(analytic_scenario):
    prefill = AnalyticCosts(analytic_scenario(phase="prefill")).notes()
    decode = AnalyticCosts(analytic_scenario()).notes()
    assert any("spread > 1" in note for note in decode)
    assert len(prefill) == len(decode) + 1
