"""A disaggregated service on a handful of GPUs, small enough to search exhaustively."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from autopar.specs import Architecture, Scenario
from autopar.specs.counting import parameters

LINK = {"bandwidth_bytes_per_s": 1e10, "latency_us": 3.0}
SLOW_LINK = {"bandwidth_bytes_per_s": 1e9, "latency_us": 20.0}
DEFAULT = ("throughput", "ttft", "tpot", "traffic", "memory")


def _architecture(num_layers: int, num_experts: int) -> Architecture:
    feed_forward: dict[str, Any] = {"kind": "dense", "ffn_size": 96}
    if num_experts:
        feed_forward = {
            "kind": "moe", "num_experts": num_experts, "experts_per_token": 1, "expert_size": 96,
        }  # fmt: skip
    return Architecture.model_validate(
        {
            "hidden_size": 64,
            "vocab_size": 500,
            "attention": {
                "full": {"kind": "gqa", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
            },
            "feed_forward": {"only": feed_forward},
            "layers": [
                {"count": num_layers, "layers": [{"attention": "full", "feed_forward": "only"}]}
            ],
        }
    )


def scenario_of(
    *,
    num_layers: int = 2,
    num_experts: int = 0,
    num_nodes: int = 2,
    gpus_per_node: int = 2,
    nodes_per_domain: int = 1,
    memory_bytes: float = 4e10,
    objectives: Sequence[str] = DEFAULT,
    work: Mapping[str, Any] | None = None,
    requirements: Mapping[str, Any] | None = None,
    rules: Sequence[str] = (),
) -> Scenario:
    """A service on a handful of GPUs."""
    architecture = _architecture(num_layers, num_experts)
    return Scenario.model_validate(
        {
            "name": "pair",
            "llm": {
                "name": "m",
                "num_layers": num_layers,
                "num_experts": num_experts,
                "experts_per_token": 1 if num_experts else None,
                "num_parameters": parameters(architecture),
                "architecture": architecture,
            },
            "cluster": {
                "name": "c",
                "gpu": {
                    "name": "g",
                    "peak_flops_per_s": 1e11,
                    "memory_bytes": memory_bytes,
                    "memory_bandwidth_bytes_per_s": 1e10,
                    "usd_per_hour": 2.5,
                },
                "num_nodes": num_nodes,
                "gpus_per_node": gpus_per_node,
                "gpus_per_domain": gpus_per_node * nodes_per_domain,
                "links": {"node": LINK, "domain": LINK, "fabric": SLOW_LINK},
            },
            "workload": {
                "name": "w",
                "phase": "disaggregated",
                "input_tokens": 40,
                "output_tokens": 9,
                "prefill_chunk_tokens": 64,
                "max_batch_sequences": 4,
                **(work or {}),
            },
            "requirements": dict(requirements or {}),
            "rules": [
                {"name": f"r{i}", "require": rule, "because": "a test"}
                for i, rule in enumerate(rules)
            ],
            "recipe": {"name": "default", "objectives": list(objectives)},
        }
    )


@pytest.fixture(scope="session")
def pair_scenario() -> Callable[..., Scenario]:
    """Build such a scenario; keywords replace single sizes."""
    return scenario_of
