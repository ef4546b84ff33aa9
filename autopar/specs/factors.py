"""By how much a user, or a doubt, moves the times of the analytic cost model."""

from typing import Annotated

from pydantic import Field

from autopar.specs.base import Spec

Factor = Annotated[float, Field(gt=0, le=100)]


class CostFactors(Spec):
    """Factors on the times of operations; 1 is what the constants of the GPU and the links give.

    gemm: matrix products. experts: grouped products of routed experts. attention: of prompts and of
    running sequences, linear mixers too. elementwise: kernels that only move data. all_reduce,
    gather (all-gather and reduce-scatter): inside a node or scale-up domain. fabric_collectives:
    both of groups that cross the fabric between domains. all_to_all, point_to_point: wherever.
    host: of the engine between steps.
    """

    gemm: Factor = 1.0
    experts: Factor = 1.0
    attention: Factor = 1.0
    elementwise: Factor = 1.0
    all_reduce: Factor = 1.0
    gather: Factor = 1.0
    fabric_collectives: Factor = 1.0
    all_to_all: Factor = 1.0
    point_to_point: Factor = 1.0
    host: Factor = 1.0
