"""The LLMs of the catalogue have exactly the parameters that others counted for them.

Buffers that a checkpoint stores beside its parameters are counted too: the biases that correct
routing (e_score_correction_bias), and Gemma 4's scalar per layer. Layers for multi-token prediction
and the towers for images and sound are not.
"""

import pytest

from autopar.catalog import data_root
from autopar.documents import read
from autopar.specs import LLM
from autopar.specs.counting import parameters

# Built from the config on the meta device; a sum names parameters and stored buffers apart.
ORACLE = "transformers 5.23.0, meta device"
SAFETENSORS = "Hugging Face, parameters of the safetensors files, as remembered"

COUNTS = {
    "deepseek-r1": (671_026_404_352 + 58 * 256, ORACLE),
    "deepseek-v3": (671_026_404_352 + 58 * 256, ORACLE),
    "deepseek-v3.1-nvfp4": (671_026_404_352 + 58 * 256, ORACLE),
    "deepseek-v3.2": (671_877_929_216 + 58 * 256, ORACLE),
    "gemma-4-26b-a4b": (25_233_141_760 + 30, ORACLE),
    "gemma-4-31b-nvfp4": (30_697_345_280 + 60, ORACLE),
    "glm-4.5": (352_797_814_784 + 89 * 160, ORACLE),
    "glm-4.5-air": (106_852_245_504 + 45 * 128, ORACLE),
    "glm-5": (743_911_199_232 + 75 * 256, ORACLE),
    "glm-5-fp8": (743_911_199_232 + 75 * 256, ORACLE),
    "glm-5-nvfp4": (743_911_199_232 + 75 * 256, ORACLE),
    "glm-5.2-fp8": (743_377_000_704 + 75 * 256, ORACLE),
    "gpt-oss-120b": (116_829_156_672, ORACLE),
    "gpt-oss-20b": (20_914_757_184, ORACLE),
    "kimi-k2": (1_026_408_209_408 + 60 * 384, ORACLE),
    "kimi-k2.5-nvfp4": (1_026_408_209_408 + 60 * 384, ORACLE),
    "llama-3.1-405b": (405_853_388_800, ORACLE),
    "llama-3.1-405b-fp8": (405_853_388_800, ORACLE),
    "llama-3.1-70b": (70_553_706_496, ORACLE),
    "llama-3.1-70b-fp8": (70_553_706_496, ORACLE),
    "llama-3.1-8b": (8_030_261_248, ORACLE),
    "llama-3.3-nemotron-super-49b": (49_867_145_216, SAFETENSORS),
    "llama-4-maverick": (400_711_848_960, ORACLE),
    "llama-4-scout": (107_769_861_120, ORACLE),
    "mimo-7b": (7_622_619_136, ORACLE + ", as Qwen2, whose layers it has"),
    "mimo-v2-flash": (308_778_768_832 + 47 * 256, ORACLE),
    "minimax-m2.5": (228_689_748_992 + 62 * 256, ORACLE),
    "minimax-m2.5-nvfp4": (228_689_748_992 + 62 * 256, ORACLE),
    "mixtral-8x22b": (140_620_634_112, ORACLE),
    "mixtral-8x7b": (46_702_792_704, ORACLE),
    "nemotron-3-nano-30b-a3b": (31_577_937_344 + 23 * 128, ORACLE),
    "nemotron-3-super-120b-a12b-fp8": (120_668_687_360 + 40 * 512, ORACLE),
    "nemotron-3-super-120b-a12b-nvfp4": (120_668_687_360 + 40 * 512, ORACLE),
    "nemotron-3-ultra-550b-a55b": (549_308_968_960 + 48 * 512, ORACLE),
    "nemotron-h-56b": (56_324_350_464, ORACLE),
    "qwen3-1.7b": (1_720_574_976, ORACLE),
    "qwen3-235b-a22b": (235_093_634_560, ORACLE),
    "qwen3-235b-a22b-fp8": (235_093_634_560, ORACLE),
    "qwen3-235b-a22b-nvfp4": (235_093_634_560, ORACLE),
    "qwen3-30b-a3b": (30_532_122_624, ORACLE),
    "qwen3-30b-a3b-fp8": (30_532_122_624, ORACLE),
    "qwen3-32b": (32_762_123_264, ORACLE),
    "qwen3-32b-fp8": (32_762_123_264, ORACLE),
    "qwen3-8b": (8_190_735_360, ORACLE),
    "qwen3-coder-480b-a35b": (480_154_875_392, ORACLE),
    "qwen3-next-80b-a3b": (79_674_391_296, ORACLE),
    "qwen3.5-122b-a10b": (122_111_526_912, ORACLE),
    "qwen3.5-27b": (26_895_998_464, ORACLE),
    "qwen3.5-35b-a3b": (34_660_610_688, ORACLE),
    "qwen3.5-397b-a17b": (396_346_350_336, ORACLE),
    "qwen3.5-397b-a17b-nvfp4": (396_346_350_336, ORACLE),
}
INVENTED = {"moe-16x16-10b"}  # the model of a plan's document, which states a round number


def shipped():
    return {path.stem for path in (data_root("models") / "llms").glob("*.yaml")}


@pytest.mark.parametrize("name", COUNTS)
def test_a_shipped_model_has_exactly_the_published_parameters(name):
    llm = LLM.model_validate(read(data_root("models") / "llms" / f"{name}.yaml"))
    published, source = COUNTS[name]
    assert llm.num_parameters == published, source
    assert llm.architecture is not None
    assert parameters(llm.architecture) == published, source


def test_every_shipped_model_of_ingestion_is_in_the_table():
    # A model that a person adds may be written by hand; these all came from a config.json.
    assert shipped() >= set(COUNTS)
    assert shipped() >= INVENTED
    assert len(COUNTS) >= 30


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_a_shipped_model_says_where_its_sizes_come_from(name):
    llm = LLM.model_validate(read(data_root("models") / "llms" / f"{name}.yaml"))
    assert llm.description
    assert llm.sources
