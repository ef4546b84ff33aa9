"""Read models from the world: config.json files of Hugging Face -> the LLMs of our catalogue."""

from autopar.ingest.hf_config import llm_from_config, read_config

__all__ = ["llm_from_config", "read_config"]
