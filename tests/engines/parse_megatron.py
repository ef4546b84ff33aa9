"""Megatron-Core's own checks of arguments, on a machine without a GPU.

python parse_megatron.py SOURCES WORLD ARGUMENTS...
python parse_megatron.py SOURCES flags

The second writes its flags as JSON, each with 0 for a switch and 1 for one that takes values.
"""

import argparse
import json
import os
import sys
import typing

import typing_extensions

if not hasattr(typing, "override"):  # Python 3.11; the wheel wants 3.12
    typing.override = typing_extensions.override  # type: ignore[attr-defined]

import torch
from absent import stand_in_for


def main(sources: str, world: str, arguments: list[str]) -> None:
    is_list = world == "flags"
    os.environ |= {"WORLD_SIZE": "1" if is_list else world, "RANK": "0", "LOCAL_RANK": "0"}
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    properties = type(
        "Properties", (), {"major": 9, "minor": 0, "name": "H100", "multi_processor_count": 132}
    )
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    torch.cuda.get_device_properties = lambda *_: properties()
    stand_in_for("triton")
    sys.path.insert(0, sources)
    sys.argv = ["pretrain_gpt.py", *arguments]
    from megatron.training.arguments import (  # noqa: PLC0415  after the sources are found
        add_megatron_arguments,
        core_transformer_config_from_args,
        parse_args,
        validate_args,
    )

    if is_list:
        parser = add_megatron_arguments(argparse.ArgumentParser(add_help=False))
        takes = {f: int(a.nargs != 0) for a in parser._actions for f in a.option_strings}
        sys.stdout.write(f"FLAGS {json.dumps(takes)}\n")
        return
    args = parse_args()
    args.world_size = int(world)
    validate_args(args)
    core_transformer_config_from_args(args)
    sys.stdout.write(
        f"ACCEPTED tp={args.tensor_model_parallel_size} dp={args.data_parallel_size}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
