"""Which constraints hold in a scenario."""

from collections import Counter
from collections.abc import Collection

from autopar.constraints.all_to_all_within import AllToAllWithin
from autopar.constraints.base import PlugIn
from autopar.constraints.coverage import Coverage
from autopar.constraints.divisibility import Divisibility
from autopar.constraints.gpu_blocks import GpuBlocks
from autopar.constraints.grid_identity import GridIdentity
from autopar.constraints.latency import Tpot, Ttft
from autopar.constraints.layer_cover import LayerCover
from autopar.constraints.max_spread import MaxSpread
from autopar.constraints.memory import Memory
from autopar.constraints.tensor_parallel_within import TensorParallelWithin
from autopar.constraints.throughput import Throughput
from autopar.errors import SpecError, suggest
from autopar.pair_rules import PairRule, constraint_of
from autopar.specs import Scenario

# What a plan is; without these the word has no meaning, so they are never dropped or blamed.
STRUCTURE = ("grid_identity", "layer_cover", "divisibility", "gpu_blocks")


def active(
    scenario: Scenario, *, plugins: Collection[PlugIn] = (), disabled: Collection[str] = ()
) -> tuple[PlugIn, ...]:
    """Return the constraints that hold in a scenario, structure first, rules and plug-ins last.

    Rules about both roles are left out where there is but one.
    disabled: names left out beside those that the recipe disables.
    Raises SpecError if the recipe disables a constraint that does not exist or may not be dropped.
    """
    limits = scenario.requirements
    built_in: list[PlugIn] = [
        GridIdentity(), LayerCover(), Divisibility(), GpuBlocks(), Coverage(), Memory(),
    ]  # fmt: skip
    if limits.max_ttft_us is not None:
        built_in.append(Ttft())
    if limits.max_tpot_us is not None:
        built_in.append(Tpot())
    if limits.min_tokens_per_s is not None or limits.min_tokens_per_s_per_gpu is not None:
        built_in.append(Throughput())
    if limits.tensor_parallel_within != "cluster":
        built_in.append(TensorParallelWithin())
    if limits.all_to_all_within != "cluster" and scenario.llm.is_moe:
        built_in.append(AllToAllWithin())
    if limits.max_spread is not None and scenario.llm.is_moe:
        built_in.append(MaxSpread())
    constraints = [*built_in, *map(constraint_of, scenario.all_rules), *plugins]
    _check_names(scenario, constraints)
    dropped = set(scenario.recipe.disable) | set(disabled)
    if scenario.workload.phase != "disaggregated":
        dropped |= {c.name for c in constraints if isinstance(c, PairRule)}
    return tuple(c for c in constraints if c.name not in dropped)


def _check_names(scenario: Scenario, constraints: list[PlugIn]) -> None:
    names = [c.name for c in constraints]
    for name, count in Counter(names).items():
        if count > 1:
            raise SpecError(f"two constraints have the name {name!r}; rename the rule or plug-in")
    optional = (
        *("ttft", "tpot", "throughput"),
        *("tensor_parallel_within", "all_to_all_within", "max_spread"),
    )
    for name in scenario.recipe.disable:
        if name in STRUCTURE:
            raise SpecError(f"recipe.disable: {name!r} is part of what a plan is; it must stay")
        if name not in names and name not in optional:
            raise SpecError(
                f"recipe.disable: unknown constraint {name!r}{suggest(name, names)} "
                f"(active here: {', '.join(n for n in names if n not in STRUCTURE)})"
            )


def droppable(constraints: Collection[PlugIn]) -> tuple[PlugIn, ...]:
    """Return the constraints that state a requirement, not what a plan is."""
    return tuple(c for c in constraints if c.name not in STRUCTURE)
