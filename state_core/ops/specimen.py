"""A Triton kernel as it is compiled for a GPU: what `ahead_of_time` builds where there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Specimen:
    """One kernel with the types and block sizes that its op launches it with.

    kernel:      the function under `@triton.jit`.
    signature:   argument → Triton type, in the kernel's order: "*bf16", "i32", "fp32", "constexpr";
                 "i32:16" is a multiple of 16, as a launch tells of a stride that is one.
    constants:   the values of the constexpr arguments.
    matrix_unit: whether the kernel has to use the matrix unit (mma, wgmma).
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2
    matrix_unit: bool = False
