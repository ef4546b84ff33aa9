"""Forward and backward of one operation on one GPU, from the kernels that inference uses too."""

from dataclasses import dataclass

from autopar.costs.operations import kernels
from autopar.costs.operations.device import Device, compute_precision
from autopar.costs.operations.precisions import ACTIVATION_BYTES
from autopar.specs.architecture import Precision
from autopar.training.factors import Factors
from autopar.training.work import Work

ATTENTION_BACKWARD = 2.5  # 5 products instead of 2 (Dao 2023, arXiv:2307.08691, sec. 4.1)
# Bytes per score where they stand in memory: softmax reads and writes 2 each; dropout as well, and
# a mask of 1; backward, dropout reads gradient and mask and writes, softmax reads two and writes.
SCORE_FORWARD_BYTES = 4.0 + 5.0
SCORE_BACKWARD_BYTES = 5.0 + 6.0
# Of one logit: cast to fp32 (2 + 4), maximum (4), exponential and its sum (4 + 4); backward 4 + 2.
LOGIT_FORWARD_BYTES = 18.0
LOGIT_BACKWARD_BYTES = 6.0
# One FP8 operand, from bf16: read 2, write it and its transpose for the other product of backward.
CAST_BYTES = 4.0


@dataclass(frozen=True, slots=True)
class Processor:
    """One GPU under the load of training.

    gradient_bytes: of one element of the buffer in which gradients are accumulated.
    """

    device: Device
    gradient_bytes: float
    factors: Factors

    def gemm_us(self, rows: float, inner: float, columns: float, precision: Precision) -> float:
        """Time of one product: as in inference, and no faster than its arithmetic keeps up."""
        burst_us = float(kernels.gemm_us(rows, inner, columns, precision, self.device))
        rate = self.device.gemm(precision).largest_fraction
        rate *= self.device.peak_flops_per_us(precision)
        if "fp8" in self.device.flops_per_us:
            rate *= self.factors.sustained_fraction
        return max(burst_us, 2.0 * rows * inner * columns / rate)

    def product(
        self,
        tokens: float,
        inner: float,
        columns: float,
        precision: Precision,
        count: float = 1.0,
    ) -> Work:
        """Time of `count` equal products of activations with weights.

        Backward: the gradient of the input is a product of (tokens, columns) with the transposed
        weights, that of the weights a sum over tokens of (inner x tokens) with (tokens x columns).
        In FP8 the input and the gradient of the output are cast first.
        """
        forward_us = self.gemm_us(tokens, inner, columns, precision)
        input_us = self.gemm_us(tokens, columns, inner, precision)
        weight_us = self.gemm_us(inner, tokens, columns, precision)
        work = Work(count * forward_us, count * (input_us + weight_us))
        # The end of the product over tokens adds to the buffer of gradients: reads it, writes it.
        held = 2.0 * self.gradient_bytes * count * inner * columns
        work = work + Work(backward_us=self.moved_us(held))
        if compute_precision(precision, self.device) == "fp8":
            rows = count * tokens
            work = work + self.moved(rows * inner * CAST_BYTES, rows * columns * CAST_BYTES)
        return work

    def moved_us(self, size_bytes: float) -> float:
        """Time of a kernel that only moves data."""
        return float(kernels.elementwise_us(size_bytes, self.device))

    def moved(self, forward_bytes: float, backward_bytes: float) -> Work:
        """Time of an operation that only moves data, each way."""
        return Work(self.moved_us(forward_bytes), self.moved_us(backward_bytes))

    def activation(self, tokens: float, ffn_size: float, num_matrices: int) -> Work:
        """Time of the activation function: forward as in inference.

        Backward reads the gradient and what up (and gate) gave, and writes as many gradients.
        """
        row = ACTIVATION_BYTES * tokens * ffn_size
        return self.moved(num_matrices * row, (2 * num_matrices - 1) * row)

    def fused_attention(
        self,
        queries: float,
        context: float,
        keys_read: float,
        *,
        heads: float,
        kv_heads: float,
        qk_head_dim: int,
        v_head_dim: int,
    ) -> Work:
        """Time of attention whose scores never reach memory; arguments as in inference."""
        forward_us = kernels.prefill_attention_us(
            queries,
            context,
            keys_read,
            heads=heads,
            kv_heads=kv_heads,
            qk_head_dim=qk_head_dim,
            v_head_dim=v_head_dim,
            kv_precision="bf16",
            device=self.device,
        )
        return Work(float(forward_us), ATTENTION_BACKWARD * float(forward_us))

    def materialised_attention(
        self, queries: float, sequence_tokens: float, *, heads: float, head_dim: int
    ) -> Work:
        """Time of attention in separate kernels, which compute all scores, also those masked out.

        Forward: queries by keys, softmax, dropout, probabilities by values. Backward: two products
        for each of these. Source: Korthikanti et al. 2022, arXiv:2205.05198, fig. 3.
        """
        rows, keys = queries * heads, sequence_tokens
        into_us = self.gemm_us(rows, head_dim, keys, "bf16")
        from_us = self.gemm_us(rows, keys, head_dim, "bf16")
        scores = self.moved(SCORE_FORWARD_BYTES * rows * keys, SCORE_BACKWARD_BYTES * rows * keys)
        return scores + Work(into_us + from_us, into_us + 3 * from_us)
