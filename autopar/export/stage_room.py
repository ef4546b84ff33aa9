"""Whether the smallest cache with which an engine works has room beside what a plan keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from autopar.errors import InexpressibleError
from autopar.problem import Plan
from autopar.verifier.loads import Loads

_GB = 1e9
_ROUNDING_BYTES = 1.0  # of sums of floats


@dataclass(frozen=True, slots=True)
class StageRoom:
    """The cache of one stage on the GPU that keeps most, and what its GPUs have for it at most.

    room_bytes: memory without weights, activations and reserve, of the GPU that has least of it.
    """

    kv_bytes: float
    room_bytes: float


class TooFullError(InexpressibleError):
    """The GPUs of a plan have no room for an engine's smallest cache; role: whose GPUs."""

    def __init__(self, engine: str, role: str, reason: str) -> None:
        super().__init__(engine, [f"{role}: {reason}" if role else reason])
        self.role = role


def stage_rooms(plan: Plan, loads: Loads, memory_bytes: float) -> tuple[StageRoom, ...]:
    """Return the room of each stage; empty where the cost model states no cache.

    memory_bytes: of a GPU.
    """
    if loads.kv_cache_bytes is None:
        return ()
    room = memory_bytes - loads.weights_bytes - (loads.reserved_bytes or 0.0)
    if loads.activation_bytes is not None:
        room = room - loads.activation_bytes
    found = []
    for stage in range(plan.pp):
        ids = [gpu for replica in plan.gpus for gpu in replica[stage]]
        found.append(StageRoom(float(loads.kv_cache_bytes[ids].max()), float(room[ids].min())))
    return tuple(found)


def refuse_where_too_full(
    rooms: Sequence[StageRoom], needed_bytes: Sequence[float], engine: str, role: str, what: str
) -> None:
    """Raise TooFullError where a stage has no room for what the engine asks for at least.

    needed_bytes: of the GPU of each stage that keeps most. Where the plan's own cache has no room,
    verify says so, and not this. what: then happens.
    """
    for number, (stage, needed) in enumerate(zip(rooms, needed_bytes, strict=False)):
        if needed <= stage.room_bytes or stage.kv_bytes > stage.room_bytes + _ROUNDING_BYTES:
            continue
        where = f" of stage {number}" if len(rooms) > 1 else ""
        raise TooFullError(
            engine,
            role,
            f"{what}: for one request of full length its cache has {needed / _GB:,.2f} GB on a "
            f"GPU{where}, and beside weights, activations and reserve there are "
            f"{max(0.0, stage.room_bytes) / _GB:,.2f} GB",
        )
