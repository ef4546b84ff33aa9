"""What is measured covers what models ask for, in an order that can be cut anywhere."""

from collections import Counter

import pytest

from autopar.calibration import cases
from autopar.calibration.cases import Case, planned


def test_every_product_has_the_alignment_that_fp8_kernels_need():
    gemm = [case for case in planned() if case.operation == "gemm"]
    assert {case.name for case in gemm} == {"bf16", "fp8"}
    assert all(case["k"] % 16 == 0 and case["n"] % 16 == 0 for case in gemm)
    assert {case["m"] for case in gemm} >= {1, 64, 1024, 8192}


def test_every_row_of_experts_starts_at_16_bytes():
    experts = [case for case in planned() if case.operation == "experts"]
    assert experts
    assert all(2 * case[size] % 16 == 0 for case in experts for size in ("hidden_size", "ffn"))


def test_attention_has_at_most_16_queries_per_key_and_long_caches():
    decode = [case for case in planned() if case.operation == "decode_attention"]
    assert all(2 <= case["num_heads"] / case["num_key_value_heads"] <= 16 for case in decode)
    assert max(case["context"] for case in decode) >= 128_000
    assert max(map(cases.streamed_bytes, decode)) <= 8 * 2**30


def test_half_of_the_order_is_half_of_every_operation():
    order = planned(num_gpus=4)
    whole = Counter(case.group for case in order)
    half = Counter(case.group for case in order[: len(order) // 2])
    assert all(abs(half[group] - count / 2) <= 1 for group, count in whole.items())


def test_the_order_is_always_the_same_and_has_each_case_once():
    order = planned(num_gpus=8)
    assert order == planned(num_gpus=8)
    assert len(set(order)) == len(order)


def test_operations_and_precisions_narrow_the_cases():
    assert {case.group for case in planned(["gemm"], ["fp8"])} == {("gemm", "fp8")}
    names = {case.name for case in planned(["elementwise", "experts"], ["fp8"])}
    assert names == {"copy", "scale", "triad"}  # which know no precision


@pytest.mark.parametrize(("num_gpus", "sizes"), [(1, []), (2, [2]), (6, [2, 4, 6]), (8, [2, 4, 8])])
def test_groups_are_powers_of_two_and_the_whole_machine(num_gpus, sizes):
    assert cases.group_sizes(num_gpus) == sizes
    order = planned(["collectives"], num_gpus=num_gpus)
    assert sorted({case["gpus"] for case in order}) == sizes


def test_weights_go_round_over_buffers_larger_than_the_cache():
    """2048 x 7168 in bf16 are 29.4 MB: nine of them for 240 MB."""
    case = Case("gemm", "bf16", (8, 2048, 7168))
    assert cases.copies(case, 240e6) == 9
    assert cases.case_bytes(case, 240e6) == 9 * 2048 * 7168 * 2 + 8 * (2048 + 7168) * 2


def test_prompts_find_in_the_cache_what_was_just_written():
    case = Case("prefill_attention", "bf16", (1, 128, 8, 2, 64))
    assert cases.copies(case, 240e6) == 1
    assert cases.held_bytes(case) == 128 * (2 * 8 + 2 * 2) * 64 * 2


def test_experts_without_rows_are_held_but_not_read():
    """One token of top 2 reads 2 of 8 experts of 3 matrices."""
    case = Case("experts", "bf16", (1, 2, 8, 64, 32))
    one = 3 * 64 * 32 * 2
    assert cases.streamed_bytes(case) == 2 * one
    assert cases.case_bytes(case, 1e9) >= 8 * one


def test_the_reference_is_no_case_that_needs_more_than_a_small_gpu():
    assert cases.case_bytes(cases.REFERENCE, 0.0) < 200e6
