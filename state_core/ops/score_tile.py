"""The arithmetic that every similarity in this package goes through, written as vector IR.

A score of two tokens is one chain of fused multiply-adds over the features, in order:
    s = fma(a[d-1], b[d-1], ... fma(a[1], b[1], fma(a[0], b[0], 0)))
Here the chain is spelt out instructions and all, rather than left to the optimiser, so that its
rounding is the same in a vector lane, in a scalar, at any offset in a tile and on any CPU: the
score of a pair never depends on what else is computed beside it. It is also symmetric in a and b.

Shapes: d features; a tile is ROWS queries against `tile_keys` keys. Arrays are flat: queries
[.., d] row-major; packed keys [blocks, d, tile_keys], so that a lane is a key.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from state_core.ops import numba_threads as _layer  # noqa: F401  (before the first compilation)

ROWS = 4
# Accumulators of a tile are ROWS x VECTORS registers: 16 of the 32 of AVX-512, 8 of the 16 of AVX2.
VECTOR_BYTES, VECTORS = (64, 4) if llvm.get_host_cpu_features().get("avx512f") else (32, 2)
TILE_BYTES = VECTOR_BYTES * VECTORS
CHAINS = 8  # scalar dot products in flight, enough to hide the latency of a fused multiply-add


def flat_rows(x: torch.Tensor) -> tuple[Any, int]:
    """x [B, S, d] as a flat array and the stride of b. A slice x[:, :S] of a longer buffer is not
    copied, so that decoding reads its cache in place."""
    batch, rows, d = x.shape
    if rows * d and (x.stride(2) != 1 or x.stride(1) != d):
        x = x.contiguous()
    span = (batch - 1) * x.stride(0) + rows * d if x.numel() else 0
    return x.as_strided((span,), (1,)).numpy(), x.stride(0)


@njit(inline="always")
def tile_keys(array: Any) -> int:
    """How many keys of the array's dtype one tile holds."""
    return TILE_BYTES // array.itemsize


@njit
def pack_block(rows: Any, start: int, count: int, d: int, packed: Any, block: int) -> bool:
    """Transpose `count` rows from rows[start:] into packed[block:] as [d, tile_keys], zeros after
    them; False if one of their numbers is not finite."""
    width = tile_keys(rows)
    finite = True
    for n in range(width):
        for c in range(d):
            value = rows[start + n * d + c] if n < count else rows.dtype.type(0)
            packed[block + c * width + n] = value
            finite &= np.isfinite(value)
    return finite


@njit
def all_finite(array: Any, start: int, stop: int) -> bool:
    """Whether array[start:stop] holds neither NaN nor infinity."""
    part = array[start:stop]  # counted from 0, so that the loop is free of index checks
    bad = 0
    for n in range(part.size):
        bad |= part[n] - part[n] != 0
    return bad == 0


@njit(inline="always")
def consecutive(base: int, first: int, last: int, d: int) -> Any:
    """Offsets of CHAINS rows of d from row `first` on, none beyond row `last`."""
    return (
        base + first * d,
        base + min(first + 1, last) * d,
        base + min(first + 2, last) * d,
        base + min(first + 3, last) * d,
        base + min(first + 4, last) * d,
        base + min(first + 5, last) * d,
        base + min(first + 6, last) * d,
        base + min(first + 7, last) * d,
    )


def _data(context: Any, builder: Any, kind: Any, value: Any, offset: Any) -> Any:
    """Pointer to element `offset` of a contiguous array."""
    return builder.gep(context.make_array(kind)(context, builder, value).data, [offset])


@intrinsic
def score_tile(
    typingctx: Any,
    queries: Any,
    query: Any,
    keys: Any,
    key: Any,
    d: Any,
    bars: Any,
    bar: Any,
    scores: Any,
) -> Any:
    """Score ROWS queries against a block of packed keys; returns for each row a bit mask of the
    keys whose score reaches the row's bar. `scores` [ROWS, tile_keys] is written if any does.

    `query`, `key`, `bar` are offsets in elements: of the first query row, of the key block and of
    the first row's bar.
    """
    signature = types.UniTuple(types.uint64, ROWS)(
        queries, types.intp, keys, types.intp, types.intp, bars, types.intp, scores
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = context.get_value_type(sig.args[0].dtype)
        itemsize = 8 if isinstance(scalar, ir.DoubleType) else 4
        lanes = VECTOR_BYTES // itemsize
        vector = ir.VectorType(scalar, lanes)
        q = _data(context, builder, sig.args[0], args[0], args[1])
        k = _data(context, builder, sig.args[2], args[2], args[3])
        width = args[4]
        bar_of = _data(context, builder, sig.args[5], args[5], args[6])
        out = _data(context, builder, sig.args[7], args[7], ir.Constant(args[1].type, 0))

        def splat(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _i32(0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)

        def slot(pointer: Any, index: Any) -> Any:
            return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())

        def at(number: int) -> Any:
            return ir.Constant(width.type, number)

        zero = ir.Constant(vector, None)
        sums = [[_local(builder, zero) for _ in range(VECTORS)] for _ in range(ROWS)]
        with cgutils.for_range(builder, width) as loop:
            line = builder.mul(loop.index, at(lanes * VECTORS))
            key_lanes = [
                builder.load(slot(k, builder.add(line, at(v * lanes))), align=itemsize)
                for v in range(VECTORS)
            ]
            for r in range(ROWS):
                index = builder.add(builder.mul(width, at(r)), loop.index)
                value = splat(builder.load(builder.gep(q, [index])))
                for v in range(VECTORS):
                    total = builder.load(sums[r][v])
                    builder.store(_fma(builder, value, key_lanes[v], total), sums[r][v])

        found = [[builder.load(cell) for cell in row] for row in sums]
        masks = []
        for r in range(ROWS):
            threshold = splat(builder.load(builder.gep(bar_of, [at(r)])))
            mask = ir.Constant(ir.IntType(64), 0)
            for v in range(VECTORS):
                reached = builder.fcmp_ordered(">=", found[r][v], threshold)
                bits = builder.zext(builder.bitcast(reached, ir.IntType(lanes)), mask.type)
                mask = builder.or_(mask, builder.shl(bits, mask.type(v * lanes)))
            masks.append(mask)
        some = masks[0]
        for mask in masks[1:]:
            some = builder.or_(some, mask)
        with builder.if_then(builder.icmp_unsigned("!=", some, some.type(0)), likely=False):
            for r in range(ROWS):
                for v in range(VECTORS):
                    place = slot(out, at((r * VECTORS + v) * lanes))
                    builder.store(found[r][v], place, align=itemsize)
        return context.make_tuple(builder, sig.return_type, masks)

    return signature, codegen


@intrinsic
def dots(typingctx: Any, a: Any, row: Any, b: Any, rows: Any, d: Any) -> Any:
    """The scores of a[row : row + d] with b[rows[n] : rows[n] + d] for each of CHAINS offsets."""
    signature = types.UniTuple(a.dtype, CHAINS)(
        a, types.intp, b, types.UniTuple(types.intp, CHAINS), types.intp
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        scalar = context.get_value_type(sig.args[0].dtype)
        left = _data(context, builder, sig.args[0], args[0], args[1])
        rights = [
            _data(context, builder, sig.args[2], args[2], offset)
            for offset in cgutils.unpack_tuple(builder, args[3])
        ]
        sums = [_local(builder, ir.Constant(scalar, 0.0)) for _ in rights]
        with cgutils.for_range(builder, args[4]) as loop:
            value = builder.load(builder.gep(left, [loop.index]))
            for right, cell in zip(rights, sums, strict=True):
                other = builder.load(builder.gep(right, [loop.index]))
                builder.store(_fma(builder, value, other, builder.load(cell)), cell)
        return context.make_tuple(builder, sig.return_type, [builder.load(cell) for cell in sums])

    return signature, codegen


@intrinsic
def lowest_bit(typingctx: Any, mask: Any) -> Any:
    """Index of the lowest set bit of a mask that is not zero."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.intp(types.uint64), codegen


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c rounded once, for scalars and vectors (llvmlite's own knows scalars only)."""
    kind = a.type
    scalar = "f64" if "double" in str(kind) else "f32"
    name = f"v{kind.count}{scalar}" if isinstance(kind, ir.VectorType) else scalar
    signature = ir.FunctionType(kind, [kind] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.{name}")
    return builder.call(function, [a, b, c])


def _i32(value: int) -> Any:
    return ir.Constant(ir.IntType(32), value)


def _local(builder: Any, initial: Any) -> Any:
    """A variable set to `initial` here, which the optimiser keeps in a register."""
    cell = cgutils.alloca_once(builder, initial.type)
    builder.store(initial, cell)
    return cell
