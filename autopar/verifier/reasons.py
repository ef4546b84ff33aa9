"""Why a stated number is not the recomputed one: a unit, a part, or a degree left out."""

import math
from collections.abc import Mapping
from itertools import combinations
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
_TIMES = (("pp", "layers_per_stage"),)  # what a time is made of; no other degree multiplies it
# Degrees that a derivation has in it when it speaks of these.
_STAGE = ("tp", "cp", "attn_dp", "ep", "etp", "spread")
_CONTAINS: Mapping[str, tuple[str, ...]] = {
    "num_stages": ("pp",),
    "stage_boundaries": ("pp",),
    "gpus_per_expert": ("etp",),
    "gpus_per_layer": ("ep", "etp"),
    "gpus_per_expert_grid": ("ep", "etp"),
    "expert_grids": ("replicas", "pp", "spread"),
    "gpus_per_stage": _STAGE,
    "num_gpus": ("replicas", "pp", *_STAGE),
    "tensor_groups": ("replicas", "pp", *_STAGE),
    "expert_parts": ("replicas", "etp"),
    "concurrency": ("replicas", "pp"),
}
# Recomputed from the spec alone, so that no degree of a plan is in them.
_SPEC_ONLY = ("expert_instances", "weight_bytes", "num_domains", "effective_flops_per_s")
_MEANINGS = {
    "replicas": "independent copies of the whole model",
    "pp": "pipeline stages",
    "layers_per_stage": "layers that one stage works through",
    "tp": "GPUs of one tensor-parallel group",
    "cp": "GPUs that share one sequence",
    "attn_dp": "data-parallel attention groups of one stage",
    "ep": "expert-parallel ranks of one grid",
    "etp": "GPUs that share one expert",
    "spread": "disjoint expert grids of one stage, whose layers then do not share GPUs",
}
_RATIO = 1e-3  # relative; a derivation that a degree brings this close to its metric lacks it
_EXACT = 1e-9  # relative; the float error of a ratio
_NEAR = 0.01  # relative; a number this close to the right one in another unit is a slip of the unit
_EXTREME = 1e-30  # ratios below this, or above its inverse, are written with an exponent
_MEMORY_METRICS = ("peak_memory_bytes_per_gpu", "memory_fraction")


def of(statement: "Statement", real: float, book: Book) -> str:
    """Return why the stated number differs from `real`, in base units.

    Every plan has degrees that happen to be the ratio, so none is blamed here.
    """
    claim = statement.claim
    if not real or not claim.value:
        return f"recomputed {statement.said(real)}"
    ratio = claim.value * statement.factor / real
    return (
        _unit_slip(statement, real)
        or _weights_alone(statement, book)
        or f"off by a factor of {times(ratio)}"
    )


def of_derivation(
    statement: "Statement", real: float, derived: float, names: frozenset[str], book: Book
) -> str:
    """Return why a derivation does not give the number of its metric, which is right.

    names: the quantities in the derivation. A degree is missing where the derivation, multiplied by
    it, gives the metric; where several do, each is named.
    """
    if not real or not derived:
        return f"{statement.claim.metric} is {statement.said(real)}"
    ratio = real / derived
    possible = _missing(statement.claim.metric or "", ratio, names, book)
    if not possible:
        return f"off by a factor of {times(ratio)}"
    said = " or ".join(" x ".join(f"{k} = {number(v)}" for k, v in way) for way in possible)
    meanings = dict.fromkeys(f"{key}: {_MEANINGS[key]}" for way in possible for key, _ in way)
    head = f"missing factor {times(ratio)}: " + ("" if len(possible) == 1 else "possibly ")
    return f"{head}{said} ({'; '.join(meanings)})"


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


def times(ratio: float) -> str:
    """Return a ratio for people: "2", "1/16", "about 1,000" where it is not quite that."""
    size = abs(ratio)
    if size < _EXTREME or size > 1 / _EXTREME:
        return f"{ratio:.4g}"
    large, about = size if size >= 1 else 1 / size, ""
    if abs(large - round(large)) <= _EXACT * large:
        said = f"{round(large):,}"
    elif abs(large - 1) <= _RATIO:
        said = f"{large:.7g}"
    elif abs(large - round(large)) <= _RATIO * large:
        about, said = "about ", f"{round(large):,}"
    else:
        said = number(large)
    return about + ("-" if ratio < 0 else "") + ("" if size >= 1 else "1/") + said


def _unit_slip(statement: "Statement", real: float) -> str:
    """Return the unit in which the stated number would be right, or right but for 1 %."""
    claim = statement.claim
    units = DIMENSIONS[statement.dimension]
    others = [unit for unit, factor in units.items() if factor != statement.factor]
    right, about = [unit for unit in others if statement.agrees(real, units[unit])], ""
    if not right:
        right = [u for u in others if abs(claim.value * units[u] - real) <= _NEAR * abs(real)]
        about = "about "
    if not right:
        return ""
    ratio = claim.value * statement.factor / real
    if about:  # what the units alone make of it
        ratio = statement.factor / units[right[0]]
    return (
        f"unit slip: {number(claim.value)} is {about}right in {right[0] or 'units of one'}, "
        f"not in {claim.unit or 'units of one'}; wrong by {about}{times(ratio)}"
    )


def _weights_alone(statement: "Statement", book: Book) -> str:
    """Say so where a memory claim leaves out parts that the scenario states."""
    alone = {"peak_memory_bytes_per_gpu": "weights_bytes_per_gpu",
             "memory_fraction": "weights_fraction"}.get(statement.claim.metric or "")  # fmt: skip
    weights = book[alone].value if alone else None
    if weights is None or not statement.agrees(weights):
        return ""
    return "it is the weights alone; the scenario states more on a GPU than weights"


def _missing(
    metric: str, ratio: float, names: frozenset[str], book: Book
) -> list[tuple[tuple[str, float], ...]]:
    """Return every set of degrees that the derivation lacks and whose product is the ratio.

    Degrees of one product go together. A quantity that the spec alone decides lacks none.
    """
    if book[metric].origin == "spec" or metric in _SPEC_ONLY:
        return []
    ways: dict[tuple[str, ...], tuple[tuple[str, float], ...]] = {}
    for product in _TIMES if book[metric].dimension == "duration" else _GPU_PRODUCTS:
        left = _left_out(product, names, book)
        for size in range(1, len(left) + 1):
            for way in combinations(left, size):
                if _close(math.prod(value for _, value in way), ratio):
                    ways.setdefault(tuple(key for key, _ in way), way)
    return list(ways.values())


def _left_out(
    product: tuple[str, ...], names: frozenset[str], book: Book
) -> list[tuple[str, float]]:
    """Return the degrees of a product that the derivation does not have in it and that are not 1.

    "TP" of a text covers attention and experts where the two sizes are equal.
    """
    values = {key: book[key].value for key in (*product, "tp", "etp")}
    covered = {key for name in names for key in (name, *_CONTAINS.get(name, ()))}
    if values["tp"] == values["etp"] and covered & {"tp", "etp"}:
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
