"""What `Lanes` lack: a choice between two by the bits of a word, and a quotient."""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from state_core.ops.lanes import WIDTH


@intrinsic
def choose(typing_context, bits, a, b):
    """a in the lanes whose bit is set, b in the others."""

    def emit(context, builder, signature, arguments):
        bits, a, b = arguments
        mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), WIDTH))
        return builder.select(mask, a, b)

    return a(types.uint16, a, a), emit


@intrinsic
def over(typing_context, a, b):
    """a / b."""
    return a(a, a), lambda context, builder, signature, arguments: builder.fdiv(*arguments)
