"""Switches of matrix products on GPUs; on the CPU they change nothing."""

from __future__ import annotations


class _Matmul:
    allow_tf32 = False
    allow_fp16_reduced_precision_reduction = True
    allow_bf16_reduced_precision_reduction = True


matmul = _Matmul()


def is_built() -> bool:
    """False: Ingot computes on the CPU."""
    return False
