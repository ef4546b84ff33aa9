"""Real config.json files, where they are at hand: each is read, or refused with a reason."""

from pathlib import Path

import pytest

from autopar.errors import SpecError
from autopar.ingest import read_config
from autopar.specs.counting import parameters

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "hf_configs"
FILES = sorted(FOLDER.glob("*.json")) if FOLDER.is_dir() else []

# What these files need that a document of ours cannot say, or that the file does not.
REFUSED = {
    "MiniMaxAI--MiniMax-M3": "sparse_attention_config",
    "deepseek-ai--DeepSeek-V4-Flash": "compress_ratios",
    "deepseek-ai--DeepSeek-V4-Pro": "compress_ratios",
    "moonshotai--Kimi-K3": "attn_res_block_size",
    "nvidia--DeepSeek-V4-Flash-NVFP4": "compress_ratios",
    "nvidia--DeepSeek-V4-Pro-NVFP4": "compress_ratios",
    "nvidia--Qwen3.6-27B-NVFP4": "W4A16_NVFP4",
    "nvidia--Qwen3.6-35B-A3B-NVFP4": "W4A16_NVFP4",
    "sgl-project--DeepSeek-V4-Flash-FP8": "compress_ratios",
    "sgl-project--DeepSeek-V4-Pro-FP8": "compress_ratios",
    "stepfun-ai--Step-3.7-Flash": "attention_other_setting",
    "stepfun-ai--Step-3.7-Flash-FP8": "attention_other_setting",
}

pytestmark = pytest.mark.skipif(not FILES, reason="no folder ../shared/data/hf_configs here")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_real_config_is_read_or_refused_with_the_reason(file):
    if file.stem in REFUSED:
        with pytest.raises(SpecError) as caught:
            read_config(file)
        assert REFUSED[file.stem] in str(caught.value)
        return
    llm = read_config(file)
    assert llm.architecture is not None
    assert llm.num_parameters == parameters(llm.architecture)
    assert llm.name == file.stem.rpartition("--")[2].lower()
