"""Which expert map an engine needs for the experts to lie as planned, and its file."""

import numpy as np

from autopar.errors import InexpressibleError
from autopar.export.launch import Written
from autopar.export.layout import Layout
from autopar.placement.files.engines import Target, text_for
from autopar.placement.files.maps import ExpertMap


def lies_in_runs(placement: ExpertMap | None, num_experts: int) -> bool:
    """Whether every rank has consecutive experts, as engines place them by themselves."""
    if placement is None:
        return True
    return bool((placement.slots == np.arange(num_experts)).all())


def map_files(
    layout: Layout, target: Target, suffix: str, *, always: bool
) -> tuple[list[Written], list[str]]:
    """Return the files that servers start from, and the name of each server's, empty for none.

    Servers with the same map share a file.
    """
    files: dict[str, str] = {}  # text -> name
    names: list[str] = []
    role = f"{layout.role}-" if layout.role else ""
    for placement in layout.experts:
        needless = layout.ep == 1 or lies_in_runs(placement, layout.llm.num_experts)
        if placement is None or layout.ep == 1 or (needless and not always):
            names.append("")
            continue
        text = text_for(
            target,
            placement,
            layout.ep,
            layout.llm.num_experts,
            layout.llm.num_layers,
        )
        number = "" if not files else f"-{len(files)}"
        names.append(files.setdefault(text, f"{role}expert-map{number}.{suffix}"))
    return [Written(name, text) for text, name in files.items()], names


def refuse_other_placement(layout: Layout, engine: str, why: str) -> None:
    """Raise InexpressibleError if experts do not lie as the engine places them by itself."""
    if not all(lies_in_runs(placement, layout.llm.num_experts) for placement in layout.experts):
        raise InexpressibleError(
            engine,
            [f"experts lie otherwise than in runs of consecutive ones on each rank, and {why}"],
        )
