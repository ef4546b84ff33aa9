"""Measured training runs with what `autopar.training` predicts for them."""

from collections.abc import Iterator
from functools import lru_cache

from autopar.catalog import load_scenario
from autopar.specs import LLM, Cluster, TrainingCase, TrainingRow
from autopar.specs.counting import active_parameters, parameters
from autopar.training import memory, step_us

_GIB = 2.0**30
_STATE_BYTES = 18.0  # of a parameter: weight, gradient in FP32, two moments and a copy in FP32


def training_figures(
    case: TrainingCase, row: TrainingRow
) -> Iterator[tuple[str, float, float, dict[str, float]]]:
    """Yield metric, predicted, measured and what trivial models say, of each stated figure.

    Raises SpecError where the model does not fit the layout.
    """
    llm, cluster = _parts(case)
    if row.step_s is not None:
        predicted = step_us(llm, cluster, row).total_us / 1e6
        yield "step_s", predicted, row.step_s, {"flops": _flops_s(llm, cluster, row)}
    if row.state_gib is None and row.activation_gib is None:
        return
    found = memory(llm, row)
    if row.state_gib is not None:
        assert llm.architecture is not None  # predicted with it
        held = parameters(llm.architecture) * _STATE_BYTES / (row.tp * row.pp) / _GIB
        yield "state_gib", found.state_bytes / _GIB, row.state_gib, {"bytes": held}
    if row.activation_gib is not None:
        yield "activation_gib", found.activations_bytes / _GIB, row.activation_gib, {}


def gpu_of(case: TrainingCase) -> str:
    """Return the name of the GPU of a case."""
    return _parts(case)[1].gpu.name


def is_moe(case: TrainingCase) -> bool:
    """Whether the model of a case has experts."""
    return _parts(case)[0].is_moe


def _flops_s(llm: LLM, cluster: Cluster, row: TrainingRow) -> float:
    """Six FLOPs for each parameter and token, at the peak rate: constant utilisation."""
    assert llm.architecture is not None  # predicted with it
    tokens = row.global_batch_sequences * row.sequence_tokens
    work = 6.0 * active_parameters(llm.architecture) * tokens
    return work / cluster.gpu.peak_flops_per_s / row.num_gpus


def _parts(case: TrainingCase) -> tuple[LLM, Cluster]:
    """Return the model, stored as the run did, and the cluster."""
    precisions = () if case.precisions is None else tuple(case.precisions.model_dump().items())
    return _load(case.llm, case.cluster, precisions)


@lru_cache(maxsize=256)
def _load(llm: str, cluster: str, precisions: tuple[tuple[str, str], ...]) -> tuple[LLM, Cluster]:
    scenario = load_scenario(
        parts={"llm": llm, "cluster": cluster, "workload": "prefill-8k"},
        overrides=[f"llm.precisions.{part}={value}" for part, value in precisions]
        + ["llm.max_context_tokens=null"],
    )
    return scenario.llm, scenario.cluster
