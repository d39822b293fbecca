"""Weighted sums of a table's rows, the sum kept in registers.

    out += Σ_e weight[e] · table[row[e]]

In a Numba loop the sum lives in memory, since LLVM cannot know that it lies apart from the table:
every group of rows loads and stores it, behind a test for overlap. Here the loop over rows is
emitted as vector IR for a fixed number of columns, and each sum is written once (2 times faster).
"""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from state_core.ops.numba_math import FAST

FUSE = ("contract",)  # a product and a sum may become one instruction
MANY, SOME, FEW = np.uint64(64), np.uint64(16), np.uint64(4)
ONE = np.uint64(1)


@njit(fastmath=FAST)
def add_rows(weight, table, at, step, row, n, width, out, out_at):
    """out[out_at + m] += Σ_e weight[e] · table[at + row[e] · step + m] for e < n, m < width.

    Offsets and sizes are uint64, `row` any integers; all arrays are flat and contiguous.
    """
    end = at + width
    while at + MANY <= end:
        _add_64(weight, table, at, step, row, n, out, out_at)
        at, out_at = at + MANY, out_at + MANY
    while at + SOME <= end:
        _add_16(weight, table, at, step, row, n, out, out_at)
        at, out_at = at + SOME, out_at + SOME
    while at + FEW <= end:
        _add_4(weight, table, at, step, row, n, out, out_at)
        at, out_at = at + FEW, out_at + FEW
    while at < end:
        _add_1(weight, table, at, step, row, n, out, out_at)
        at, out_at = at + ONE, out_at + ONE


def _adder(lanes, vectors):
    """`add_rows` for lanes · vectors columns, an accumulator a vector."""

    @intrinsic
    def add(typing_context, weight, table, at, step, row, n, out, out_at):
        signature = types.void(weight, table, at, step, row, n, out, out_at)

        def emit(context, builder, signature, arguments):
            weight, table, at, step, row, n, out, out_at = arguments
            kinds = signature.args
            vector = ir.VectorType(context.get_value_type(kinds[1].dtype), lanes)
            align = kinds[1].dtype.bitwidth // 8

            def data(kind, array):
                return context.make_array(kind)(context, builder, array).data

            def places(base, start):
                starts = [builder.add(start, start.type(i * lanes)) for i in range(vectors)]
                return [
                    builder.bitcast(builder.gep(base, [s]), vector.as_pointer()) for s in starts
                ]

            weights, source, rows = (
                data(kinds[0], weight),
                data(kinds[1], table),
                data(kinds[4], row),
            )
            targets = places(data(kinds[6], out), out_at)
            sums = [
                cgutils.alloca_once_value(builder, builder.load(target, align=align))
                for target in targets
            ]
            with cgutils.for_range(builder, n) as loop:
                factor = _splat(builder, builder.load(builder.gep(weights, [loop.index])), vector)
                index = builder.zext(builder.load(builder.gep(rows, [loop.index])), step.type)
                start = builder.add(at, builder.mul(index, step))
                for place, total in zip(places(source, start), sums, strict=True):
                    product = builder.fmul(factor, builder.load(place, align=align), flags=FUSE)
                    builder.store(builder.fadd(product, builder.load(total), flags=FUSE), total)
            for target, total in zip(targets, sums, strict=True):
                builder.store(builder.load(total), target, align=align)
            return context.get_dummy_value()

        return signature, emit

    return add


def _splat(builder, value, vector):
    """A vector with `value` in every lane."""
    none, i32 = ir.Constant(vector, ir.Undefined), ir.IntType(32)
    lanes = ir.Constant(ir.VectorType(i32, vector.count), None)
    return builder.shuffle_vector(builder.insert_element(none, value, i32(0)), none, lanes)


_add_64, _add_16, _add_4, _add_1 = _adder(16, 4), _adder(16, 1), _adder(4, 1), _adder(1, 1)
