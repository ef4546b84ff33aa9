"""The queue before prefill: how busy its replicas may be, and how long a prompt waits for one.

Requests come at random and are dealt to the attention groups of prefill at random, so that each is
a server with equal service times (M/D/1). Its *load* is the share of the time in which it works, in
whole percent, rounded up; it is decided with the layouts. `docs/model.md`, "Disaggregated".
"""

from dataclasses import dataclass

import numpy as np

from autopar.costs.scaling import times_to_int
from autopar.disaggregated.values import Values
from autopar.problem import IntArray
from autopar.specs import Scenario

_RATES = {"throughput", "throughput_per_gpu", "cost"}


def wait(load: IntArray, service: IntArray) -> IntArray:
    """Mean time that a prompt waits, rounded up, from the time that a group works on each.

    Source: M/D/1, Kleinrock 1975, "Queueing Systems", vol. 1, section 5.5.
    """
    return -(-load * service // (2 * (100 - load)))


def served(load: IntArray | int, rate: IntArray) -> IntArray:
    """What a prefill role of a rate serves at a load, rounded down."""
    result: IntArray = rate * load // 100
    return result


def needed_load(rate: IntArray | int, of: IntArray) -> IntArray:
    """The smallest load, 1 at least, at which a prefill role of the rate `of` serves a rate."""
    load: IntArray = np.maximum(1, -(-100 * rate // np.maximum(of, 1)))
    return load


@dataclass(frozen=True, slots=True)
class Queue:
    """How busy prefill may be.

    top: the most by the requirements, in percent. limit: of TTFT, in quanta; None where there is
    none. is_quiet: whether TTFT comes before all rates in the order of objectives, so that prefill
    serves no more than is required.
    """

    top: int
    limit: int | None
    is_quiet: bool

    @classmethod
    def of(cls, scenario: Scenario, names: set[str]) -> "Queue":
        """Return the queue of a scenario; names: of the constraints that hold."""
        needs, limit = scenario.requirements, None
        if "ttft" in names and needs.max_ttft_us is not None:
            limit = int(times_to_int(np.array([needs.max_ttft_us]))[0])
        first = next((o for o in scenario.recipe.objectives if o in _RATES | {"ttft"}), "")
        return cls(needs.most_prefill_percent, limit, first == "ttft")

    def without(self, name: str) -> "Queue":
        """Return the queue without a requirement."""
        return Queue(self.top, None, self.is_quiet) if name == "ttft" else self

    def within(self, ttft: int) -> "Queue":
        """Return the queue where TTFT may be so long at most."""
        limit = ttft if self.limit is None else min(ttft, self.limit)
        return Queue(self.top, limit, self.is_quiet)

    @property
    def terms(self) -> int:
        """By how many quanta a wait differs where the time of service differs by one, and one."""
        return 2 + self.top // (2 * (100 - self.top))

    def most(self, prefill: Values, decode: Values) -> IntArray:
        """The largest load that leaves TTFT within its limit, 0 where none does.

        load * service <= 2 (100 - load) * slack, for what is left to wait.
        """
        if self.limit is None:
            return np.full(len(prefill.rate), self.top)
        slack = self.limit - ttft(prefill, decode, None)
        left = np.maximum(slack, 0)
        most = 200 * left // np.maximum(prefill.service + 2 * left, 1)
        result: IntArray = np.where(slack < 0, 0, np.minimum(most, self.top))
        return result

    def chosen(self, prefill: Values, decode: Values, needed: IntArray) -> IntArray:
        """The load that is best for two roles; needed: the least rate of the pair."""
        most = self.most(prefill, decode)
        reached = np.minimum(served(most, prefill.rate), decode.rate)
        target = needed if self.is_quiet else np.maximum(reached, needed)
        return np.minimum(needed_load(target, prefill.rate), np.maximum(most, 1))


def ttft(prefill: Values, decode: Values, load: IntArray | None) -> IntArray:
    """The wait for prefill, the prompt through it, and its cache to decode; None: no wait."""
    handover = np.maximum(prefill.handover, decode.handover)
    total = prefill.time + decode.time + handover
    return total if load is None else total + wait(load, prefill.service)
