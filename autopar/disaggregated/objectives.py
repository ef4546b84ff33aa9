"""The objectives of a pair: those of one layout, over the values of both roles and their load.

What no pair beats is asked of values that no role beats: then rates are those at the largest load,
and TTFT that at the load of the least rate that is still of interest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np

from autopar.costs.scaling import RATE_QUANTUM_TOKENS_PER_S, error_bound
from autopar.disaggregated.queue import Queue, needed_load, served, ttft
from autopar.disaggregated.values import Values
from autopar.disaggregated.variables import PairVariables, cost_of
from autopar.objectives import Objective, objectives_for
from autopar.problem import IntArray, Metrics, Problem

_FINER = 1000  # a rate per GPU is counted in thousandths of a rate's quantum
_OF_GPUS = {"throughput_per_gpu", "cost", "gpus"}

Combine = Callable[[Values, Values, IntArray], IntArray]
Express = Callable[[PairVariables], Any]


@dataclass(frozen=True, slots=True)
class PairObjective:
    """One aim for both roles together.

    combine: its integer value from those of the roles and the load. express: the same, in the
    CP-SAT model. parts: how many rounded numbers a value adds up. needed: the least rate at which
    a pair on so many GPUs has a value; None where a value asks for no rate.
    """

    single: Objective
    combine: Combine
    express: Express
    parts: int = 1
    needed: Callable[[int, IntArray], IntArray] | None = None

    @property
    def name(self) -> str:
        """The name by which a recipe orders it."""
        return self.single.name

    @property
    def unit(self) -> str:
        """The unit of its value."""
        return self.single.unit

    @property
    def sense(self) -> Literal["max", "min"]:
        """Whether more or less is better."""
        return self.single.sense

    @property
    def quantum(self) -> float:
        """The unit of its integers."""
        return self.single.quantum

    @property
    def says(self) -> str:
        """What it means to lead in it."""
        return self.single.says

    @property
    def counts_gpus(self) -> bool:
        """Whether the GPUs of both roles are part of its value."""
        return self.name in _OF_GPUS

    def value(self, integer: int) -> float:
        """Return an integer value in `unit`."""
        return self.single.value(integer)

    def of_metrics(self, metrics: Metrics) -> float:
        """Return the value in `unit` from the metrics of a pair."""
        return self.single.of_metrics(metrics)

    def terms(self, problem: Problem) -> int:
        """How many rounded numbers the value adds up, for the error bound."""
        return self.parts

    def rounding_error(self, problem: Problem, value: float) -> float:
        """Return the most by which an integer value may differ from the float one, in `unit`."""
        own = error_bound(self.quantum, self.parts, value)
        return max(own, self.single.rounding_error(problem, value))

    def oriented(self, prefill: Values, decode: Values, load: IntArray) -> IntArray:
        """Return the values of pairs, turned so that less is better."""
        values = self.combine(prefill, decode, load)
        return -values if self.sense == "max" else values

    def unbeaten(
        self, prefill: Values, decode: Values, queue: Queue, least_rate: IntArray
    ) -> IntArray:
        """Return what no pair beats, turned so that less is better.

        prefill, decode: values that no role beats. least_rate: of the pairs that are of interest.
        """
        if self.name == "ttft":
            load = np.minimum(needed_load(least_rate, prefill.rate), queue.top)
        else:
            load = queue.most(prefill, decode)
        return self.oriented(prefill, decode, load)


def pair_objectives(problem: Problem) -> tuple[PairObjective, ...]:
    """Return the objectives of a disaggregated scenario's recipe, in its order.

    Raises SpecError for an unknown or repeated name, or for a cost without a price.
    """
    return tuple(_of(single, problem) for single in objectives_for(problem))


def gpus(prefill: Values, decode: Values) -> IntArray:
    """GPUs of both roles."""
    return prefill.gpus + decode.gpus


def rate(prefill: Values, decode: Values, load: IntArray) -> IntArray:
    """Output tokens per second: the slower role sets the rate."""
    return np.minimum(served(load, prefill.rate), decode.rate)


def _per_gpu(prefill: Values, decode: Values, load: IntArray) -> IntArray:
    return rate(prefill, decode, load) * _FINER // gpus(prefill, decode)


_WAYS: Mapping[str, tuple[Combine, Express]] = {
    "throughput": (rate, lambda pair: pair.rate),
    "throughput_per_gpu": (_per_gpu, lambda pair: pair.rate_per_gpu(_FINER)),
    "ttft": (ttft, lambda pair: pair.ttft),
    "tpot": (lambda p, d, _: np.maximum(p.tpot, d.tpot), lambda pair: pair.tpot),
    "traffic": (lambda p, d, _: p.boundaries + d.boundaries, lambda pair: pair.boundaries),
    "memory": (lambda p, d, _: np.maximum(p.memory, d.memory), lambda pair: pair.memory),
    "gpus": (lambda p, d, _: gpus(p, d), lambda pair: pair.gpus),
}


_NEEDED: Mapping[str, Callable[[int, IntArray], IntArray]] = {
    "throughput": lambda value, gpus: np.full_like(gpus, value),
    "throughput_per_gpu": lambda value, gpus: -(-value * gpus // _FINER),
}


def _of(single: Objective, problem: Problem) -> PairObjective:
    if single.name == "cost":
        return _cost(single, problem)
    combine, express = _WAYS[single.name]
    waits = Queue.of(problem.scenario, set()).terms
    parts = {
        "ttft": problem.num_layers + 1 + waits,
        "throughput": 2,  # of prefill, and that at its load
        "throughput_per_gpu": 2 * _FINER,
    }
    terms = parts.get(single.name, single.terms(problem))
    return PairObjective(single, combine, express, terms, _NEEDED.get(single.name))


def _cost(single: Objective, problem: Problem) -> PairObjective:
    """The GPUs of both roles by the hour, over the rate."""
    usd_per_gpu_s = (problem.scenario.cluster.gpu.usd_per_hour or 0.0) / 3600
    # of one GPU at a rate of one quantum, in quanta of the objective, per million tokens
    unit = ceil(usd_per_gpu_s * 1e6 / RATE_QUANTUM_TOKENS_PER_S / single.quantum)

    def combine(prefill: Values, decode: Values, load: IntArray) -> IntArray:
        return cost_of(unit, rate(prefill, decode, load), gpus(prefill, decode))

    def needed(value: int, gpus: IntArray) -> IntArray:
        return -(-unit * gpus // max(value, 1))

    return PairObjective(single, combine, lambda pair: pair.cost(unit), 2, needed)
