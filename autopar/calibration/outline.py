"""What a calibration would run, and about how long: the planner's own formulas say it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autopar.calibration.cases import SIZES, Case, case_bytes, copies
from autopar.calibration.measuring import MEMORY_FRACTION, rotation_bytes
from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device
from autopar.specs import Gpu
from autopar.specs.architecture import Precision

SETUP_S = 0.05  # of a case: buffers, capture
LEAST_S = 0.03  # of all runs of a case: `torch_timer.TOTAL_US`, and warming up
RUNS = 12.0  # of each buffer, warming up included
ATTENTION_KERNELS = 2  # are tried
PROCESSES_S = 20.0  # until collectives start
_MESSAGE_BYTES_PER_US = 1e5  # of a collective; a guess for a plan, no constant of the model
_MESSAGE_US = 20.0

# What is never measured, with the reason.
NOT_MEASURED: Mapping[str, str] = {
    "latent attention": "torch has no kernel for it",
    "linear attention": "torch has no kernel for it",
    "fp8 caches": "torch has no kernel for them",
    "fp8_block, fp4, int4 and experts in fp8": "torch has no kernel that engines use",
}


@dataclass(frozen=True, slots=True)
class Line:
    """All cases that are fitted together.

    memory_bytes: of the largest that fits. sizes: the least and the largest of each, by name.
    """

    operation: str
    name: str
    timings: int
    sizes: dict[str, tuple[int, int]]
    memory_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Outline:
    """What would run on a GPU, or on one like it."""

    gpu: str
    num_gpus: int
    lines: tuple[Line, ...]
    budget_s: float
    notes: tuple[str, ...]

    @property
    def timings(self) -> int:
        """How many cases there are."""
        return sum(line.timings for line in self.lines)

    @property
    def seconds(self) -> float:
        """How long all of them take."""
        return sum(line.seconds for line in self.lines)


def outline(
    cases: Sequence[Case],
    gpu: Gpu,
    budget_s: float,
    num_gpus: int,
    notes: Sequence[str] = (),
    l2_bytes: float = 0.0,
) -> Outline:
    """Return what these cases take on a GPU; l2_bytes: 0 where it is not known."""
    rotation, device = rotation_bytes(l2_bytes), Device.of(gpu)
    groups: dict[tuple[str, str], list[Case]] = {}
    room = MEMORY_FRACTION * gpu.memory_bytes
    for case in cases:
        if case_bytes(case, rotation) <= room:
            groups.setdefault(case.group, []).append(case)
    lines = [_line(*group, held, rotation, device) for group, held in groups.items()]
    lines.sort(key=lambda line: (list(SIZES).index(line.operation), line.name))
    return Outline(gpu.name, num_gpus, tuple(lines), budget_s, tuple(notes))


def _line(
    operation: str, name: str, cases: Sequence[Case], rotation: float, device: Device
) -> Line:
    columns = {size: [case[size] for case in cases] for size in SIZES[operation]}
    seconds = sum(_seconds(case, rotation, device) for case in cases)
    return Line(
        operation=operation,
        name=name,
        timings=len(cases),
        sizes={size: (min(values), max(values)) for size, values in columns.items()},
        memory_bytes=max(case_bytes(case, rotation) for case in cases),
        seconds=seconds + (PROCESSES_S / 4 if operation == "collectives" else 0.0),
    )


def _seconds(case: Case, rotation: float, device: Device) -> float:
    tried = ATTENTION_KERNELS if case.operation.endswith("attention") else 1
    busy_s = RUNS * copies(case, rotation) * expected_us(case, device) * 1e-6
    return SETUP_S + tried * max(LEAST_S, busy_s)


def expected_us(case: Case, device: Device) -> float:
    """Return how long a case takes by the constants of a device."""
    expect: Mapping[str, Callable[[Case, Device], float]] = {
        "gemm": _gemm_us,
        "experts": _experts_us,
        "prefill_attention": _prefill_us,
        "decode_attention": _decode_us,
        "elementwise": lambda case, device: float(kernels.elementwise_us(case["bytes"], device)),
        "collectives": lambda case, _: _MESSAGE_US + case["bytes"] / _MESSAGE_BYTES_PER_US,
    }
    return expect[case.operation](case, device)


def _gemm_us(case: Case, device: Device) -> float:
    precision: Precision = "fp8" if case.name == "fp8" else "bf16"
    return float(kernels.gemm_us(case["m"], case["k"], case["n"], precision, device))


def _experts_us(case: Case, device: Device) -> float:
    pairs = case["num_tokens"] * case["topk"]
    return float(
        kernels.experts_us(
            pairs,
            case["held"],
            hidden_size=case["hidden_size"],
            ffn_size=case["ffn"],
            num_matrices=3,
            precision="bf16",
            device=device,
            read=min(pairs, case["held"]),
            tokens=case["num_tokens"],
        )
    )


def _prefill_us(case: Case, device: Device) -> float:
    tokens = case["batch"] * case["length"]
    return float(
        kernels.prefill_attention_us(
            tokens,
            (case["length"] + 1) / 2,
            tokens,
            heads=case["heads"],
            kv_heads=case["kv_heads"],
            qk_head_dim=case["head_dim"],
            v_head_dim=case["head_dim"],
            kv_precision="bf16",
            device=device,
        )
    )


def _decode_us(case: Case, device: Device) -> float:
    return float(
        kernels.decode_attention_us(
            case["batch_size"],
            case["context"],
            heads=case["num_heads"],
            kv_heads=case["num_key_value_heads"],
            qk_head_dim=case["head_dim"],
            v_head_dim=case["head_dim"],
            kv_precision="bf16",
            device=device,
        )
    )
