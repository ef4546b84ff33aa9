"""Megatron-Core: torchrun with the arguments of megatron/training.

What maps to what, and where it was read: docs/engines/megatron.md. All replicas are one world: they
are what Megatron calls data parallelism.
"""

from autopar.errors import InexpressibleError
from autopar.export.experts import refuse_other_placement
from autopar.export.launch import Launch, Share, Written, devices, shares_of
from autopar.export.layout import Layout
from autopar.export.megatron_model import model_sizes, said_of_left_out, stored_otherwise
from autopar.export.options import NAMES, Options
from autopar.export.ranks import Rank, megatron_ranks

_NAME = NAMES["megatron"]
_MASTER_PORT = 29500
# What the commands lack: none of it is in a plan or in the spec of a model.
TEMPLATE = (
    "a template: add data, tokenizer, optimiser and checkpoints (--data-path or --mock-data, "
    "--tokenizer-type, --train-iters, --lr, --save), and of the model what is no size "
    "(--normalization, --position-embedding-type, --rotary-base, the habits of its router), or "
    "--load with --use-checkpoint-args; Megatron does not train without the first, and trains "
    "another model of these sizes without the second"
)
_TRAINS = (
    "Megatron trains: the plan says how a forward pass lies on GPUs, and counts no gradients and "
    "no optimiser states"
)


def lacks(layout: Layout) -> str:
    """Return what a user has to add to the commands, sizes that they do not say included."""
    left_out = said_of_left_out(model_sizes(layout), layout.llm)
    return f"{TEMPLATE}; {left_out}" if left_out else TEMPLATE


def launches(
    layout: Layout,
    options: Options,
    first: int,  # noqa: ARG001  as for every engine; there is one server
) -> tuple[list[Launch], list[Written], list[Rank], list[str]]:
    """Return commands, files, ranks and notes of one layout, which is one server."""
    if layout.role:
        raise InexpressibleError(_NAME, ["it trains, and has no servers for prompts and answers"])
    if layout.chunks > layout.fewest_chunks:
        raise InexpressibleError(_NAME, [_in_parts(layout.chunks)])
    refuse_other_placement(layout, _NAME, "Megatron deals them in runs")
    ranks, shares, order = _placed(layout)
    sizes = model_sizes(layout)
    common = [*_parallel(layout), *order, *_batch(layout), *sizes.argv]
    commands = [
        _on_node(layout, options, shares, node_rank, common) for node_rank in range(len(shares))
    ]
    notes = [_TRAINS, *filter(None, [said_of_left_out(sizes, layout.llm)])]
    stored = stored_otherwise(layout)
    if stored:
        notes.append(
            f"the plan counts weights in {', '.join(stored)}: no argument of precision is written"
        )
    if layout.chunks > 1:
        notes.append(
            f"Megatron computes sequences whole, not in {layout.chunks} parts, the fewest that the "
            "workload's steps have room for: no plan of it says what that costs"
        )
    return commands, [], list(ranks), notes


def _in_parts(chunks: int) -> str:
    return (
        f"it computes sequences whole, and has no words for prompts in {chunks} parts "
        "(solve with --set workload.chunked_prefill=false has none of them)"
    )


def _placed(layout: Layout) -> tuple[tuple[Rank, ...], tuple[Share, ...], list[str]]:
    """Return ranks, nodes and the flag of the order of ranks in which they lie as planned.

    The usual order has all replicas of a stage side by side; --use-tp-pp-dp-mapping has the stages
    of a data-parallel rank side by side, and is asked for only where the usual one does not fit.
    """
    wrong = ""
    for inside, flags in ((False, []), (True, ["--use-tp-pp-dp-mapping"])):
        if inside and (layout.pp == 1 or not _keeps_groups(layout)):
            continue
        ranks = megatron_ranks(layout, stages_inside=inside)
        shares, why = shares_of(ranks, layout.cluster.gpus_per_node)
        if not why:
            return ranks, shares, list(flags)
        wrong = wrong or why
    raise InexpressibleError(_NAME, [wrong])


def _keeps_groups(layout: Layout) -> bool:
    """Whether expert groups lie as planned where data-parallel ranks are outside of stages."""
    return layout.attn_dp == 1


def _parallel(layout: Layout) -> list[str]:
    argv = ["--tensor-model-parallel-size", str(layout.tp)]
    argv += ["--pipeline-model-parallel-size", str(layout.pp)]
    if layout.pp > 1:
        argv += ["--pipeline-model-parallel-layout", layout_text(layout.split)]
    argv += ["--context-parallel-size", str(layout.cp)]
    if layout.is_moe:
        argv += ["--expert-model-parallel-size", str(layout.ep)]
        argv += ["--expert-tensor-parallel-size", str(layout.etp)]
    return [*argv, "--sequence-parallel"] if layout.tp > 1 else argv


def layout_text(split: tuple[int, ...]) -> str:
    """Return the layers of stages as --pipeline-model-parallel-layout has them: Et*2|t*2L."""
    stages = [f"t*{count}" if count > 1 else "t" for count in split]
    stages[0] = f"E{stages[0]}"
    stages[-1] = f"{stages[-1]}L"
    return "|".join(stages)


def _batch(layout: Layout) -> list[str]:
    micro = max(1, layout.batch or layout.capacity.sequences)
    groups = layout.attn_dp * layout.replicas
    return [
        "--micro-batch-size",
        str(micro),
        "--global-batch-size",
        str(micro * groups * layout.pp),
        "--seq-length",
        str(layout.capacity.context_tokens),
        "--max-position-embeddings",
        str(layout.capacity.context_tokens),
    ]


def _on_node(
    layout: Layout,
    options: Options,
    shares: tuple[Share, ...],
    node_rank: int,
    common: list[str],
) -> Launch:
    share = shares[node_rank]
    run = ["torchrun", "--nnodes", str(len(shares)), "--node-rank", str(node_rank)]
    run += ["--nproc-per-node", str(len(share.gpus))]
    run += ["--master-addr", options.host(shares[0].node), "--master-port", str(_MASTER_PORT)]
    argv = (*run, "pretrain_gpt.py", *common)
    env = {**devices(share), "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    host = options.host(share.node)
    return Launch(0, layout.role, node_rank, share.node, host, share.gpus, argv, env)
