"""Links by design, against the clusters of the catalogue."""

import pytest

from autopar.catalog import names, read_document
from autopar.ingest.cluster.hardware import NVLINKS, PCIE
from autopar.units import BYTES_PER_S, parse


def clusters():
    for name in names("cluster"):
        data = read_document("cluster", name)
        if "base" not in data:
            node = data["links"]["node"]["bandwidth_bytes_per_s"]
            yield data["gpu"], name, parse(node, BYTES_PER_S, "a rate")


@pytest.mark.parametrize(("gpu", "name", "rate"), list(clusters()), ids=str)
def test_links_are_those_of_the_catalogue(gpu, name, rate):
    if gpu in NVLINKS and "pcie" not in name:
        assert NVLINKS[gpu].number * NVLINKS[gpu].bytes_per_s == rate
    elif gpu in PCIE:
        assert PCIE[gpu].bandwidth_bytes_per_s == rate


def test_every_gpu_is_in_the_catalogue():
    assert {*NVLINKS, *PCIE} <= set(names("gpu"))
