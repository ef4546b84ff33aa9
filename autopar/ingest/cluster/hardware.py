"""Links that a kind of GPU has by its design, for what no command prints: the rate of one link."""

from collections.abc import Mapping
from typing import NamedTuple

from autopar.specs import Link


class NvLinks(NamedTuple):
    """NVLinks of one GPU, and bytes per second and direction of one of them."""

    number: int
    bytes_per_s: float


# NVLink 2, 3 and 4: 25 GB/s per link and direction, NVLink 5: 50. Counts: NVIDIA's data sheets,
# from memory; not checked against the documents. Their products are the links of the catalogue's
# clusters, which tests/ingest/cluster/test_hardware.py checks.
NVLINKS: Mapping[str, NvLinks] = {
    "a100-pcie-80gb": NvLinks(12, 25e9),  # by bridges, between two cards
    "a100-sxm-40gb": NvLinks(12, 25e9),
    "a100-sxm-80gb": NvLinks(12, 25e9),
    "gh200-96gb": NvLinks(18, 25e9),
    "h100-nvl-94gb": NvLinks(12, 25e9),  # by bridges, between two cards
    "h100-pcie-80gb": NvLinks(12, 25e9),  # by bridges, between two cards
    "h100-sxm-80gb": NvLinks(18, 25e9),
    "h200-sxm-141gb": NvLinks(18, 25e9),
    "h20-sxm-96gb": NvLinks(18, 25e9),
    "h800-sxm-80gb": NvLinks(8, 25e9),
    "b200-sxm-180gb": NvLinks(18, 50e9),
    "b300-sxm-288gb": NvLinks(18, 50e9),
    "gb200-186gb": NvLinks(18, 50e9),
    "gb300-288gb": NvLinks(18, 50e9),
    "v100-sxm-16gb": NvLinks(6, 25e9),
    "v100-sxm-32gb": NvLinks(6, 25e9),
}

# x16 slots: 8, 16 or 32 GT/s x 16 lanes / 8 bits before encoding; latencies: those of the PCIe
# nodes of the catalogue (1x8-a100-pcie, 1x8-h100-pcie), measured on L40S and RTX PRO 6000.
PCIE_3 = Link(bandwidth_bytes_per_s=16e9, latency_us=1.24)  # its latency is not known: PCIe 4.0's
PCIE_4 = Link(bandwidth_bytes_per_s=32e9, latency_us=1.24)
PCIE_5 = Link(bandwidth_bytes_per_s=64e9, latency_us=1.52)
PCIE: Mapping[str, Link] = {
    **dict.fromkeys(("v100-sxm-16gb", "v100-sxm-32gb"), PCIE_3),
    **dict.fromkeys(
        ("a100-pcie-80gb", "a100-sxm-40gb", "a100-sxm-80gb", "l4-24gb", "l40s-48gb",
         "rtx-4090-24gb"),
        PCIE_4,
    ),
    **dict.fromkeys(
        ("h100-nvl-94gb", "h100-pcie-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "h20-sxm-96gb",
         "h800-sxm-80gb", "b200-sxm-180gb", "rtx-5090-32gb", "rtx-pro-6000-96gb"),
        PCIE_5,
    ),
}  # fmt: skip
