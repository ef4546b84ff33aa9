"""The model of the catalogue that a path or a repository on Hugging Face is, by its name."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

_LIKE = 0.6  # of the letters are the same
# Repositories whose config.json is a source of the catalogue's file of this model; the test of this
# module holds both together.
REPOSITORIES: Mapping[str, str] = {
    "gemma-4-31b-it-nvfp4": "gemma-4-31b-nvfp4",
    "llama-3.1-70b-instruct-fp8": "llama-3.1-70b-fp8",
    "llama-3_3-nemotron-super-49b-v1": "llama-3.3-nemotron-super-49b",
    "llama-4-maverick-17b-128e-instruct": "llama-4-maverick",
    "llama-4-scout-17b-16e-instruct": "llama-4-scout",
    "meta-llama-3.1-405b": "llama-3.1-405b",
    "meta-llama-3.1-70b": "llama-3.1-70b",
    "meta-llama-3.1-8b": "llama-3.1-8b",
    "mimo-7b-base": "mimo-7b",
    "mixtral-8x22b-v0.1": "mixtral-8x22b",
    "mixtral-8x7b-v0.1": "mixtral-8x7b",
    "nemotron-h-56b-base-8k": "nemotron-h-56b",
    "nvidia-nemotron-3-nano-30b-a3b-bf16": "nemotron-3-nano-30b-a3b",
    "nvidia-nemotron-3-super-120b-a12b-fp8": "nemotron-3-super-120b-a12b-fp8",
    "nvidia-nemotron-3-super-120b-a12b-nvfp4": "nemotron-3-super-120b-a12b-nvfp4",
    "nvidia-nemotron-3-ultra-550b-a55b-bf16": "nemotron-3-ultra-550b-a55b",
    "qwen3-next-80b-a3b-thinking": "qwen3-next-80b-a3b",
}
# Names that a repository had before -> the one that it has; old scripts and the vLLM example of
# kubernetes-sigs/lws have them. Of quantised ones the catalogue has no file with that source.
FORMER_NAMES: Mapping[str, str] = {
    "meta-llama-3.1-405b-fp8": "Llama-3.1-405B-FP8",
    "meta-llama-3.1-405b-instruct-fp8": "Llama-3.1-405B-Instruct-FP8",
}
# Other weights of the same structure, each with where its makers say so.
SAME_STRUCTURE: Mapping[str, tuple[str, str]] = {
    name: ("deepseek-v3", f"the model card of deepseek-ai/{card}, 'How to Run Locally'")
    for name, card in (
        ("deepseek-v3-0324", "DeepSeek-V3-0324"),
        ("deepseek-v3.1", "DeepSeek-V3.1"),
        ("deepseek-v3.1-terminus", "DeepSeek-V3.1-Terminus"),
    )
}


def catalogue_name(path: str, known: Collection[str]) -> tuple[str, str]:
    """Return the known model that a path names, and why it is taken for it.

    Both are empty where none is; the second where the name says it. Tuning to instructions changes
    no shape.
    """
    base = _base(path)
    for name in dict.fromkeys((base, base.replace("-instruct", ""))):
        if name in known:
            return name, ""
        if REPOSITORIES.get(name) in known:
            return REPOSITORIES[name], "the catalogue has it from that repository's config.json"
        if name in SAME_STRUCTURE and SAME_STRUCTURE[name][0] in known:
            model, source = SAME_STRUCTURE[name]
            return model, f"the same structure, by {source}"
    if base in FORMER_NAMES:
        name, _ = catalogue_name(FORMER_NAMES[base], known)
        return name, f"a former name of {FORMER_NAMES[base]}" if name else ""
    return "", ""


def nearest_names(path: str, known: Collection[str]) -> list[str]:
    """Return known models whose names are like that of a path, the nearest first."""
    return get_close_matches(_base(path)[:200], sorted(known), n=3, cutoff=_LIKE)


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].lower()
