"""What a serving engine adds to the time that its GPUs take."""

from typing import Annotated, Literal

from pydantic import Field

from autopar.specs.base import Document, Name
from autopar.specs.kernels import Kernels
from autopar.units import LatencyUs


class Engine(Document):
    """A serving engine: time of its host between two steps, and how it works.

    step_us: of a step, whatever is in it. sequence_us: of each running sequence of one attention
    group besides. layer_us: gaps between the kernels of a layer, where they are launched one by
    one and not as a graph. all_reduce_us: what its all-reduce takes longer than the fastest.
    key_reads: how often a decode kernel reads a cached key for the query heads that share it, at
    most once for each of them; 1 where it works on a whole group at a time.
    prompts_first: whether steps with prompts hold no running sequences, which wait until no prompt
    does; else prompts ride on the steps of running sequences.
    two_batch_overlap: whether a step is cut in two halves, of which one is exchanged between
    expert ranks while the other is computed.
    kernels: by GPU, those in which the engine differs from what the GPU's document has.
    What an engine can launch is a matter of its rule pack, which has the same name.
    """

    kind: Literal["engine"] = "engine"
    step_us: LatencyUs = 0.0
    sequence_us: LatencyUs = 0.0
    layer_us: LatencyUs = 0.0
    all_reduce_us: LatencyUs = 0.0
    key_reads: Annotated[float, Field(ge=1, le=1024)] = 1.0
    prompts_first: bool = False
    two_batch_overlap: bool = False
    kernels: dict[Name, Kernels] = Field(default_factory=dict)
