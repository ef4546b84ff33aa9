"""Every kernel's time under one name; each formula is in the module of its kind."""

from autopar.costs.operations.attention import (
    decode_attention_us,
    latent_decode_attention_us,
    prefill_attention_us,
)
from autopar.costs.operations.device import Device, compute_precision
from autopar.costs.operations.elementwise import elementwise_us, linear_attention_us
from autopar.costs.operations.experts import experts_us, routed_experts_us
from autopar.costs.operations.gemm import feed_forward_us, gemm_us
from autopar.costs.operations.loads import busiest_rows, experts_read
from autopar.costs.operations.precisions import ACTIVATION_BYTES, precision_bytes

__all__ = [
    "ACTIVATION_BYTES",
    "Device",
    "busiest_rows",
    "compute_precision",
    "decode_attention_us",
    "elementwise_us",
    "experts_read",
    "experts_us",
    "feed_forward_us",
    "gemm_us",
    "latent_decode_attention_us",
    "linear_attention_us",
    "precision_bytes",
    "prefill_attention_us",
    "routed_experts_us",
]
