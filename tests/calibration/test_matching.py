"""A device is found in the catalogue by the exact name that its driver gives it."""

import pytest

from autopar.calibration.matching import DEVICE_NAMES, catalogue_name, memory_note
from autopar.calibration.timings import MachineSpec
from autopar.catalog import load_gpu, names


def test_every_name_leads_to_a_gpu_of_the_catalogue():
    assert set(DEVICE_NAMES.values()) <= set(names("gpus"))


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA H200", "h200-sxm-141gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("NVIDIA  A100-SXM4-80GB ", "a100-sxm-80gb"),
        ("NVIDIA H200 NVL", None),  # a card with other links and less power
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("", None),
    ],
)
def test_variants_of_a_product_are_told_apart(device, gpu):
    assert catalogue_name(device) == gpu


def test_memory_that_differs_is_noted():
    machine = MachineSpec(device_name="X", num_devices=1, memory_bytes=95 * 2**30)
    assert "X has 95 GiB, h100-sxm-80gb 80 GiB" in memory_note(load_gpu("h100-sxm-80gb"), machine)
    real = machine.model_copy(update={"memory_bytes": 79.1 * 2**30})
    assert memory_note(load_gpu("h100-sxm-80gb"), real) == ""
