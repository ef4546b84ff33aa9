"""Which GPU of the catalogue a device is, by the name that its driver gives it."""

from collections.abc import Mapping

from autopar.calibration.timings import MachineSpec
from autopar.specs import Gpu

# As `nvidia-smi -L` and torch.cuda.get_device_name print it. Names that several products share, and
# cards with another clock or link than the catalogue's (H200 NVL, A100 PCIe 40 GB), are not here.
DEVICE_NAMES: Mapping[str, str] = {
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb",
    "NVIDIA A100-SXM4-40GB": "a100-sxm-40gb",
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb",
    "NVIDIA B200": "b200-sxm-180gb",
    "NVIDIA B300 SXM6 AC": "b300-sxm-288gb",
    "NVIDIA GB200": "gb200-186gb",
    "NVIDIA GB300": "gb300-288gb",
    "NVIDIA GH200 480GB": "gh200-96gb",  # 480 GB is the memory of its CPU
    "NVIDIA H100 80GB HBM3": "h100-sxm-80gb",
    "NVIDIA H100 NVL": "h100-nvl-94gb",
    "NVIDIA H100 PCIe": "h100-pcie-80gb",
    "NVIDIA H20": "h20-sxm-96gb",
    "NVIDIA H200": "h200-sxm-141gb",
    "NVIDIA H800": "h800-sxm-80gb",
    "NVIDIA L4": "l4-24gb",
    "NVIDIA L40S": "l40s-48gb",
    "NVIDIA GeForce RTX 4090": "rtx-4090-24gb",
    "NVIDIA GeForce RTX 5090": "rtx-5090-32gb",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000-96gb",
    "Tesla V100-SXM2-16GB": "v100-sxm-16gb",
    "Tesla V100-SXM2-32GB": "v100-sxm-32gb",
    "AMD Instinct MI300X": "mi300x-192gb",
    "AMD Instinct MI325X": "mi325x-256gb",
    "AMD Instinct MI355X": "mi355x-288gb",
}
MEMORY_TOLERANCE = 0.1  # drivers keep some back, and GB and GiB are mixed up


def catalogue_name(device_name: str) -> str | None:
    """Return the name of the GPU in the catalogue, or None."""
    return DEVICE_NAMES.get(" ".join(device_name.split()))


def memory_note(gpu: Gpu, machine: MachineSpec) -> str:
    """Return a warning if a device has not the memory of the GPU that it is taken for."""
    if abs(machine.memory_bytes / gpu.memory_bytes - 1.0) <= MEMORY_TOLERANCE:
        return ""
    return (
        f"{machine.device_name} has {machine.memory_bytes / 2**30:.0f} GiB, {gpu.name} "
        f"{gpu.memory_bytes / 2**30:.0f} GiB: is it the same GPU? (--gpu names another)"
    )
