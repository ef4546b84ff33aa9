"""What several tests of single operations use."""

import pytest

from autopar.specs import Cluster


@pytest.fixture(scope="session")
def two_nodes():
    """Two nodes of four GPUs whose kernels nobody measured."""
    link = {"bandwidth_bytes_per_s": 4e11, "latency_us": 1.0}
    return Cluster.model_validate(
        {
            "name": "cluster",
            "gpu": {
                "name": "gpu",
                "peak_flops_per_s": 1e15,
                "memory_bytes": 80e9,
                "memory_bandwidth_bytes_per_s": 3e12,
            },
            "num_nodes": 2,
            "gpus_per_node": 4,
            "links": {"node": link, "domain": link, "fabric": link},
        }
    )
