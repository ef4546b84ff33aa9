"""Names that drivers, labels and schedulers give to GPUs."""

import pytest

from autopar.calibration.matching import DEVICE_NAMES
from autopar.errors import SpecError
from autopar.ingest.cluster.names import Names

GIB = 2.0**30


@pytest.mark.parametrize(
    ("found", "gpu", "how"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb", "read"),
        ("NVIDIA-H100-80GB-HBM3", "h100-sxm-80gb", "read"),
        ("nvidia_h100_80gb_hbm3", "h100-sxm-80gb", "read"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb", "read"),
        ("NVIDIA-H100-PCIe", "h100-pcie-80gb", "read"),
        ("NVIDIA H200", "h200-sxm-141gb", "read"),
        ("NVIDIA-A100-SXM4-80GB", "a100-sxm-80gb", "read"),
        ("A100-SXM4-40GB", "a100-sxm-40gb", "read"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb", "read"),
        ("NVIDIA GB200", "gb200-186gb", "read"),
        ("AMD_Instinct_MI300X_OAM", "mi300x-192gb", "read"),
        ("AMD-MI300X-192G", "mi300x-192gb", "inferred"),
        ("h100-sxm-80gb", "h100-sxm-80gb", "read"),
        ("own-gpu-64gb", "own-gpu-64gb", "read"),
        ("h200", "h200-sxm-141gb", "read"),
        ("l40s", "l40s-48gb", "read"),
        ("h100", "h100-sxm-80gb", "inferred"),
        ("nvidia-h100-80gb", "h100-sxm-80gb", "inferred"),
        ("a100_80gb", "a100-sxm-80gb", "inferred"),
        ("a100-sxm4-40gb", "a100-sxm-40gb", "read"),
    ],
)
def test_a_name_is_matched_to_the_catalogue(catalogue, found, gpu, how):
    match = Names(catalogue).match(found, None, "x")
    assert (match.gpu, match.how) == (gpu, how)


def test_every_name_of_a_driver_is_known_in_all_its_spellings(catalogue):
    known = dict.fromkeys(DEVICE_NAMES.values(), 1.0)
    names = Names(type(catalogue)(known, DEVICE_NAMES))
    for device, gpu in DEVICE_NAMES.items():
        for spelled in (device, device.replace(" ", "-"), device.lower().replace(" ", "_")):
            assert names.match(spelled, None, "x").gpu == gpu


def test_a_short_name_of_two_forms_is_the_sxm_one_and_says_so(catalogue):
    match = Names(catalogue).match("h100", None, "x")
    assert match.doubt == "it may be h100-pcie-80gb too"


def test_a_short_name_of_two_sizes_is_refused_unless_the_memory_tells(catalogue):
    with pytest.raises(SpecError) as error:
        Names(catalogue).match("a100", None, "s.txt: line 1")
    assert str(error.value).startswith("s.txt: line 1: found the GPU 'a100', which may be a100-p")
    assert "say which by --gpu NAME" in str(error.value)
    assert Names(catalogue).match("a100", 40 * GIB, "x").gpu == "a100-sxm-40gb"


@pytest.mark.parametrize(
    ("found", "near"),
    [
        ("NVIDIA H100 NVL", "did you mean 'h100-pcie-80gb' or 'h100-sxm-80gb'?"),
        ("NVIDIA H200 NVL", "did you mean 'h200-sxm-141gb'?"),
        ("NVIDIA A100-PCIE-40GB", "did you mean 'a100-pcie-80gb' or"),
        ("l4Os", "did you mean 'l40s-48gb'"),
        ("Tesla V100-SXM2-16GB", "(autopar catalog gpus lists them; --gpu NAME takes one for it)"),
        ("NVIDIA", "unknown GPU 'NVIDIA'"),
        ("x" * 9999, "(9,999 characters)"),
    ],
)
def test_an_unknown_name_is_refused_with_near_ones(catalogue, found, near):
    with pytest.raises(SpecError, match=r"^x: unknown GPU ") as error:
        Names(catalogue).match(found, None, "x")
    assert near in str(error.value)


def test_the_user_may_say_what_a_gpu_is(catalogue):
    for given in ({"": "l40s-48gb"}, {"NVIDIA H100 NVL": "l40s-48gb"}):
        match = Names(catalogue, given).match("NVIDIA H100 NVL", None, "x")
        assert (match.gpu, match.how) == ("l40s-48gb", "given")
    assert Names(catalogue, {"": "l40s-48gb"}).match(None, None, "x").gpu == "l40s-48gb"


def test_no_name_is_refused(catalogue):
    with pytest.raises(SpecError, match="GPUs without a name, expected one in the input, or --gpu"):
        Names(catalogue).match(None, None, "x")


def test_a_short_name_is_not_of_the_nvl_card_unless_its_memory_is(catalogue):
    """gpu:h100 stays what it was for nodes of 8, with a doubt that names the card too."""
    known = {**catalogue.gpus, "h100-nvl-94gb": 95830 * 2.0**20}
    names = Names(type(catalogue)(known, DEVICE_NAMES))
    match = names.match("h100", None, "x")
    assert match.gpu == "h100-sxm-80gb"
    assert match.doubt == "it may be h100-pcie-80gb or h100-nvl-94gb too"
    assert names.match("h100", 95830 * 2.0**20, "x").gpu == "h100-nvl-94gb"
    assert names.match("NVIDIA H100 NVL", None, "x").gpu == "h100-nvl-94gb"
    assert names.match("h100_nvl", None, "x").how == "read"
