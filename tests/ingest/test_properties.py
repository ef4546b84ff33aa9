"""For any legal config, the closed formula counts what a list of all tensors adds up to."""

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from autopar.documents import parse
from autopar.ingest import llm_from_config
from autopar.ingest.layers import runs
from autopar.ingest.yaml_text import yaml_text
from autopar.specs import LLM, Layer


def size(largest):
    return st.integers(1, largest)


@st.composite
def decoders(draw):
    """Draw a llama, mixtral or qwen3_moe with every switch that it has."""
    kv_heads, hidden = draw(size(8)), draw(size(300))
    config = {
        "model_type": draw(st.sampled_from(["llama", "mixtral", "qwen3_moe"])),
        "num_hidden_layers": draw(size(6)),
        "hidden_size": hidden,
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * draw(size(6)),
        "head_dim": draw(size(64)),
        "vocab_size": draw(size(1000)),
        "intermediate_size": draw(size(500)),
        "tie_word_embeddings": draw(st.booleans()),
    }
    if config["model_type"] != "mixtral":
        config["attention_bias"] = draw(st.booleans())
    if config["model_type"] == "llama":
        config["mlp_bias"] = draw(st.booleans())
        return config
    count = draw(size(16))
    key = "num_local_experts" if config["model_type"] == "mixtral" else "num_experts"
    config |= {key: count, "num_experts_per_tok": draw(st.integers(1, count))}
    if config["model_type"] == "qwen3_moe":
        layers = st.integers(0, config["num_hidden_layers"] - 1)
        config["moe_intermediate_size"] = draw(size(300))
        config["decoder_sparse_step"] = draw(size(3))
        config["mlp_only_layers"] = draw(st.lists(layers, max_size=2, unique=True))
    return config


def tensors(config):
    """Return the shape of every tensor of the checkpoint, layer by layer, expert by expert."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes = [(vocabulary, hidden), (hidden,)]
    if not config["tie_word_embeddings"]:
        shapes.append((vocabulary, hidden))
    for layer in range(config["num_hidden_layers"]):
        shapes += [(hidden,), (hidden,), *attention_tensors(config), *feed_tensors(config, layer)]
    return shapes


def attention_tensors(config):
    hidden, dim = config["hidden_size"], config["head_dim"]
    queries, keys = (config[f"num_{k}_heads"] * dim for k in ("attention", "key_value"))
    yield from ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries))
    if config.get("attention_bias"):
        yield from ((queries,), (keys,), (keys,), (hidden,))
    if config["model_type"] == "qwen3_moe":
        yield from ((dim,), (dim,))


def feed_tensors(config, layer):
    hidden, dense = config["hidden_size"], config["intermediate_size"]
    count = config.get("num_experts", config.get("num_local_experts", 0))
    step = config.get("decoder_sparse_step", 1)
    is_sparse = count and layer not in config.get("mlp_only_layers", []) and not (layer + 1) % step
    if not is_sparse:
        yield from ((dense, hidden), (dense, hidden), (hidden, dense))
        if config.get("mlp_bias"):
            yield from ((dense,), (dense,), (hidden,))
        return
    yield (count, hidden)
    width = config.get("moe_intermediate_size", dense)
    for _ in range(count):
        yield from ((width, hidden), (width, hidden), (hidden, width))


@given(config=decoders())
def test_the_count_is_the_sum_over_all_tensors(config):
    llm = llm_from_config(config, where="config.json")
    assert llm.num_parameters == sum(prod(shape) for shape in tensors(config))
    assert llm.num_layers == config["num_hidden_layers"]


@given(config=decoders())
def test_any_model_reads_back_from_its_yaml(config):
    llm = llm_from_config(config, where="config.json")
    assert LLM.model_validate(parse(yaml_text(llm), "model.yaml")) == llm


@given(words=st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_runs_are_the_layers_in_order(words):
    layers = [Layer(attention=word) for word in words]
    blocks = runs(layers)
    unrolled = [layer for run in blocks for _ in range(run.count) for layer in run.layers]
    assert unrolled == layers
    assert sum(len(run.layers) for run in blocks) <= len(layers)


@given(words=st.lists(st.sampled_from("abc"), min_size=1, max_size=8), count=st.integers(2, 30))
def test_a_pattern_that_repeats_is_written_once(words, count):
    layers = [Layer(attention=word) for word in words] * count
    (run,) = runs(layers)
    assert run.count * len(run.layers) == len(layers)
    assert len(run.layers) <= len(words)


@given(name=st.text(min_size=1, max_size=150))
def test_any_name_becomes_a_legal_one(name):
    config = {
        "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2,
        "intermediate_size": 8, "vocab_size": 8,
    }  # fmt: skip
    assert llm_from_config(config, name=name, where="config.json").name
