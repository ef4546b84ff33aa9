"""An engine's own kernels stand in for those of the GPU's document, where it names the GPU."""

import pytest

from autopar.catalog import load_scenario, names, read_document
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.specs import Engine, Gpu

FIT = {"start_us": 5.0, "compute_fraction": 0.5, "memory_fraction": 0.5, "activation_fraction": 0.5}
HEADS = {"heads": 8, "kv_heads": 2, "qk_head_dim": 128, "v_head_dim": 128}


def gpu_of(name):
    return load_scenario(
        {
            "name": "s",
            "llm": "llama-3.1-8b",
            "workload": "chat-1k-256",
            "cluster": {"base": "1xhgx-a100", "gpu": name},
        }
    ).cluster.gpu


def engine(gpu, **sections):
    return Engine.model_validate({"name": "e", "kernels": {gpu: sections}})


def decode_us(device, precision):
    return kernels.decode_attention_us(32, 4096, kv_precision=precision, device=device, **HEADS)


def test_only_the_named_operation_precision_and_gpu_change():
    gpu = gpu_of("h200-sxm-141gb")
    plain = Device.of(gpu)
    other = Device.of(gpu, engine=engine(gpu.name, decode_attention={"fp8": FIT}))
    assert decode_us(other, "fp8") != pytest.approx(decode_us(plain, "fp8"))
    assert decode_us(other, "bf16") == decode_us(plain, "bf16")
    assert other.kernels.gemm == plain.kernels.gemm
    elsewhere = Device.of(gpu, engine=engine("b200-sxm-180gb", decode_attention={"fp8": FIT}))
    assert decode_us(elsewhere, "fp8") == decode_us(plain, "fp8")


def test_a_gpu_of_the_family_takes_the_engines_kernels_too():
    gpu = gpu_of("a100-sxm-40gb")
    lender = engine("a100-sxm-80gb", decode_attention={"bf16": FIT})
    assert decode_us(Device.of(gpu, engine=lender), "bf16") != pytest.approx(
        decode_us(Device.of(gpu), "bf16")
    )


def test_a_gpu_without_kernels_keeps_what_is_assumed():
    gpu = Gpu.model_validate(read_document("gpu", "mi300x-192gb"))
    known = engine("h100-sxm-80gb", decode_attention={"fp8": FIT})
    assert decode_us(Device.of(gpu, engine=known), "fp8") == decode_us(Device.of(gpu), "fp8")


@pytest.mark.parametrize("name", names("engine"))
def test_shipped_engines_name_gpus_of_the_catalogue(name):
    scenario = load_scenario(
        parts={
            "llm": "llama-3.1-8b",
            "cluster": "1xhgx-h100",
            "workload": "chat-1k-256",
            "engine": name,
        }
    )
    assert scenario.engine is not None
    assert set(scenario.engine.kernels) <= set(names("gpu"))
