"""Variables of an engine, or of what it stands on, that a command is started with.

Prefixes are those of vLLM's envs.py and SGLang's environ.py, of TensorRT-LLM (TLLM, TRTLLM), of the
user guides of NCCL, NVSHMEM and CUDA, and of libraries that engines use: UCX, Gloo, PyTorch,
Transformer Engine (NVTE), FlashInfer, DeepGEMM (DG), LMCache and Mooncake (MC).
"""

from collections.abc import Iterable, Mapping

from autopar.ingest.plan.flags import NO_USE, NOT_HELD, said_of
from autopar.ingest.plan.places import SHOWN_BY

_OF_ENGINES = (
    "VLLM_", "SGLANG_", "SGL_", "TRTLLM_", "TLLM_", "NCCL_", "RCCL_", "NVSHMEM_", "CUDA_", "HIP_",
    "UCX_", "GLOO_", "PYTORCH_", "TORCH_", "NVTE_", "FLASHINFER_", "DG_", "LMCACHE_", "MC_",
)  # fmt: skip
# Addresses, logs, paths and keys: they bear on no layout and on no cost of a plan.
_NO_USE = frozenset((
    "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_HOME", "CUDA_PATH", "CUDA_VERSION", "GLOO_SOCKET_IFNAME",
    "NCCL_DEBUG", "NCCL_DEBUG_FILE", "NCCL_DEBUG_SUBSYS", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME",
    "NCCL_VERSION", "TLLM_LOG_LEVEL", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "UCX_LOG_LEVEL",
    "UCX_NET_DEVICES", "UCX_TLS", "VLLM_API_KEY", "VLLM_CACHE_ROOT", "VLLM_CONFIGURE_LOGGING",
    "VLLM_DO_NOT_TRACK", "VLLM_HOST_IP", "VLLM_LOGGING_LEVEL", "VLLM_NIXL_SIDE_CHANNEL_HOST",
    "VLLM_NIXL_SIDE_CHANNEL_PORT", "VLLM_NO_USAGE_STATS", "VLLM_PORT", "VLLM_RPC_TIMEOUT",
    "VLLM_WORKER_MULTIPROC_METHOD",
))  # fmt: skip


def said_of_variables(env: Mapping[str, str], engine: str) -> list[str]:
    """Return sentences on variables that are set and that no plan holds.

    They are named without their values, among which may be keys.
    """
    read = {*SHOWN_BY, f"{engine.upper()}_PP_LAYER_PARTITION"}
    names = [name for name in env if name.startswith(_OF_ENGINES) and name not in read]
    return [
        *said_of(NOT_HELD, _variables(name for name in names if name not in _NO_USE)),
        *said_of(NO_USE, _variables(name for name in names if name in _NO_USE)),
    ]


def _variables(names: Iterable[str]) -> list[str]:
    return [f"${name}" for name in names]
