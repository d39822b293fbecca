"""Asks for rows of a table before they are needed.

A gathered row is four lines that no hardware prefetcher can guess. While tables fit in the last
level of cache, out-of-order execution hides the wait; beyond, asking a row ahead makes attention
over 131072 tokens a quarter faster. Within the cache it would cost as much, so the caller decides.
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = np.uint64(16)  # float32 numbers of a cache line
READ, SECOND_LEVEL, DATA = 0, 2, 1  # the first level has too few requests in flight


@njit
def prefetch_rows(table, at, step, row, n, width):
    """Ask for table[at + row[e] * step :][:width] for e < n; a row out of range does no harm."""
    for e in range(n):
        here = at + np.uint64(row[e]) * step
        for m in range(np.uint64(0), width, LINE):
            _touch(table, here + m)


@intrinsic
def _touch(typing_context, array, index):
    """Ask for the cache line of array[index], without waiting for it."""

    def emit(context, builder, signature, arguments):
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, arguments[0])
        at = cgutils.get_item_pointer(
            context, builder, kind, view, [arguments[1]], wraparound=False
        )
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kinds = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kinds, "llvm.prefetch.p0")
        hints = [ir.Constant(number, hint) for hint in (READ, SECOND_LEVEL, DATA)]
        builder.call(prefetch, [builder.bitcast(at, pointer), *hints])
        return context.get_dummy_value()

    return types.void(array, types.uint64), emit
