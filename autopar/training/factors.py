"""What separates a step from the sum of its kernels: two numbers for all runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Factors:
    """Two end-to-end factors.

    sustained_fraction: of the arithmetic that products reach in short benchmarks, what they reach
    for hours at the limit of power, on GPUs with FP8 arithmetic: Hopper and Blackwell cannot hold
    their boost clock with all tensor cores at work, Ampere can.
    exposed_fraction: of a collective that runs beside work, what still adds to the step: its first
    and last piece, and the bandwidth and multiprocessors that it takes from the work.
    """

    sustained_fraction: float
    exposed_fraction: float

    def beside_us(self, transfer_us: float, work_us: float) -> float:
        """Return what a transfer adds to work beside it: a part, and all that outlasts the work."""
        return transfer_us - (1.0 - self.exposed_fraction) * min(transfer_us, work_us)


# fitted: benchmarks/fit_training.py, to published runs; without one source, GPU and model of them
# 0.78 to 0.80 and 0.25 to 0.30 (results/training-fits.md)
FITTED = Factors(sustained_fraction=0.78, exposed_fraction=0.25)
