"""SGLang's own checks of arguments, on a machine without a GPU.

python parse_sglang.py SOURCES ARGUMENTS...
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


def main(sources: str, arguments: list[str]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    stand_in_for(*ABSENT)
    sys.path.insert(0, sources)
    from sglang.srt.server_args import ServerArgs  # noqa: PLC0415  after the sources are found

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    args = ServerArgs.from_cli_args(parser.parse_args(arguments))
    args.resolve_once()
    from sglang.srt.arg_groups.validation_hook import check_server_args  # noqa: PLC0415  after the sources are found

    check_server_args(args)
    found = args.resolved_dict()
    sys.stdout.write(f"ACCEPTED tp={found['tp_size']} ep={found['ep_size']}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
