"""Bytes of one part, by hand."""

import numpy as np
import pytest

from autopar.costs.operations import parts


def test_a_gated_feed_forward_has_three_matrices_and_a_plain_one_two():
    """3 x 8 x 10 = 240 parameters at half a byte: 120; 2 x 8 x 10 = 160: 80."""
    assert parts.ffn_weight_bytes(8, 10, 3, 0.5) == 120
    assert parts.ffn_weight_bytes(8, 10, 2, 0.5) == 80


def test_embedding():
    """8 x 100 x 2 = 1600."""
    assert parts.embedding_weight_bytes(8, 100, 2.0) == 1600


def test_kv_cache_of_llama_3_1_70b_is_320_kib_per_token():
    """2 x 8 kv heads x 128 x 2 bytes = 4,096 a layer; x 80 = 327,680 = 320 KiB."""
    assert 80 * parts.kv_cache_bytes(1, 2 * 8 * 128, 2.0) == 320 * 1024


def test_activations_take_two_bytes():
    assert parts.activation_bytes(3, 7) == 42


def test_reserve_is_a_few_gib():
    """3.5 GiB of engine and context, 0.38281 GiB of NCCL."""
    assert pytest.approx(3.88281) == parts.RUNTIME_RESERVE_BYTES / 2**30


def test_shard_is_an_equal_part():
    assert parts.shard_bytes(20e9, np.array([1, 512])).tolist() == [20e9, 39_062_500]


def test_declared_rate_of_the_document():
    """400e12 x 0.6 x 0.25 / 0.5e9 = 120,000 tokens/s."""
    assert parts.declared_tokens_per_s_per_gpu(400e12, 0.6, 0.25, 0.5e9) == pytest.approx(120_000)
