"""How many GPUs there are and how they are connected."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autopar.specs.base import MAX_GPUS, Document, Spec
from autopar.specs.gpu import Gpu
from autopar.units import BytesPerS, LatencyUs


class Link(Spec):
    """One level of the network: bandwidth per GPU and direction, and the latency of one message."""

    bandwidth_bytes_per_s: BytesPerS
    latency_us: LatencyUs = 0.0


class Links(Spec):
    """The three levels of the hierarchy, innermost first."""

    node: Link
    domain: Link
    fabric: Link


class Cluster(Document):
    """Equal nodes of equal GPUs, grouped in scale-up domains of which the last may be smaller.

    GPUs are numbered node by node, local index last.
    """

    kind: Literal["cluster"] = "cluster"
    gpu: Gpu
    num_nodes: Annotated[int, Field(ge=1, le=MAX_GPUS, strict=True)]
    gpus_per_node: Annotated[int, Field(ge=1, le=MAX_GPUS, strict=True)]
    gpus_per_domain: Annotated[int, Field(ge=1, le=MAX_GPUS, strict=True)] | None = None
    links: Links | None = None

    @model_validator(mode="after")
    def _nested(self) -> Self:
        if self.num_gpus > MAX_GPUS:
            raise ValueError(f"{self.num_gpus:,} GPUs are more than the {MAX_GPUS:,} supported")
        small, large = sorted((self.gpus_per_node, self.domain_gpus))
        if large % small:
            raise ValueError(
                f"gpus_per_domain {self.domain_gpus} and gpus_per_node {self.gpus_per_node} "
                "do not nest: one must be a multiple of the other"
            )
        return self

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole cluster."""
        return self.num_nodes * self.gpus_per_node

    @property
    def domain_gpus(self) -> int:
        """GPUs of a full scale-up domain; a node, where the spec names no domain."""
        return self.gpus_per_node if self.gpus_per_domain is None else self.gpus_per_domain

    def container_gpus(self, level: str) -> int:
        """Return the GPUs of one full container of `level`: node, domain or cluster."""
        sizes = {"node": self.gpus_per_node, "domain": self.domain_gpus, "cluster": self.num_gpus}
        return min(sizes[level], self.num_gpus)
