"""Small matrix products for tiles that are in cache: out += a @ b, inside a Numba kernel.

The inner loop keeps a panel of 4 rows x up to 64 columns of `out` in vector registers while it
walks over the terms, so that nothing but multiply-adds costs time. Numba's own loops cannot say
that (they store `out` in every step); a BLAS call per tile costs more than it computes, and would
bring threads of its own. Panels are written as LLVM vectors of 16 elements, which LLVM maps to
what the processor has.
"""

from __future__ import annotations

import llvmlite.binding as llvm  # type: ignore[import-untyped]
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from state_core.ops.numba_math import FAST

PAD = 16  # columns of `out` and `b` come in multiples of it, rows and terms in multiples of 4
# What fits in the registers: 32 of 512 bits with AVX-512, elsewhere at most a quarter of that.
_WIDEST = 64 if llvm.get_host_cpu_features().get("avx512f") else 16


def _panel(columns):
    """The intrinsic for a panel of 4 x `columns`."""

    @intrinsic
    def add_panel(typing_context, out, a, b, i, j, k_from, k_to):
        """out[i:i+4, j:j+columns] += a[i:i+4, k_from:k_to] @ b[k_from:k_to, j:j+columns]"""

        def generate(context, builder, signature, arguments):
            out_type = signature.args[0]
            arrays = [
                (context.make_array(t)(context, builder, value), t)
                for t, value in zip(signature.args[:3], arguments[:3])
            ]
            i, j, k_from, k_to = arguments[3:]
            size = context.get_abi_sizeof(context.get_data_type(out_type.dtype))
            element = context.get_value_type(out_type.dtype)
            vector = ir.VectorType(element, PAD)

            def shifted(index, by):
                return builder.add(index, ir.Constant(index.type, by))

            def at(which, row, column, kind):
                array, _ = arrays[which]
                strides = cgutils.unpack_tuple(builder, array.strides)
                offset = builder.add(builder.mul(row, strides[0]), builder.mul(column, strides[1]))
                base = builder.ptrtoint(array.data, offset.type)
                return builder.inttoptr(builder.add(base, offset), kind.as_pointer())

            def load(which, row, column, kind):
                return builder.load(at(which, row, column, kind), align=size)

            parts = range(columns // PAD)
            sums = {}
            for r in range(4):
                for v in parts:
                    start = load(0, shifted(i, r), shifted(j, v * PAD), vector)
                    sums[r, v] = cgutils.alloca_once_value(builder, start)
            lane_zero = ir.Constant(ir.VectorType(ir.IntType(32), PAD), None)
            with cgutils.for_range(builder, builder.sub(k_to, k_from)) as loop:
                k = builder.add(k_from, loop.index)
                row = [load(2, k, shifted(j, v * PAD), vector) for v in parts]
                for r in range(4):
                    factor = load(1, shifted(i, r), k, element)
                    one = builder.insert_element(
                        ir.Constant(vector, ir.Undefined), factor, ir.Constant(ir.IntType(32), 0)
                    )
                    factors = builder.shuffle_vector(
                        one, ir.Constant(vector, ir.Undefined), lane_zero
                    )
                    for v in parts:
                        product = builder.fmul(factors, row[v], flags=["contract"])
                        total = builder.fadd(builder.load(sums[r, v]), product, flags=["contract"])
                        builder.store(total, sums[r, v])
            for (r, v), total in sums.items():
                target = at(0, shifted(i, r), shifted(j, v * PAD), vector)
                builder.store(builder.load(total), target, align=size)
            return context.get_dummy_value()

        return types.void(out, a, b, *(types.intp,) * 4), generate

    return add_panel


_panel_64, _panel_32, _panel_16 = _panel(64), _panel(32), _panel(16)


@njit(cache=True, error_model="numpy")
def _add_rows(out, a, b, i, k_from, k_to, columns):
    """Four rows of out, by the widest panels that fit."""
    j = 0
    while columns - j >= 64 and _WIDEST >= 64:
        _panel_64(out, a, b, i, j, k_from, k_to)
        j += 64
    while columns - j >= 32 and _WIDEST >= 64:
        _panel_32(out, a, b, i, j, k_from, k_to)
        j += 32
    while columns - j >= 16:
        _panel_16(out, a, b, i, j, k_from, k_to)
        j += 16


@njit(cache=True, error_model="numpy")
def matmul_add(out, a, b):
    """out += a @ b."""
    for i in range(0, a.shape[0], 4):
        _add_rows(out, a, b, i, 0, b.shape[0], b.shape[1])


@njit(cache=True, error_model="numpy")
def matmul_add_upper(out, a, b):
    """out += a @ b for an upper triangular `a`: its blocks of zeros are skipped."""
    for i in range(0, a.shape[0], 4):
        _add_rows(out, a, b, i, i, b.shape[0], b.shape[1])


@njit(cache=True, fastmath=FAST, error_model="numpy")
def matmul_add_causal(out, a, b):
    """out += tril(a) @ b, where a NaN in b[k] stays out of every row before k."""
    for i in range(0, a.shape[0], 4):
        _add_rows(out, a, b, i, 0, i, b.shape[1])
        a00, a10, a20, a30 = a[i, i], a[i + 1, i], a[i + 2, i], a[i + 3, i]
        a11, a21, a31 = a[i + 1, i + 1], a[i + 2, i + 1], a[i + 3, i + 1]
        a22, a32, a33 = a[i + 2, i + 2], a[i + 3, i + 2], a[i + 3, i + 3]
        for j in range(b.shape[1]):
            b0, b1, b2, b3 = b[i, j], b[i + 1, j], b[i + 2, j], b[i + 3, j]
            out[i, j] += a00 * b0
            out[i + 1, j] += a10 * b0 + a11 * b1
            out[i + 2, j] += a20 * b0 + a21 * b1 + a22 * b2
            out[i + 3, j] += a30 * b0 + a31 * b1 + a32 * b2 + a33 * b3
