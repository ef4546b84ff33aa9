"""Fixtures that more than one folder of tests uses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st

from autopar.calibration.cases import Case
from autopar.calibration.collectives import network
from autopar.calibration.outline import expected_us
from autopar.calibration.timer import Machine, NotTimedError, Timing
from autopar.catalog import read_document
from autopar.costs.operations.device import Device
from autopar.costs.steps import most_sequences
from autopar.problem import Candidate
from autopar.specs import LLM, Architecture, Cluster, Gpu, Link, Links, Recipe, Scenario, Workload
from autopar.specs.counting import parameters
from autopar.specs.kernels import GEMM_ROWS

# No test asserts a time, as machines differ and are shared.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def _small_cluster(num_nodes: int, speed: float) -> Cluster:
    """Nodes of 4 GPUs in domains of 8, with a different link on each level."""
    return Cluster(
        name="small-cluster",
        gpu=Gpu(
            name="small-gpu",
            peak_flops_per_s=1e15 * speed,
            memory_bytes=80e9,
            memory_bandwidth_bytes_per_s=1e12 * speed,
        ),
        num_nodes=num_nodes,
        gpus_per_node=4,
        gpus_per_domain=8,
        links=Links(
            node=Link(bandwidth_bytes_per_s=4e11 * speed, latency_us=1.0),
            domain=Link(bandwidth_bytes_per_s=2e11 * speed, latency_us=2.0),
            fabric=Link(bandwidth_bytes_per_s=5e10 * speed, latency_us=4.0),
        ),
    )


def _feed_forward(size: int, experts: int, chosen: int, shared: int) -> dict[str, Any]:
    if not experts:
        return {"kind": "dense", "ffn_size": size}
    return {
        "kind": "moe",
        "num_experts": experts,
        "experts_per_token": chosen,
        "expert_size": size,
        "shared_size": shared * size,
    }


def _one_kind(
    num_layers: int, *, shares_embeddings: bool, feed_forward: Mapping[str, Any]
) -> dict[str, Any]:
    """An architecture whose layers are all alike."""
    layer = {"attention": "full", "feed_forward": "only"}
    return {
        "hidden_size": 1000,
        "vocab_size": 5003,
        "shares_embeddings": shares_embeddings,
        "attention": {"full": {"kind": "gqa", "num_heads": 12, "num_kv_heads": 4, "head_dim": 80}},
        "feed_forward": {"only": feed_forward},
        "layers": [{"count": num_layers, "layers": [layer]}],
    }


def _small_scenario(
    *,
    num_layers: int = 4,
    num_experts: int = 6,
    experts_per_token: int = 2,
    num_shared_experts: int = 0,
    shares_embeddings: bool = False,
    ffn_hidden_size: int = 1500,
    phase: str = "decode",
    batch: int = 48,
    sequence_tokens: int = 20,
    input_tokens: int | None = None,
    output_tokens: int = 8,
    max_batch_sequences: int = 6,
    prefill_chunk_tokens: int = 64,
    num_nodes: int = 8,
    bandwidth: float = 1.0,
    architecture: Mapping[str, Any] | None = None,
    precisions: Mapping[str, Any] | None = None,
    work: Mapping[str, Any] | None = None,
    requirements: Mapping[str, Any] | None = None,
) -> Scenario:
    built = Architecture.model_validate(
        architecture
        or _one_kind(
            num_layers,
            shares_embeddings=shares_embeddings,
            feed_forward=_feed_forward(
                ffn_hidden_size, num_experts, experts_per_token, num_shared_experts
            ),
        )
    )
    llm = LLM(
        name="small-llm",
        num_layers=built.num_layers,
        num_experts=built.num_experts,
        experts_per_token=built.experts_per_token,
        num_parameters=parameters(built),
        precisions=precisions or {},
        architecture=built,
    )
    size: dict[str, Any] = {
        "batch_tokens" if phase == "prefill" else "batch_sequences": batch,
        "sequence_tokens": sequence_tokens,
    }
    if input_tokens is not None:  # the batch is to be found
        size = {
            "input_tokens": input_tokens,
            "output_tokens": None if phase == "prefill" else output_tokens,
            "max_batch_sequences": max_batch_sequences,
            "prefill_chunk_tokens": prefill_chunk_tokens,
        }
    return Scenario(
        name="small",
        llm=llm,
        cluster=_small_cluster(num_nodes, bandwidth),
        workload=Workload(name="small-work", phase=phase, **size, **(work or {})),
        requirements=requirements or {},
        recipe=Recipe(name="default"),
    )


@pytest.fixture(scope="session")
def analytic_scenario() -> Callable[..., Scenario]:
    """Build a small scenario for the analytic cost model; keywords replace single sizes.

    architecture: replaces the model, and all its sizes with it. work, requirements: further fields.
    """

    return _small_scenario


@pytest.fixture(scope="session")
def architectures() -> Callable[..., st.SearchStrategy[dict[str, Any]]]:
    """Return a strategy of architectures of up to `most_layers` layers of up to three kinds.

    Grouped-query, windowed, gated, latent, sparse and linear attention; dense feed-forwards and
    experts, shared and latent ones; layers with one half alone; layers that draft tokens.
    """

    def build(most_layers: int = 5, hidden: int = 64) -> st.SearchStrategy[dict[str, Any]]:
        return _architectures(most_layers, hidden)

    return build


@st.composite
def _uneven_kernels(draw: st.DrawFn) -> dict[str, Any] | None:
    """Return kernels of a GPU whose GEMMs may be faster with more rows, or none.

    GEMMs are slow, so that steps with more in them may be faster too.
    """
    if draw(st.booleans()):
        return None
    few = draw(st.lists(st.sampled_from([0.2, 0.7, 1.0, 1.6, 4.0]), min_size=7, max_size=7))
    fit = {
        "start_us": 0.5,
        "compute_fraction": 0.6,
        "memory_fraction": 0.02,
        "activation_fraction": 0.5,
        "row_factors": few + [1.0] * (len(GEMM_ROWS) - len(few)),
    }
    return {"gemm": {"bf16": fit}}


@pytest.fixture(scope="session")
def uneven_kernels() -> st.SearchStrategy[dict[str, Any] | None]:
    """Return a strategy of the section `kernels` of a GPU, or of none."""
    return _uneven_kernels()


def _attention(heads: int, dim: int) -> list[dict[str, Any]]:
    grouped = {"kind": "gqa", "num_heads": heads, "num_kv_heads": heads // 3, "head_dim": dim}
    latent = {
        "kind": "mla", "num_heads": heads, "kv_lora_rank": 4 * dim, "qk_nope_head_dim": dim,
        "qk_rope_head_dim": dim // 2, "v_head_dim": dim,
    }  # fmt: skip
    index = {"index_heads": 2, "index_head_dim": dim, "index_tokens": 24}
    return [
        grouped,
        grouped | {"window_tokens": 16, "num_kv_heads": 2, "other_parameters": 7},
        grouped | {"num_kv_heads": heads, "gates_output": True, "v_head_dim": dim // 2},
        grouped | {"keys_are_values": True},
        latent,
        latent | {"q_lora_rank": 6 * dim},
        latent | index,
        {
            "kind": "linear", "num_heads": heads, "input_columns": 5 * heads * dim,
            "output_rows": heads * dim, "state_elements": heads * dim * dim,
            "other_parameters": 11,
        },
    ]  # fmt: skip


@st.composite
def _architectures(draw: st.DrawFn, most_layers: int, hidden: int) -> dict[str, Any]:
    heads, dim = 12, hidden // 8
    attention = draw(st.lists(st.sampled_from(_attention(heads, dim)), min_size=1, max_size=2))
    num_experts = draw(st.sampled_from([0, 1, 2, 3, 4, 6]))
    dense = {"kind": "dense", "ffn_size": 24 * dim, "num_matrices": draw(st.sampled_from([2, 3]))}
    experts = {
        "kind": "moe",
        "num_experts": num_experts,
        "experts_per_token": min(2, num_experts),
        "expert_size": 12 * dim,
        "shared_size": draw(st.sampled_from([0, 6 * dim])),
        "latent_size": draw(st.sampled_from([None, 3 * dim])),
        "other_parameters_per_expert": draw(st.sampled_from([0, 5])),
    }
    wide = experts | {"expert_size": 18 * dim, "shared_size": 0}
    shelf = [dense, experts, wide] if num_experts else [dense]
    attention_names = [None, *(f"a{i}" for i in range(len(attention)))]
    kinds = st.fixed_dictionaries(
        {
            "attention": st.sampled_from(attention_names),
            "feed_forward": st.sampled_from([None, *(f"f{i}" for i in range(len(shelf)))]),
            "other_parameters": st.sampled_from([0, 2 * hidden]),
        }
    ).filter(lambda kind: kind["attention"] or kind["feed_forward"])
    some = draw(st.lists(kinds, min_size=1, max_size=3))
    order = draw(st.lists(st.sampled_from(some), min_size=1, max_size=most_layers))
    if num_experts and not any(kind["feed_forward"] in ("f1", "f2") for kind in order):
        order[draw(st.integers(0, len(order) - 1))] = some[0] | {"feed_forward": "f1"}
    return {
        "hidden_size": hidden,
        "vocab_size": 7 * hidden + 5,
        "shares_embeddings": draw(st.booleans()),
        "attention": {f"a{i}": a for i, a in enumerate(attention)},
        "feed_forward": {f"f{i}": f for i, f in enumerate(shelf)},
        "layers": [{"layers": order}],
        "other_parameters": draw(st.sampled_from([0, hidden])),
        "next_token_prediction": {"layer": some[0], "other_parameters": 9},
    }


@pytest.fixture(scope="session")
def works() -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of keywords of `analytic_scenario`: every phase, batch given or open."""
    return st.one_of(_given_works(), _open_works())


@pytest.fixture(scope="session")
def open_works() -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of keywords of `analytic_scenario`: every phase with an open batch."""
    return _open_works()


@st.composite
def _given_works(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "phase": draw(st.sampled_from(["prefill", "decode"])),
        "batch": draw(st.integers(1, 3000)),
        "sequence_tokens": draw(st.integers(1, 2000)),
        "work": {"expert_load": draw(st.sampled_from(["even", "power_law_1.01", "power_law_1.2"]))},
    }


@st.composite
def _open_works(draw: st.DrawFn) -> dict[str, Any]:
    """Prompts longer than a step takes, steps that take several, drafts, bursts."""
    phase = draw(st.sampled_from(["prefill", "decode", "serving", "serving"]))
    speculation = None
    if phase != "prefill" and draw(st.booleans()):
        acceptance = draw(st.sampled_from([0.2, 0.5, 0.9, 1.0]))
        speculation = {"draft_tokens": draw(st.integers(1, 3)), "acceptance": acceptance}
    return {
        "phase": phase,
        "input_tokens": draw(st.sampled_from([1, 7, 100, 1000, 3001])),
        "output_tokens": draw(st.sampled_from([1, 2, 9, 64, 700])),
        "max_batch_sequences": draw(st.integers(1, 40)),
        "prefill_chunk_tokens": draw(st.sampled_from([16, 64, 1000, 8192])),
        "work": {
            "expert_load": draw(st.sampled_from(["even", "power_law_1.01", "power_law_1.2"])),
            "prompts_ahead": draw(st.sampled_from([0.0, 0.7, 3.0])),
            "speculation": speculation,
        },
    }


@pytest.fixture(scope="session")
def layouts() -> Callable[[Scenario], st.SearchStrategy[Candidate]]:
    """Return a strategy of candidates of a scenario; degrees need not divide the model."""
    return _layouts


@st.composite
def _layouts(draw: st.DrawFn, scenario: Scenario) -> Candidate:
    """Two grids that tile one stage; a grid per layer only where every layer has experts."""
    work, llm = scenario.workload, scenario.llm
    tp, cp = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 2))
    pp, replicas = draw(st.integers(1, llm.num_layers)), draw(st.integers(1, 3))
    chunks, batch = work.fewest_chunks, 0
    if work.is_open:
        chunks *= draw(st.sampled_from([1, 1, 2])) if work.phase != "decode" else 1
        most = int(most_sequences(work, np.array([chunks]))[0])
        assume(most)
        batch = draw(st.integers(1, most))
    ends = {"batch": batch, "chunks": chunks if work.is_open else 1}
    if not llm.is_moe:
        attn_dp = 1 if work.is_open else draw(st.integers(1, 4))
        return Candidate(replicas, pp, tp, cp, attn_dp, 1, 1, tp * cp * attn_dp, **ends)
    ep, etp = draw(st.integers(1, llm.num_experts)), draw(st.integers(1, 3))
    unit = tp * cp
    if len(llm.expert_layers) == llm.num_layers and draw(st.booleans()):
        # one grid is a whole number of attention groups, so that any number of them is
        return Candidate(replicas, pp, tp, cp, 0, ep * unit, etp, 0, **ends)
    spread = unit * draw(st.integers(1, 2))
    return Candidate(replicas, pp, tp, cp, ep * etp * spread // unit, ep, etp, spread, **ends)


@pytest.fixture(scope="session")
def document_scenario() -> Callable[..., Scenario]:
    """Build the scenario of the 512-GPU document; a mapping of dotted paths changes fields.

    Written out here, not read from the catalogue, so that tests of the solver need no files.
    """

    def build(changes: Mapping[str, Any] | None = None) -> Scenario:
        document: dict[str, Any] = {
            "name": "document",
            "llm": {
                "name": "moe-16x16-10b",
                "num_layers": 16,
                "num_experts": 16,
                "num_parameters": 10e9,
            },
            "cluster": {
                "name": "document-cluster",
                "gpu": {
                    "name": "document-gpu",
                    "peak_flops_per_s": 400e12,
                    "memory_bytes": 64e9,
                },
                "num_nodes": 64,
                "gpus_per_node": 8,
                "gpus_per_domain": 64,
            },
            "workload": {
                "name": "prefill",
                "phase": "prefill",
                "batch_tokens": 10240,
                "sequence_tokens": 1024,
            },
            "requirements": {
                "coverage": "partition",
                "min_tokens_per_s_per_gpu": 100e3,
                "max_ttft_us": 10e6,
                "tensor_parallel_within": "node",
                "all_to_all_within": "domain",
            },
            "rules": [{"name": "same_tp", "require": "tp == etp", "because": "one TP for both"}],
            "cost_model": "declared",
            "declared": {
                "flops_per_token": 0.5e9,
                "compute_efficiency": 0.6,
                "utilisation": 0.25,
                "layer_time_us": 100e3,
            },
            "recipe": {"name": "default"},
        }
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            target = document
            for key in parents:
                target = target.setdefault(key, {})
            target[last] = value
        return Scenario.model_validate(document)

    return build


# Other constants than those of any GPU in the catalogue, so that a fit cannot start at them.
PLANTED = {
    "gemm": {
        "bf16": {
            "start_us": 6.0, "inner_us": 0.0007, "compute_fraction": 0.55,
            "memory_fraction": 0.7, "activation_fraction": 0.4, "sharpness": 2,
        },
        "fp8": {
            "start_us": 7.0, "inner_us": 0.0005, "compute_fraction": 0.45,
            "memory_fraction": 0.6, "activation_fraction": 0.5, "sharpness": 4,
        },
    },
    "experts": {
        "bf16": {
            "start_us": 40.0, "inner_us": 0.001, "expert_us": 0.5, "row_passes": 14.0,
            "token_passes": 6.0, "weight_passes": [1.3, 1.4, 1.6, 2.0, 2.9, 4.5, 8.0, 15.0],
        }
    },
    "prefill_attention": {
        "bf16": {
            "start_us": 15.0, "key_us": 0.0001, "extra_keys": 300.0, "extra_dim": 40.0,
            "compute_fraction": 0.6, "memory_fraction": 0.5,
        }
    },
    "decode_attention": {
        "bf16": {
            "start_us": 15.0, "doubling_us": 0.6, "compute_fraction": 0.1,
            "memory_fraction": 0.75, "activation_fraction": 0.2,
            "bend_us": 10.0, "bend_bytes": 8e7,
        }
    },
    "elementwise": {"start_us": 2.2, "memory_fraction": 0.85},
    "collectives": {
        "link_bandwidth_bytes_per_s": 450e9,
        **{
            kind: {
                "gpus": [2, 4], "start_us": [14.0, 19.0],
                "bandwidth_bytes_per_s": [share * 3e11, share * 2.5e11],
            }
            for kind, share in (("all_reduce", 0.6), ("all_gather", 1.0), ("reduce_scatter", 0.9))
        },
        "exchange": [{"start_us": 24.0, "link_fraction": 0.62, "fabric_fraction": 0.9}],
    },
}  # fmt: skip


class FakeTimer:
    """A GPU whose kernels take what planted constants say, and a little more or less."""

    def __init__(self, noise: float, num_devices: int, device_name: str) -> None:
        self.machine = Machine(
            device_name, num_devices, 143771 * 2.0**20, 60 * 2.0**20,
            torch="2.13.0", cuda="13.0", driver="580.1", nccl="2.29",
        )  # fmt: skip
        data = read_document("gpus", "h200-sxm-141gb")
        self.gpu = Gpu.model_validate({**data, "kernels": PLANTED})
        self.device = Device.of(self.gpu)
        self.noise = noise
        self.broken: dict[tuple[str, str], str] = {}  # group -> why it does not run
        self.asked: list[Case] = []

    def time(self, case: Case) -> Timing:
        """Time a case, unless it is broken."""
        self.asked.append(case)
        if case.group in self.broken:
            raise NotTimedError(self.broken[case.group])
        kernel = {"gemm": "mm", "elementwise": case.name}.get(case.operation, "flash_attention")
        return self._noisy(case, expected_us(case, self.device), kernel)

    def time_together(self, cases: Sequence[Case], seconds: float) -> dict[Case, Timing]:
        """Time collectives on planted links."""
        self.asked += cases
        if ("collectives", "") in self.broken:
            raise NotTimedError(self.broken["collectives", ""])
        net = network(self.gpu, {"collectives": PLANTED["collectives"]}, 450.0, 1, 8)
        times = {}
        for case in cases:
            sizes = (case["bytes"], case["gpus"])
            if case.name == "all_to_all":
                us = net.all_to_all_us(sizes[0], sizes[1], sizes[1])
            else:
                us = getattr(net, f"{case.name}_us")(*sizes)
            times[case] = self._noisy(case, float(us), "NCCL")
        return times

    def _noisy(self, case: Case, us: float, kernel: str) -> Timing:
        draw = np.random.default_rng(crc32(case.text().encode())).normal(0.0, self.noise)
        return Timing(us * float(np.exp(draw)), 0.01, kernel)


@pytest.fixture(scope="session")
def fake_timer() -> Callable[..., FakeTimer]:
    """Build a GPU to measure without one; noise: of the logarithm of each time."""

    def build(
        noise: float = 0.03, num_devices: int = 1, device_name: str = "NVIDIA H200"
    ) -> FakeTimer:
        return FakeTimer(noise, num_devices, device_name)

    return build
