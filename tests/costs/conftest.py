"""What several tests of the analytic cost tables use."""

import numpy as np
import pytest

from autopar.costs.operations import kernels
from autopar.costs.operations.collectives import Network
from autopar.costs.operations.device import Device
from autopar.costs.shape import Shape
from autopar.costs.steps import Steps
from autopar.costs.timing import Clock, Exchange
from autopar.problem import Candidates


class Bench:
    """One candidate of a scenario with its clock and its step."""

    def __init__(self, scenario, candidate):
        self.rows = Candidates.of([candidate])
        groups = np.array([candidate.attn_dp])
        shape = Shape.of(scenario.llm, scenario.workload)
        self.arch = shape.architecture
        self.network = Network.of(scenario.cluster)
        self.device = Device.of(scenario.cluster.gpu)
        self.clock = Clock(shape, self.network, self.device)
        steps = Steps.of(shape, self.rows, groups)
        self.step = steps.quiet if steps.loaded is None else steps.loaded
        self.groups = groups.astype(np.float64)

    def layer_us(self, kind=0):
        kind = self.arch.layer_kinds[kind]
        return self.clock.layer_us(kind, self.rows, self.groups, self.step)[0]

    def exchange_us(self):
        part = self.arch.feed_forward["only"]
        exchanged = Exchange.of(part, self.rows, self.groups, self.step)
        return self.clock._exchange_us(part, self.rows, exchanged, self.step)[0]

    def gemm_us(self, rows, inner, columns, precision="bf16"):
        return float(kernels.gemm_us(rows, inner, columns, precision, self.device))

    def ffn_us(self, rows, ffn_size, matrices=3, precision="bf16"):
        hidden = self.arch.hidden_size
        return float(
            kernels.feed_forward_us(rows, hidden, ffn_size, matrices, precision, self.device)
        )

    def experts_us(self, tokens, rows, experts, ffn_size, hidden=1000, precision="bf16"):
        return float(
            kernels.experts_us(
                rows, experts, hidden_size=hidden, ffn_size=ffn_size, num_matrices=3,
                precision=precision, device=self.device, tokens=tokens,
            )
        )  # fmt: skip

    def norm_us(self, tokens):
        """Two reads and two writes of a row."""
        return float(kernels.elementwise_us(4 * 2000 * tokens, self.device))


@pytest.fixture(scope="session")
def bench():
    """Return the class: one candidate of a scenario with its clock, its step and its kernels."""
    return Bench


@pytest.fixture(scope="session")
def halves():
    """Return a builder of architectures of two equal layers, of one half or of both."""
    return _model


def _model(attention=None, feed_forward=None, **more):
    """Two equal layers of one half, or of both."""
    layer = {
        "attention": "only" if attention else None,
        "feed_forward": "only" if feed_forward else None,
    }
    return {
        "hidden_size": 1000,
        "vocab_size": 5003,
        "attention": {"only": attention} if attention else {},
        "feed_forward": {"only": feed_forward} if feed_forward else {},
        "layers": [{"count": 2, "layers": [layer]}],
        **more,
    }
