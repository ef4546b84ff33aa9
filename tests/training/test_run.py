"""How a run lies on its GPUs."""

import pytest

from autopar.errors import SpecError
from autopar.training.run import Run


def test_ranks_are_counted(toys):
    """tp 2, cp 2, 2 x 4 data-parallel ranks, 2 stages: 64 GPUs, 32 a stage, 64 / 8 sequences."""
    layout = {"tp": 2, "cp": 2, "attn_dp": 2, "replicas": 4, "pp": 2}
    run = Run.of(toys.llm(), toys.row(**layout, micro_batch_sequences=2))
    assert (run.data_ranks, run.stage_gpus, run.gradient_ranks) == (8, 32, 16)
    assert run.micro_batches == 4
    assert run.tokens == 2 * 1024 / 2


def test_experts_have_a_grid_of_their_own(toys):
    """tp 2 x 4 ranks = ep 4 x etp 2 GPUs; 3 replicas of the grid hold the same experts."""
    model = toys.llm(feed_forward=toys.experts)
    layout = {"tp": 2, "attn_dp": 4, "replicas": 2, "ep": 4, "etp": 2}
    run = Run.of(model, toys.row(**layout))
    assert (run.etp, run.expert_ranks, run.gradient_ranks) == (2, 2, 8)
    assert Run.of(model, toys.row(**(layout | {"etp": None}))).etp == 2


def test_sequence_parallelism_divides_what_is_not_a_product(toys):
    run = Run.of(toys.llm(), toys.row(tp=4, sequence_parallel=True))
    assert (run.tokens, run.own_tokens) == (1024, 256)


@pytest.mark.parametrize(
    ("layers", "pp", "chunks", "sizes"),
    [
        (8, 2, 2, [[2, 2], [2, 2]]),
        (126, 8, 8, [[1, *[2] * 7], *[[2] * 8] * 6, [*[2] * 7, 1]]),  # the ends count as layers
        (10, 2, 2, [[2, 3], [3, 2]]),
        (9, 4, 1, [[3], [2], [2], [2]]),
        (6, 4, 2, [[0, 1], [1, 1], [1, 1], [1, 0]]),
    ],
)
def test_layers_are_dealt_over_chunks(toys, layers, pp, chunks, sizes):
    run = Run.of(toys.llm(layers), toys.row(pp=pp, virtual_stages=chunks))
    assert [[len(chunk) for chunk in stage] for stage in run.chunks] == sizes
    dealt = sorted(layer for stage in range(pp) for layer in run.layers_of(stage))
    assert dealt == list(range(layers))


def test_chunks_of_a_stage_are_as_many_stages_apart(toys):
    """4 layers on 2 stages of 2 chunks: layers 0 and 2 on the first."""
    run = Run.of(toys.llm(), toys.row(pp=2, virtual_stages=2))
    assert (run.layers_of(0), run.layers_of(1)) == ((0, 2), (1, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replicas": 3}, "global_batch_sequences 64 is not a multiple of 3"),
        ({"pp": 8}, "pp \\* virtual_stages is 8, more than the 4 layers"),
        ({"tp": 2, "ep": 4}, "is not a multiple of ep 4"),
        ({"attn_dp": 4, "ep": 2, "etp": 1}, "ep \\* etp is 2, but tp \\* cp \\* attn_dp is 4"),
    ],
)
def test_a_row_that_does_not_fit_its_model_is_refused(toys, given, message):
    model = toys.llm(feed_forward=toys.experts if "ep" in given else None)
    with pytest.raises(SpecError, match=message):
        Run.of(model, toys.row(**given))


def test_a_model_without_shapes_is_refused(toys, load):
    bare = toys.llm().model_copy(update={"architecture": None})
    with pytest.raises(SpecError, match=r"llm\.architecture: missing"):
        Run.of(bare, toys.row())
