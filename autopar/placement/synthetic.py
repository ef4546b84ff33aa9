"""Loads of experts made up from a seed, for tests and benchmarks, where nobody measured any.

Lognormal loads with sigma 1.0 to 1.1 have the imbalance that NVIDIA published for DeepSeek-R1 on 32
GPUs ((max - mean) / mean = 1.56; TensorRT-LLM, examples/wide_ep/ep_load_balancer). One published
workload of Qwen3-235B is heavier: sigma 1.6 to 2.4.

python -m autopar.placement.synthetic --layers 58 --experts 256 > loads.json
"""

import argparse
import json

import numpy as np

from autopar.placement.machine import FloatArray, IntArray

KINDS = ("mild", "lognormal", "heavy", "zipf", "dirichlet")


def made_up(kind: str, num_layers: int, num_experts: int, seed: int) -> FloatArray:
    """Return loads of a kind, shape (layers, experts); the mean of each layer is 1,000.

    mild: lognormal, sigma 0.1 to 0.4. lognormal: sigma 0.5 to 1.2. heavy: sigma 1.6 to 2.4. zipf:
    exponents 0.4 to 1. dirichlet: concentration 0.5 to 4. Parameters grow from layer to layer.
    """
    rng = np.random.RandomState(seed)  # whose stream numpy has frozen (NEP 19)
    shape = (num_layers, num_experts)
    ranges = {"mild": (0.1, 0.4), "lognormal": (0.5, 1.2), "heavy": (1.6, 2.4), "zipf": (0.4, 1.0)}
    low, high = ranges.get(kind, (0.5, 4.0))
    step = np.linspace(low, high, num_layers)[:, None]
    match kind:
        case "mild" | "lognormal" | "heavy":
            drawn = np.exp(step * rng.standard_normal(shape))
        case "zipf":
            ranks = np.array([rng.permutation(num_experts) + 1 for _ in range(num_layers)])
            drawn = ranks**-step
        case "dirichlet":
            drawn = rng.standard_gamma(np.broadcast_to(step, shape))
        case _:
            raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    return np.asarray(drawn * 1000 / drawn.mean(axis=1, keepdims=True))


def drifted(loads: FloatArray, sigma: float, seed: int) -> FloatArray:
    """Return loads each of which has changed by a lognormal factor, with the same sum."""
    rng = np.random.RandomState(seed)
    moved = loads * np.exp(sigma * rng.standard_normal(loads.shape))
    return np.asarray(moved * (loads.sum(axis=1) / moved.sum(axis=1))[:, None])


def windows(loads: FloatArray, num_windows: int, tokens: int, drift: float, seed: int) -> IntArray:
    """Return counts of (token, expert) pairs in windows, shape (windows, layers, experts).

    Each window's loads have drifted by themselves; so many pairs are then drawn.
    """
    rng = np.random.RandomState(seed)
    made = []
    for _ in range(num_windows):
        now = drifted(loads, drift, int(rng.randint(2**31 - 1)))
        share = now / now.sum(axis=1, keepdims=True)
        made.append([rng.multinomial(tokens, row) for row in share])
    return np.asarray(made)


def clustered_routing(
    num_tokens: int, num_experts: int, experts_per_token: int, num_topics: int, seed: int
) -> IntArray:
    """Return the experts of each token where tokens have topics; shape (tokens, experts per token).

    Each topic prefers some experts by a Dirichlet law, and a token takes its experts by the Gumbel
    top-k trick: without repetition, each next one in proportion to the topic's preference.
    """
    rng = np.random.RandomState(seed)
    taste = np.log(np.maximum(rng.dirichlet(np.full(num_experts, 0.3), num_topics), 1e-9))
    topic = rng.randint(num_topics, size=num_tokens)
    score = taste[topic] + rng.gumbel(size=(num_tokens, num_experts))
    return np.asarray(np.sort(np.argsort(-score, axis=1)[:, :experts_per_token], axis=1))


def main(arguments: list[str] | None = None) -> None:
    """Write made-up loads to standard output, as `autopar place` reads them."""
    parser = argparse.ArgumentParser(
        prog="python -m autopar.placement.synthetic", description=__doc__
    )
    parser.add_argument("--kind", choices=KINDS, default="lognormal")
    parser.add_argument("--layers", type=int, default=58)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--windows", type=int, default=8, help="windows of so many --tokens")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="(token, expert) pairs each")
    parser.add_argument("--drift", type=float, default=0.05, help="lognormal sigma of a window")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    loads = made_up(given.kind, given.layers, given.experts, given.seed)
    counts = windows(loads, given.windows, given.tokens, given.drift, given.seed)
    print(json.dumps({"windows": counts.tolist()}))  # noqa: T201  a command of its own


if __name__ == "__main__":
    main()
