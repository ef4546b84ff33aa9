"""SGLang's own checks of arguments, on a machine without a GPU.

python parse_sglang.py SOURCES GPU_MIB ARGUMENTS...

GPU_MIB: memory of the GPU, as nvidia-smi would say it.
"""

import argparse
import os
import sys

import torch
from absent import stand_in_for

ABSENT = (
    "IPython", "tvm_ffi", "cuda", "pynvml", "timm", "torchao", "torchaudio", "torchvision",
    "sgl_kernel", "flashinfer", "xgrammar", "outlines", "llguidance", "decord", "decord2",
    "modelscope", "av", "tilelang", "quack", "blobfile", "interegular", "triton", "gguf",
    "compressed_tensors", "soundfile", "scipy", "datasets", "torch_memory_saver", "uvloop",
    "smg_grpc_servicer", "apache_tvm_ffi", "flash_attn_4", "openai_harmony", "cutlass", "numba",
    "kernels", "partial_json_parser", "orjson", "dill", "xxhash",
)  # fmt: skip


def main(sources: str, gpu_mib: float, arguments: list[str]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    stand_in_for(*ABSENT)
    sys.path.insert(0, sources)
    from sglang.srt.arg_groups import memory_hook  # noqa: PLC0415  after the sources are found
    from sglang.srt.server_args import ServerArgs  # noqa: PLC0415

    memory_hook.get_device_memory_capacity = lambda *_: gpu_mib
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    args = ServerArgs.from_cli_args(parser.parse_args(arguments))
    args.resolve_once()
    from sglang.srt.arg_groups.validation_hook import check_server_args  # noqa: PLC0415  after the sources are found

    check_server_args(args)
    found = args.resolved_dict()
    sys.stdout.write(
        f"ACCEPTED tp={found['tp_size']} ep={found['ep_size']} "
        f"fraction={found['mem_fraction_static']} tokens={found['max_total_tokens']}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
