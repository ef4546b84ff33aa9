"""Why a stated number is not the recomputed one, found by trying units and degrees."""

from math import prod
from typing import TYPE_CHECKING

from autopar.specs import Claim, Scenario
from autopar.units import format_bytes
from autopar.verifier.metrics import missing_memory_parts
from autopar.verifier.quantities import DIMENSIONS, Book

if TYPE_CHECKING:
    from autopar.verifier.claims import Statement

# One stage is tiled twice by the same GPUs; each product counts the GPUs of the plan.
_GPU_PRODUCTS = (
    ("replicas", "pp", "ep", "etp", "spread"),
    ("replicas", "pp", "tp", "cp", "attn_dp"),
)
_MEANINGS = {
    "replicas": "independent copies of the whole model",
    "pp": "pipeline stages",
    "tp": "GPUs of one tensor-parallel group",
    "cp": "GPUs that share one sequence",
    "attn_dp": "data-parallel attention groups of one stage",
    "ep": "expert-parallel ranks of one grid",
    "etp": "GPUs that share one expert",
    "spread": "disjoint expert grids of one stage, whose layers then do not share GPUs",
}
# What a stated number may be too large or too small by, likeliest first.
_FACTORS = (
    "spread", "replicas", "cp", "etp", "tp", "layers_per_stage", "pp", "ep", "attn_dp",
    "gpus_per_expert", "gpus_per_node", "num_domains", "num_layers", "num_experts",
    "gpus_per_layer", "gpus_per_stage", "num_gpus", "expert_instances", "batch_tokens",
    "bytes_per_parameter", "compute_efficiency", "utilisation", "experts_per_token",
)  # fmt: skip
_RATIO = 1e-3  # relative; a ratio this close to a degree is taken for it
_MEMORY_METRICS = ("peak_memory_bytes_per_gpu", "memory_fraction")


def of(statement: "Statement", real: float, names: frozenset[str], book: Book) -> str:
    """Return why the stated number differs from `real`, in base units.

    names: the quantities from which the claim derives its number.
    """
    claim = statement.claim
    if not real or not claim.value:
        return f"recomputed {statement.said(real)}"
    ratio = claim.value * statement.factor / real
    return (
        _unit_slip(statement, real)
        or _weights_alone(statement, book)
        or _missing(ratio, names, book)
        or f"off by a factor of {number(ratio)}"
    )


def caveat(scenario: Scenario, claim: Claim, book: Book) -> str:
    """Return why a number that agrees is still not derivable; empty where it is."""
    if claim.metric == "flops_per_token":
        return _flops_floor(scenario, book)
    if claim.metric in _MEMORY_METRICS and scenario.cost_model == "declared":
        assert scenario.declared is not None  # the scenario's own validation
        missing = missing_memory_parts(scenario.declared)
        if missing:
            parts = list(missing)
            if scenario.llm.is_moe:
                parts.append("attention weights (expert shards carry all the parameters)")
            weights, stated = (
                book[name].value for name in ("weights_bytes_per_gpu", "peak_memory_bytes_per_gpu")
            )
            covers = "weights only" if weights == stated else "the stated parts only"
            return (
                f"it covers {covers}, {format_bytes(stated or 0.0)} on the fullest GPU; the cost "
                f"model does not state {', '.join(parts)}"
            )
    return ""


def number(value: float | bool) -> str:
    """Return a number for people: whole ones in full, others with four digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if abs(value) < 1e15 and abs(value - round(value)) <= 1e-9 * abs(value):
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.4g}"


def _unit_slip(statement: "Statement", real: float) -> str:
    """Return the unit in which the stated number would be right."""
    unit = statement.claim.unit
    right = [
        other
        for other, factor in DIMENSIONS[statement.dimension].items()
        if factor != statement.factor and statement.agrees(real, factor)
    ]
    if not right:
        return ""
    ratio = statement.claim.value * statement.factor / real
    wrong_by = f"{number(ratio)}" if ratio > 1 else f"1/{number(1 / ratio)}"
    return (
        f"unit slip: {number(statement.claim.value)} is right in {right[0] or 'units of one'}, "
        f"not in {unit or 'units of one'}; wrong by {wrong_by}"
    )


def _weights_alone(statement: "Statement", book: Book) -> str:
    """Say so where a memory claim leaves out parts that the scenario states."""
    alone = {"peak_memory_bytes_per_gpu": "weights_bytes_per_gpu",
             "memory_fraction": "weights_fraction"}.get(statement.claim.metric or "")  # fmt: skip
    weights = book[alone].value if alone else None
    if weights is None or not statement.agrees(weights):
        return ""
    return "it is the weights alone; the scenario states more on a GPU than weights"


def _missing(ratio: float, names: frozenset[str], book: Book) -> str:
    """Return the degrees whose product is the ratio, and what they count."""
    over = ratio > 1
    size = ratio if over else 1 / ratio
    if over and names:
        for product in _GPU_PRODUCTS:
            left = _left_out(product, names, book)
            if left and _close(prod(value for _, value in left), size):
                said = " x ".join(f"{key} = {number(value)}" for key, value in left)
                meaning = "; ".join(f"{key}: {_MEANINGS[key]}" for key, _ in left)
                return f"missing factor {number(size)}: {said} ({meaning})"
    for key in _FACTORS:
        value = book[key].value if key in book else None
        if not value or value == 1 or (key in names and over):
            continue
        value = value if value > 1 else 1 / value
        if _close(value, size):
            word = (
                "missing factor" if over and names else "too large by" if over else "too small by"
            )
            meaning = f" ({_MEANINGS[key]})" if key in _MEANINGS else ""
            return f"{word} {number(size)}, which is {key}{meaning}"
    return ""


def _left_out(
    product: tuple[str, ...], names: frozenset[str], book: Book
) -> list[tuple[str, float]]:
    """Return the degrees of a product that the derivation does not name and that are not 1.

    "TP" of a text covers attention and experts where the two sizes are equal.
    """
    values = {key: book[key].value for key in (*product, "tp", "etp")}
    covered = set(names)
    if values["tp"] == values["etp"] and names & {"tp", "etp"}:
        covered |= {"tp", "etp"}
    return [
        (key, value)
        for key in product
        if key not in covered and (value := values[key]) is not None and value != 1
    ]


def _close(value: float, size: float) -> bool:
    return abs(value - size) <= _RATIO * size


def _flops_floor(scenario: Scenario, book: Book) -> str:
    """Hold a declared work per token against the least that the parameters imply.

    Every parameter that a token meets costs a multiply-add. With all parameters in the experts, a
    token meets those of `experts_per_token` experts of every layer, at least of one; parameters
    outside the experts would only add to that (embeddings, which are looked up, apart).
    """
    llm, given = scenario.llm, book["flops_per_token"].value
    assert given is not None  # caveat() is asked only for numbers that agree
    chosen = llm.experts_per_token or 1
    floor = 2 * llm.num_parameters * (chosen / llm.num_experts if llm.is_moe else 1)
    if given >= floor:
        return ""
    experts = "one expert" if chosen == 1 else f"{chosen} experts"
    least = f"even {experts} per token" if llm.is_moe else "a multiply-add per parameter"
    return (
        f"not derivable from {number(llm.num_parameters)} parameters, taken as given; "
        f"contradicted: {least} needs at least {floor / 1e9:,.4g} GFLOP, "
        f"{floor / given:,.3g} times as much"
    )
