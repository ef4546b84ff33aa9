"""A small model of every kind of layer, whose numbers can be worked out by hand."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from autopar.specs import Architecture, Scenario
from autopar.specs.counting import parameters

LAYERS = [
    {"attention": "full", "feed_forward": "dense", "other_parameters": 400},
    {"attention": "window", "feed_forward": "dense"},
    {"attention": "full", "feed_forward": "experts"},
    {"attention": "latent", "feed_forward": "experts"},
    {"attention": "linear", "feed_forward": "experts"},
    {"feed_forward": "experts"},
]


def mixed_architecture(**changes: Any) -> Architecture:
    """Six layers of 200: two dense ones, four with 6 experts of 60; heads and columns cut by 2."""
    full = {"kind": "gqa", "num_heads": 8, "num_kv_heads": 4, "head_dim": 25}
    return Architecture.model_validate(
        {
            "hidden_size": 200,
            "vocab_size": 1001,
            "attention": {
                "full": full,
                "window": {**full, "window_tokens": 40, "gates_output": True},
                "latent": {
                    "kind": "mla", "num_heads": 4, "q_lora_rank": 48, "kv_lora_rank": 64,
                    "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 20,
                },
                "linear": {
                    "kind": "linear", "num_heads": 8, "input_columns": 600, "output_rows": 240,
                    "state_elements": 1200,
                },
            },
            "feed_forward": {
                "dense": {"kind": "dense", "ffn_size": 480},
                "experts": {
                    "kind": "moe", "num_experts": 6, "experts_per_token": 2, "expert_size": 60,
                    "shared_size": 80,
                },
            },
            "layers": [{"layers": LAYERS}],
            "other_parameters": 200,
            "next_token_prediction": {"layer": LAYERS[2], "other_parameters": 600},
            **changes,
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def mixed_scenario() -> Callable[..., Scenario]:
    """Build a scenario of the mixed model on 36 GPUs in nodes of 4."""

    def build(
        *,
        workload: Mapping[str, Any] | None = None,
        precisions: Mapping[str, str] | None = None,
        requirements: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Scenario:
        architecture = mixed_architecture(**changes)
        link = {"bandwidth_bytes_per_s": 4e11, "latency_us": 1.0}
        request = {"phase": "serving", "input_tokens": 1000, "output_tokens": 101}
        return Scenario.model_validate(
            {
                "name": "mixed",
                "llm": {
                    "name": "mixed-llm",
                    "num_layers": architecture.num_layers,
                    "num_experts": architecture.num_experts,
                    "num_parameters": parameters(architecture),
                    "precisions": precisions or {},
                    "architecture": architecture,
                },
                "cluster": {
                    "name": "mixed-cluster",
                    "num_nodes": 9,
                    "gpus_per_node": 4,
                    "links": {"node": link, "domain": link, "fabric": link},
                    "gpu": {
                        "name": "mixed-gpu",
                        "peak_flops_per_s": 1e15,
                        "memory_bytes": 80e9,
                        "memory_bandwidth_bytes_per_s": 3e12,
                    },
                },
                "workload": {"name": "mixed-work", **(workload or request)},
                "requirements": requirements or {},
                "recipe": {"name": "default"},
            }
        )

    return build
