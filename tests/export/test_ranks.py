"""Rank tables hold what the engines' own code says, stated here once more from their sources.

vLLM 0.33.0, distributed/parallel_state.py, initialize_model_parallel: all ranks reshaped to
(ExternalDP, DP, PP, PCP, TP); expert groups are the ranks of one stage, DP x PCP x TP in order.
SGLang 0.5.23, distributed/parallel_state.py: tensor groups are runs of tp_size; inside of one,
attention groups are runs (layers/dp_attention.py: attn_tp_rank = rank % attn_tp_size), and experts
are runs of moe_tp_size (moe_ep_rank = rank // moe_tp_size).
TensorRT-LLM 1.2 to 1.4, mapping.py: pp_rank = rank // (tp * cp), moe_tp_rank = tp_rank // ep,
moe_ep_rank = tp_rank % ep.
Megatron-Core 0.19.2, core/parallel_state.py: RankGenerator(order="tp-cp-ep-dp-pp"): tp innermost,
then cp, dp, pp; for experts etp innermost, then ep, copies, pp.
"""

from types import ModuleType

import numpy as np
import pytest

from autopar.export.layout import Layout
from autopar.export.ranks import Rank, megatron_ranks, sglang_ranks, trtllm_ranks, vllm_ranks


def drawn(plans: ModuleType, engine: str, seeds: range) -> list[Layout]:
    found = [plans.draw(seed, engine) for seed in seeds]
    return [layout for each in found if each is not None for layout in plans.layouts(*each)]


def holders(layout: Layout, ranks: tuple[Rank, ...]) -> None:
    """Every rank has a GPU of its own, and stands on the GPU where the plan has its part."""
    assert len({rank.gpu for rank in ranks}) == len(ranks)
    for rank in ranks:
        own = (rank.dp % layout.attn_dp * layout.cp + rank.cp) * layout.tp + rank.tp
        assert any(replica[rank.pp][own] == rank.gpu for replica in layout.gpus)
        if layout.is_moe:
            assert own == rank.ep * layout.etp + rank.etp


def test_vllm(plans: ModuleType) -> None:
    for layout in drawn(plans, "vllm", range(40)):
        ranks = vllm_ranks(layout, 0)
        shape = (layout.attn_dp, layout.pp, layout.tp)
        table = np.arange(len(ranks)).reshape(shape)
        for (dp, pp, tp), number in np.ndenumerate(table):
            assert (ranks[number].dp, ranks[number].pp, ranks[number].tp) == (dp, pp, tp)
        for pp in range(layout.pp):  # the group of experts of a stage
            group = table[:, pp].ravel()
            if layout.is_moe and layout.ep > 1:
                assert [ranks[number].ep for number in group] == list(range(layout.ep))
        holders(layout, ranks)


def test_sglang(plans: ModuleType) -> None:
    for layout in drawn(plans, "sglang", range(40)):
        size = layout.stage_gpus
        for rank in sglang_ranks(layout, 0):
            t = rank.rank % size
            attention_tp, moe_tp = size // layout.attn_dp, size // layout.ep
            assert (rank.pp, rank.dp) == (rank.rank // size, t // attention_tp)
            assert rank.tp == t % attention_tp
            if layout.is_moe:
                assert (rank.ep, rank.etp) == (t // moe_tp, t % moe_tp)
        holders(layout, sglang_ranks(layout, 0))


def test_tensorrt_llm(plans: ModuleType) -> None:
    both = 0
    for layout in drawn(plans, "trtllm", range(60)):
        ranks = trtllm_ranks(layout, 0)
        for rank in ranks:
            tp_rank = rank.rank % layout.stage_gpus
            assert rank.pp == rank.rank // layout.stage_gpus
            if layout.is_moe:
                assert rank.etp == tp_rank // layout.ep
                assert rank.ep == tp_rank % layout.ep
        both += layout.ep > 1 and layout.etp > 1
        holders(layout, ranks)
    assert both, "no plan in which the order matters"


@pytest.mark.parametrize("stages_inside", [False, True])
def test_megatron(plans: ModuleType, stages_inside: bool) -> None:
    for layout in drawn(plans, "megatron", range(40)):
        if stages_inside and layout.attn_dp > 1:
            continue
        ranks = megatron_ranks(layout, stages_inside=stages_inside)
        data = layout.attn_dp * layout.replicas
        shape = (
            (data, layout.pp, layout.cp, layout.tp)
            if stages_inside
            else (layout.pp, data, layout.cp, layout.tp)
        )
        for place, number in np.ndenumerate(np.arange(len(ranks)).reshape(shape)):
            pp, dp = (place[1], place[0]) if stages_inside else place[:2]
            rank = ranks[number]
            assert (rank.pp, rank.dp, rank.cp, rank.tp) == (pp, dp, *place[2:])
            if layout.is_moe and not stages_inside:
                inside = number % (len(ranks) // layout.pp)
                assert rank.etp == inside % layout.etp
                assert rank.ep == inside // layout.etp % layout.ep
        holders(layout, ranks)
