"""vLLM's own checks of arguments, on a machine without a GPU.

python parse_vllm.py SOURCES ARGUMENTS...

The platform is a class of vLLM's own with the answers of eight H100s. Kernels, which are named but
never run, are declared without a body. Models are not built: what vLLM asks of a model's class is
answered here, pipeline stages included. Of the cache it is asked what vLLM asks when it starts:
whether --kv-cache-memory-bytes has room for one request of --max-model-len.
"""

import dataclasses
import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from absent import AbsentModule, stand_in_for

ABSENT = (
    "torchvision", "outlines_core", "llguidance", "xgrammar", "flashinfer", "depyf",
    "prometheus_fastapi_instrumentator", "lmformatenforcer", "model_hosting_container_standards",
    "opentelemetry", "tilelang", "cv2", "compressed_tensors", "numba", "torchaudio", "soundfile",
    "mistral_common", "quack",
)  # fmt: skip
BUILT = ("_C_stable_libtorch", "_moe_C_stable_libtorch", "_qutlass_C", "_vllm_fa2_C", "_vllm_fa3_C",
         "_C", "_moe_C", "cumem_allocator")  # fmt: skip
_KERNEL = re.compile(r"torch\.ops\.(_C|_moe_C|_C_cache_ops)\.(\w+)(?:\.(default|out))?")
_KEPT: list[Any] = []  # libraries of kernels live as long as something holds them


def declare_kernels(sources: Path) -> None:
    """Declare every kernel that the sources name, so that looking one up does not fail."""
    named: dict[tuple[str, str], set[str]] = defaultdict(set)
    for file in (sources / "vllm").rglob("*.py"):
        for space, name, overload in _KERNEL.findall(file.read_text("utf-8", errors="replace")):
            named[space, name].add(overload or "default")
    spaces = {space: torch.library.Library(space, "FRAGMENT") for space, _ in named}
    _KEPT.extend(spaces.values())
    for (space, name), overloads in named.items():
        for overload in sorted(overloads | {"default"}):
            suffix = "" if overload == "default" else f".{overload}"
            spaces[space].define(f"{name}{suffix}(Tensor x) -> ()")


def platform_of(sources: str) -> None:
    """Let vLLM find a node with eight H100s."""
    for name in BUILT:
        sys.modules[f"vllm.{name}"] = ModuleType(f"vllm.{name}")
    for name in ("vllm.vllm_flash_attn", "vllm.vllm_flash_attn.flash_attn_interface"):
        sys.modules[name] = AbsentModule(name)
    sys.path.insert(0, sources)
    import vllm.platforms as platforms  # noqa: PLC0415  after the sources are found

    platforms.builtin_platform_plugins.clear()
    platforms.builtin_platform_plugins["cuda"] = lambda: "h100_platform.EightH100"


def answer_for_kernels() -> None:
    """Say that no kernel has what NIXL's modules ask for while they are imported."""
    from vllm import _custom_ops  # noqa: PLC0415  after the sources are found

    for name in dir(_custom_ops):
        if "_supports_" in name:
            setattr(_custom_ops, name, lambda *_: False)


def answer_for_models() -> None:
    """Answer for the class of a model, which cannot be imported here."""
    from vllm.model_executor.models import registry  # noqa: PLC0415  after the sources are found

    def inspect(self: Any) -> Any:
        known = {field.name: False for field in dataclasses.fields(registry._ModelInfo)}
        known |= {
            "architecture": self.class_name, "is_text_generation_model": True, "supports_pp": True,
            "attn_type": "decoder", "default_seq_pooling_type": "LAST",
            "default_tok_pooling_type": "ALL", "score_type": "bi-encoder",
            "supported_video_pruning_methods": (),
        }  # fmt: skip
        return registry._ModelInfo(**known)

    registry._LazyRegisteredModel.inspect_model_cls = inspect


def specs_of(config: Any) -> list[dict[str, Any]]:
    """Return what vLLM's attention layers would say that they keep, by stage."""
    from vllm.distributed.utils import get_pp_indices  # noqa: PLC0415  after the sources are found
    from vllm.v1.kv_cache_interface import (  # noqa: PLC0415
        FullAttentionSpec,
        MLAAttentionSpec,
        SlidingWindowSpec,
    )

    model, parallel = config.model_config, config.parallel_config
    text = model.hf_text_config
    common = {
        "block_size": config.cache_config.block_size,
        "num_kv_heads": model.get_num_kv_heads(parallel),
        "head_size": model.get_head_size(),
        "dtype": torch.bfloat16,
    }
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    stages = []
    for stage in range(parallel.pipeline_parallel_size):
        first, end = get_pp_indices(len(kinds), stage, parallel.pipeline_parallel_size)
        found: dict[str, Any] = {}
        for layer in range(first, end):
            if model.use_mla:
                found[f"layers.{layer}"] = MLAAttentionSpec(**common)
            elif kinds[layer] == "sliding_attention":
                windowed = {**common, "dcp_sharded": False, "sliding_window": text.sliding_window}
                found[f"layers.{layer}"] = SlidingWindowSpec(**windowed)
            else:
                found[f"layers.{layer}"] = FullAttentionSpec(**common)
        stages.append(found)
    return stages


def check_cache(config: Any) -> int:
    """Return the blocks that vLLM would make of the bytes of the command.

    Raises ValueError, as vLLM does, where they are too few to start.
    """
    from vllm.v1.core.kv_cache_planning import (  # noqa: PLC0415  after the sources are found
        get_global_kv_cache_groups,
        get_kv_cache_configs,
    )

    config.cache_config.kv_cache_layout = "LBNHC"
    specs = specs_of(config)
    available = [config.cache_config.kv_cache_memory_bytes] * len(specs)
    groups = get_global_kv_cache_groups(config, specs)
    return int(get_kv_cache_configs(config, specs, available, groups)[0].num_blocks)


def main(sources: str, arguments: list[str]) -> None:
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    declare_kernels(Path(sources))
    stand_in_for(*ABSENT)
    platform_of(sources)
    answer_for_kernels()
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415  after the sources are found
    from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    answer_for_models()
    parser = FlexibleArgumentParser()
    EngineArgs.add_cli_args(parser)
    parser.add_argument("--headless", action="store_true")  # of `vllm serve`, beside the engine's
    parser.add_argument("--port")
    given = parser.parse_args(["--model", *arguments])  # the model has no flag in `vllm serve`
    config = EngineArgs.from_cli_args(given).create_engine_config(
        UsageContext.OPENAI_API_SERVER, headless=given.headless
    )
    blocks = check_cache(config)
    found = config.parallel_config
    sys.stdout.write(
        f"ACCEPTED tp={found.tensor_parallel_size} dp={found.data_parallel_size} blocks={blocks}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
