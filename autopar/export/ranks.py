"""Which rank an engine gives to which GPU: the orders in which engines count their processes.

Our own order inside a stage is (attn_dp, cp, tp) and (ep, etp), the last innermost. Sources of the
orders of engines: docs/engines.md, "Ranks".
"""

from dataclasses import dataclass

from autopar.export.layout import Layout


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a server: where it stands in the grids, and on which GPU of the cluster."""

    server: int
    rank: int
    gpu: int
    pp: int
    dp: int
    cp: int
    tp: int
    ep: int
    etp: int


def vllm_ranks(layout: Layout, server: int) -> tuple[Rank, ...]:
    """Data parallel ranks outermost, then stages, tensor ranks innermost.

    Source: vLLM 0.33.0, distributed/parallel_state.py, initialize_model_parallel: "ExternalDP x DP
    x PP x PCP x TP".
    """
    return _numbered(
        layout,
        server,
        [
            (pp, dp * layout.tp + tp)
            for dp in range(layout.attn_dp)
            for pp in range(layout.pp)
            for tp in range(layout.tp)
        ],
    )


def sglang_ranks(layout: Layout, server: int) -> tuple[Rank, ...]:
    """Stages outermost; inside of them attention groups, context, tensor; experts, their shards.

    Source: SGLang 0.5.23, distributed/parallel_state.py and layers/dp_attention.py.
    """
    return _numbered(layout, server, _by_stage(layout))


def trtllm_ranks(layout: Layout, server: int) -> tuple[Rank, ...]:
    """Stages outermost; expert ranks innermost, their shards outside of them, cp inside of tp.

    Source: TensorRT-LLM 1.2 to 1.4, tensorrt_llm/mapping.py: moe_tp_rank = tp_rank // moe_ep_size,
    moe_ep_rank = tp_rank % moe_ep_size; cp_rank = rank % cp_size.
    """
    if layout.cp > 1:
        inside = [c * layout.tp + t for t in range(layout.tp) for c in range(layout.cp)]
    elif layout.is_moe:
        inside = [e * layout.etp + s for s in range(layout.etp) for e in range(layout.ep)]
    else:
        inside = list(range(layout.stage_gpus))
    return _numbered(layout, server, [(pp, own) for pp in range(layout.pp) for own in inside])


def megatron_ranks(layout: Layout, *, stages_inside: bool = False) -> tuple[Rank, ...]:
    """All replicas in one world: stages outermost, then replicas, each as we count it.

    stages_inside: with --use-tp-pp-dp-mapping, data parallel ranks are outside of the stages.
    Source: Megatron-Core 0.19.2, core/parallel_state.py, RankGenerator of "tp-cp-ep-dp-pp", and of
    "tp-cp-ep-pp-dp".
    """
    if stages_inside:
        size = layout.tp * layout.cp
        places = [
            (replica, pp, group * size + own)
            for replica in range(layout.replicas)
            for group in range(layout.attn_dp)
            for pp in range(layout.pp)
            for own in range(size)
        ]
    else:
        places = [
            (replica, pp, own)
            for pp in range(layout.pp)
            for replica in range(layout.replicas)
            for own in range(layout.stage_gpus)
        ]
    return tuple(
        _rank(layout, 0, number, replica, pp, own)
        for number, (replica, pp, own) in enumerate(places)
    )


def _by_stage(layout: Layout) -> list[tuple[int, int]]:
    return [(pp, own) for pp in range(layout.pp) for own in range(layout.stage_gpus)]


def _numbered(layout: Layout, server: int, places: list[tuple[int, int]]) -> tuple[Rank, ...]:
    return tuple(
        _rank(layout, server, number, server, pp, own) for number, (pp, own) in enumerate(places)
    )


def _rank(layout: Layout, server: int, number: int, replica: int, pp: int, own: int) -> Rank:
    """Return a rank by its place in the plan: the stage, and our own rank inside of it."""
    group, inside = divmod(own, layout.tp * layout.cp)
    data = replica * layout.attn_dp + group if layout.replicas > 1 and server != replica else group
    return Rank(
        server=server,
        rank=number,
        gpu=layout.gpus[replica][pp][own],
        pp=pp,
        dp=data,
        cp=inside // layout.tp,
        tp=inside % layout.tp,
        ep=own // layout.etp % layout.ep if layout.is_moe else 0,
        etp=own % layout.etp if layout.is_moe else 0,
    )
