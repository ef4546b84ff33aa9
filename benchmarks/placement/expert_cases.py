"""What is placed: models with their slots and GPUs, and loads by kind."""

from dataclasses import dataclass

from autopar.placement.machine import FloatArray, Machine, Rules
from autopar.placement.synthetic import KINDS, made_up

SEED = 2026


@dataclass(frozen=True, slots=True)
class Case:
    """Loads of one kind on one machine."""

    model: str
    num_layers: int
    num_experts: int
    machine: Machine
    kind: str
    num_groups: int = 1

    @property
    def rules(self) -> Rules:
        """Groups of experts on nodes, or none."""
        return Rules(num_groups=self.num_groups)

    @property
    def name(self) -> str:
        """Model, slots, GPUs and kind of loads."""
        where = f"{self.machine.num_slots}/{self.machine.num_gpus}"
        groups = f" {self.num_groups} groups on {self.machine.num_nodes} nodes"
        return f"{self.model} {where}{groups if self.num_groups > 1 else ''} {self.kind}"

    @property
    def loads(self) -> FloatArray:
        """The loads, shape (layers, experts)."""
        return made_up(self.kind, self.num_layers, self.num_experts, SEED)

    @property
    def has_room(self) -> bool:
        """Whether there are 4 slots per GPU or more and a tenth more slots than experts."""
        enough = self.machine.slots_per_gpu >= 4 and self.num_groups == 1
        return enough and self.machine.num_slots >= 1.1 * self.num_experts


# (model, layers, experts, slots, GPUs): all layers of one case, some of the others, for time.
_SIZES = (
    ("DeepSeek-V3", 58, 256, 288, 32),
    ("DeepSeek-V3", 16, 256, 288, 36),
    ("DeepSeek-V3", 16, 256, 256, 32),
    ("DeepSeek-V3", 16, 256, 320, 64),
    ("DeepSeek-V3", 16, 256, 288, 72),
    ("DeepSeek-V3", 8, 256, 288, 144),
    ("Qwen3-235B", 16, 128, 144, 16),
    ("Qwen3-235B", 16, 128, 160, 32),
    ("Qwen3-235B", 16, 128, 192, 64),
    ("gpt-oss-120b", 16, 128, 144, 16),
    ("Mixtral-8x7B", 32, 8, 12, 4),
    ("Mixtral-8x7B", 32, 8, 16, 8),
)


def cases() -> list[Case]:
    """Return every size with every kind of loads."""
    free = [
        Case(model, layers, experts, Machine(gpus, slots // gpus), kind)
        for model, layers, experts, slots, gpus in _SIZES
        for kind in KINDS
    ]
    grouped = [
        Case("DeepSeek-V3", 16, 256, Machine(gpus, slots // gpus, nodes), kind, 8)
        for slots, gpus, nodes in ((288, 32, 4), (320, 64, 8))
        for kind in KINDS
    ]
    return free + grouped
