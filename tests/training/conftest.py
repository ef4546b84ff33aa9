"""Toy hardware and models on which a training step is worked by hand."""

from functools import cache

import pytest

from autopar.catalog import names
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.resolve import Library
from autopar.shelves import KINDS
from autopar.specs import LLM, Architecture, Cluster, Gpu, TrainingCase, TrainingRow
from autopar.specs.counting import parameters
from autopar.specs.kernels import ElementwiseFit, GemmFit, Kernels, PrefillFit
from autopar.training.factors import Factors
from autopar.training.kernels import Processor
from autopar.training.layers import Clock
from autopar.training.run import Run

NO_FACTORS = Factors(sustained_fraction=1.0, exposed_fraction=0.0)


@cache
def load(kind, name):
    return KINDS[kind].model.model_validate(Library(()).find(KINDS[kind], name, None, "test").data)


@pytest.fixture(name="load")
def load_():
    return load


def published():
    """Every published training run: document, model, cluster, row."""
    for name in names("measurements"):
        for case in load("measurements", name).cases:
            if isinstance(case, TrainingCase):
                llm = load("llm", case.llm)
                if case.precisions is not None:
                    llm = llm.model_copy(update={"precisions": case.precisions})
                for row in case.rows:
                    yield name, llm, load("cluster", case.cluster), row


def gpu(**given):
    """1e15 FLOP/s and 1e12 bytes/s, all of which every kernel reaches; nothing has a start."""
    fit = GemmFit(
        start_us=0, compute_fraction=1, memory_fraction=1, activation_fraction=1, sharpness=1
    )
    attention = PrefillFit(
        start_us=0, key_us=0, extra_keys=0, extra_dim=0, compute_fraction=1, memory_fraction=100
    )
    kernels = Kernels(
        gemm={"bf16": fit, "fp8": fit},
        prefill_attention={"bf16": attention},
        elementwise=ElementwiseFit(start_us=0, memory_fraction=1),
    )
    rates = {"peak_flops_per_s": 1e15, "memory_bandwidth_bytes_per_s": 1e12, "memory_bytes": 1e11}
    return Gpu(name="toy", kernels=kernels, **(rates | given))


def cluster(num_nodes=8, **given):
    link = {"bandwidth_bytes_per_s": 1e11, "latency_us": 0}
    return Cluster.model_validate(
        {
            "name": "toys",
            "gpu": gpu(**given),
            "num_nodes": num_nodes,
            "gpus_per_node": 8,
            "links": {"node": link, "domain": link, "fabric": link},
        }
    )


def llm(num_layers=4, feed_forward=None, heads=8, kv_heads=8, vocab_size=1000, shares=False):
    """Width 512, heads of 64; a gated feed-forward of 2,048 unless another is given."""
    part = feed_forward or {"kind": "dense", "ffn_size": 2048}
    architecture = Architecture.model_validate(
        {
            "hidden_size": 512,
            "vocab_size": vocab_size,
            "shares_embeddings": shares,
            "attention": {
                "full": {
                    "kind": "gqa",
                    "num_heads": heads,
                    "num_kv_heads": kv_heads,
                    "head_dim": 64,
                }
            },
            "feed_forward": {"part": part},
            "layers": [
                {
                    "count": num_layers,
                    "layers": [
                        {"attention": "full", "feed_forward": "part", "other_parameters": 1024}
                    ],
                }
            ],
            "other_parameters": 512,
        }
    )
    return LLM(
        name="toy",
        num_layers=num_layers,
        num_experts=architecture.num_experts,
        experts_per_token=architecture.experts_per_token,
        num_parameters=parameters(architecture),
        architecture=architecture,
    )


EXPERTS = {"kind": "moe", "num_experts": 8, "experts_per_token": 2, "expert_size": 1024}


def row(**given):
    base = {"id": "r", "sequence_tokens": 1024, "global_batch_sequences": 64, "step_s": 1.0}
    return TrainingRow.model_validate(base | given)


def clock(model=None, factors=NO_FACTORS, hardware=None, **given):
    where = hardware or cluster()
    run = Run.of(model or llm(), row(**given))
    processor = Processor(Device.of(where.gpu), run.gradient_bytes, factors)
    return Clock(run, Network.of(where), processor)


class Toys:
    """What tests build."""

    gpu = staticmethod(gpu)
    cluster = staticmethod(cluster)
    llm = staticmethod(llm)
    row = staticmethod(row)
    clock = staticmethod(clock)
    published = staticmethod(published)
    experts = EXPERTS
    no_factors = NO_FACTORS


@pytest.fixture(scope="session")
def toys():
    return Toys
