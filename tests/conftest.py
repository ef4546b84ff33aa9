"""Fixtures that more than one folder of tests uses."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from autopar.specs import LLM, Architecture, Cluster, Gpu, Link, Links, Recipe, Scenario, Workload


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


@pytest.fixture(scope="session")
def analytic_scenario() -> Callable[..., Scenario]:
    """Build a small scenario for the analytic cost model; keywords replace single sizes."""

    def build(
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
        num_nodes: int = 8,
        bandwidth: float = 1.0,
    ) -> Scenario:
        architecture = Architecture(
            hidden_size=1000,
            num_attention_heads=12,
            num_key_value_heads=4,
            head_dim=80,
            ffn_hidden_size=ffn_hidden_size,
            num_shared_experts=num_shared_experts,
            vocab_size=5003,
            shares_embeddings=shares_embeddings,
        )
        llm = LLM(
            name="small-llm",
            num_layers=num_layers,
            num_experts=num_experts,
            experts_per_token=experts_per_token if num_experts else None,
            num_parameters=1e9,
            architecture=architecture,
        )
        size = {"batch_tokens" if phase == "prefill" else "batch_sequences": batch}
        return Scenario(
            name="small",
            llm=llm,
            cluster=_small_cluster(num_nodes, bandwidth),
            workload=Workload(
                name="small-work", phase=phase, sequence_tokens=sequence_tokens, **size
            ),
            recipe=Recipe(name="default"),
        )

    return build


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
