"""Number formats of weights, activations and KV caches, with their exact storage cost.

Block formats carry scales beside the values: nvfp4 one fp8 scale per 16 values, mxfp4 one
8-bit exponent per 32, fp8-block one fp32 scale per 128x128 tile, int4 (AWQ/GPTQ, group 128)
one fp16 scale and one 4-bit zero per group, int4-g32 (symmetric, group 32) one 16-bit scale.
``bits`` includes them.
Source: arXiv 2310.10537 (MX formats), the NVFP4 description in NVIDIA's Blackwell material.
"""

from enum import StrEnum

__all__ = ["DType"]


class DType(StrEnum):
    """A number format; the value is how files and the command line spell it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    FP8_BLOCK = "fp8-block"
    INT8 = "int8"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"
    INT4 = "int4"
    INT4_G32 = "int4-g32"

    @property
    def bits(self) -> float:
        """Stored bits a value, scales included."""
        return _BITS[self]

    @property
    def bytes(self) -> float:
        """Stored bytes a value, scales included."""
        return _BITS[self] / 8

    @property
    def math(self) -> "DType":
        """The format a matrix unit multiplies weights of this format in, activations included.

        int4 weights are weight-only: dequantized to bf16 before the multiply.
        """
        return _MATH[self]


_BITS = {
    DType.FP32: 32.0,
    DType.FP16: 16.0,
    DType.BF16: 16.0,
    DType.FP8: 8.0,
    DType.FP8_BLOCK: 8.0 + 32 / (128 * 128),
    DType.INT8: 8.0,
    DType.MXFP8: 8.25,
    DType.NVFP4: 4.5,
    DType.MXFP4: 4.25,
    DType.INT4: 4.0 + 20 / 128,
    DType.INT4_G32: 4.0 + 16 / 32,
}
_MATH = {
    DType.FP32: DType.FP32,
    DType.FP16: DType.BF16,
    DType.BF16: DType.BF16,
    DType.FP8: DType.FP8,
    DType.FP8_BLOCK: DType.FP8,
    DType.INT8: DType.INT8,
    DType.MXFP8: DType.FP8,
    DType.NVFP4: DType.NVFP4,
    DType.MXFP4: DType.MXFP4,
    DType.INT4: DType.BF16,
    DType.INT4_G32: DType.BF16,
}
