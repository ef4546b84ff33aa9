"""Flags of Megatron are taken from its sources as its parser makes them."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from autopar.ingest.plan.flags import known_flags

# The shapes of Megatron-Core 0.19.2: training/arguments.py, its configs, and argument_utils.py.
CONFIG = """
class ModelParallelConfig:
    tensor_model_parallel_size: int = 1
    params_dtype: torch.dtype = torch.float32
    perform_initialization: bool = field(
        default=True, metadata={"argparse_meta": {"arg_names": ["--no-initialization"]}}
    )

class TransformerConfig(ModelParallelConfig):
    num_moe_experts: Optional[int] = None
    normalization: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    sequence_parallel: bool = False
    rope: bool = True
    recompute: bool = field(default=True)
    steps: int | None = field(init=False, default=None)
    epsilon: float = field(default=1e-5, metadata={"argparse_meta": {"arg_names": ["--eps", "-e"]}})

class LoggerConfig:
    log_interval: int = 100
    memory_keys: dict | None = None

class Unused:
    never: int = 0
"""
ARGUMENTS = """
def _add_network_size_args(parser):
    exclude = [
        "params_dtype",
        "num_moe_experts",
    ]
    factory = ArgumentGroupFactory(TransformerConfig, exclude=exclude)
    group.add_argument('--num-experts', type=int)
    group.add_argument('--bf16', action='store_true')
    group.add_argument('--warm', action=argparse.BooleanOptionalAction, default=True)

def _add_logging_args(parser):
    factory = ArgumentGroupFactory(LoggerConfig, exclude=["memory_keys"])
"""


@pytest.fixture(scope="module")
def extraction() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "extract_flags", Path(__file__).with_name("extract_flags.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fields_that_are_left_out_are_no_flags(extraction: ModuleType) -> None:
    """Also where the list of them is a variable, and where a flag has other names than its field.

    What is not set on construction (init=False) has no flag either.
    """
    assert extraction.megatron([ast.parse(ARGUMENTS), ast.parse(CONFIG)]) == {
        "--tensor-model-parallel-size": 1,
        "--no-initialization": 0,
        "--normalization": 1,
        "--sequence-parallel": 0,
        "--no-rope": 0,
        "--disable-rope": 0,
        "--no-recompute": 0,
        "--disable-recompute": 0,
        "--eps": 1,
        "-e": 1,
        "--log-interval": 1,
        "--num-experts": 1,
        "--bf16": 0,
        "--warm": 0,
        "--no-warm": 0,
    }


def test_what_is_left_out_has_to_be_readable(extraction: ModuleType) -> None:
    unreadable = ARGUMENTS.replace("exclude = [\n", "exclude = others() + [\n")
    with pytest.raises(ValueError, match="line 7: exclude=exclude is no list"):
        extraction.megatron([ast.parse(unreadable), ast.parse(CONFIG)])


def test_the_list_has_no_fields_that_megatron_leaves_out() -> None:
    """`make check-engines` holds the list against the parser itself."""
    flags = known_flags("megatron").flags
    assert not set(flags) & {
        "--num-moe-experts", "--virtual-pipeline-model-parallel-size", "--params-dtype",
        "--layernorm-epsilon", "--pipeline-dtype", "--num-layers-in-first-pipeline-stage",
    }  # fmt: skip
    assert set(flags) >= {
        "--num-experts", "--num-virtual-stages-per-pipeline-rank", "--norm-epsilon",
        "--decoder-first-pipeline-num-layers", "--fault-injector-seed", "--no-rl-skip-bos-token",
    }  # fmt: skip
