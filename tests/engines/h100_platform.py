"""vLLM's CUDA platform with the answers of eight H100s; parse_vllm.py names it."""

from typing import Any

from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability


class EightH100(NonNvmlCudaPlatform):
    """A node of eight H100s, none of which is there."""

    @classmethod
    def get_device_capability(cls, *_: Any, **__: Any) -> DeviceCapability:
        return DeviceCapability(9, 0)

    @classmethod
    def device_count(cls) -> int:
        return 8

    @classmethod
    def get_device_name(cls, *_: Any, **__: Any) -> str:
        return "NVIDIA H100 80GB HBM3"

    @classmethod
    def get_device_total_memory(cls, *_: Any, **__: Any) -> int:
        return 80 * 2**30

    @classmethod
    def is_fully_connected(cls, *_: Any, **__: Any) -> bool:
        return True

    @classmethod
    def log_warnings(cls) -> None: ...

    @classmethod
    def import_kernels(cls) -> None: ...
