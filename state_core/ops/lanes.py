"""Vectors of 16 numbers for Numba kernels: what a register holds, said in the source.

Numba's own loops are vectorised only where LLVM can prove that no two arrays overlap, which it
tests anew before every short loop. `Lanes` is a value like a float: load it, compute with `fma`,
`times` and `power_of_two`, store it. LLVM maps it to one register of AVX-512, or to what else the
processor has. Every multiply-add is fused, and nothing is reordered: the bits do not depend on the
compiler's choices.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from state_core.ops.numba_math import STEADY

WIDTH = 16
_LOWEST = -100.0  # 2^-100 is nothing beside any sum, and far from denormal numbers, which are slow
# 2^f = 1 + c1 f + c2 f^2 ..., highest first, for |f| <= 1/2 to 2e-9 (least squares); 2^0 is 1.
_POWERS = (
    *(1.5370704932e-4, 1.3399848248e-3, 9.6183735875e-3),
    *(5.5503290147e-2, 2.4022647738e-1, 6.9314718246e-1, 1.0),
)
_ROUNDING = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in a float's lowest bits
_LOG2_E = 1.4426950408889634


class Lanes(types.Type):  # type: ignore[misc]
    """Numba's type of 16 floats or 16 doubles."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(name=f"Lanes({element})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Lanes) -> None:
        scalar = ir.DoubleType() if kind.element == types.float64 else ir.FloatType()
        super().__init__(manager, kind, ir.VectorType(scalar, WIDTH))


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index_kind: Any, index: Any) -> Any:
    """Where array[index] lies; neither the bounds nor the sign of the index are looked at."""
    positions = [
        context.cast(builder, value, given, types.intp)
        for value, given in zip(cgutils.unpack_tuple(builder, index), index_kind, strict=True)
    ]
    view = context.make_array(kind)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, kind, view, positions, wraparound=False)


def _splat(builder: Any, kind: Any, value: Any) -> Any:
    nothing = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None)
    return builder.shuffle_vector(one, nothing, zeros)


def _call(builder: Any, name: str, *args: Any) -> Any:
    """An LLVM intrinsic that takes and returns vectors of one kind."""
    kind = args[0].type
    scalar = "f64" if kind.element == ir.DoubleType() else "f32"
    signature = ir.FunctionType(kind, [kind] * len(args))
    full = f"llvm.{name}.v{WIDTH}{scalar}"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, full), args)


def _constant(kind: Any, number: Any) -> Any:
    return ir.Constant(kind, [number] * WIDTH)


def _power_of_two(builder: Any, value: Any) -> Any:
    """2^value for value <= 0 (see `power_of_two`)."""
    kind = value.type
    if kind.element == ir.DoubleType():
        return _call(builder, "exp2", value)
    too_low = builder.fcmp_ordered("<", value, _constant(kind, _LOWEST))
    value = builder.select(too_low, _constant(kind, _LOWEST), value)
    shifted = builder.fadd(value, _constant(kind, _ROUNDING))
    rest = builder.fsub(value, builder.fsub(shifted, _constant(kind, _ROUNDING)))
    power = _constant(kind, _POWERS[0])
    for coefficient in _POWERS[1:]:
        power = _call(builder, "fma", power, rest, _constant(kind, coefficient))
    bits = ir.VectorType(ir.IntType(32), WIDTH)
    exponent = builder.shl(builder.bitcast(shifted, bits), _constant(bits, 23))
    scale = builder.add(exponent, _constant(bits, 127 << 23))
    return builder.fmul(power, builder.bitcast(scale, kind))


@intrinsic
def load(typing_context, array, index):
    """array[index], and the 15 elements that follow in memory."""

    def generate(context, builder, signature, args):
        kind = context.get_value_type(signature.return_type)
        at = _pointer(context, builder, array, args[0], signature.args[1], args[1])
        align = context.get_abi_sizeof(kind.element)
        return builder.load(builder.bitcast(at, kind.as_pointer()), align=align)

    return Lanes(array.dtype)(array, index), generate


@intrinsic
def store(typing_context, array, index, value):
    """array[index] and the 15 elements that follow become `value`."""

    def generate(context, builder, signature, args):
        kind = args[2].type
        at = _pointer(context, builder, array, args[0], signature.args[1], args[1])
        align = context.get_abi_sizeof(kind.element)
        builder.store(args[2], builder.bitcast(at, kind.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def splat(typing_context, array, index):
    """array[index] in every lane."""

    def generate(context, builder, signature, args):
        at = _pointer(context, builder, array, args[0], signature.args[1], args[1])
        return _splat(builder, context.get_value_type(signature.return_type), builder.load(at))

    return Lanes(array.dtype)(array, index), generate


@intrinsic
def zeros(typing_context, array):
    """Lanes of the array's dtype, all 0."""

    def generate(context, builder, signature, args):
        return ir.Constant(context.get_value_type(signature.return_type), None)

    return Lanes(array.dtype)(array), generate


@intrinsic
def times(typing_context, a, b):
    """a * b."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def scale(typing_context, a, number):
    """a times a number of any float type."""

    def generate(context, builder, signature, args):
        factor = context.cast(builder, args[1], signature.args[1], a.element)
        return builder.fmul(args[0], _splat(builder, args[0].type, factor))

    return a(a, number), generate


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, rounded once."""
    return a(a, b, c), lambda context, builder, signature, args: _call(builder, "fma", *args)


@intrinsic
def total(typing_context, a):
    """The sum of the lanes, by halves: 8 and 8, then 4 and 4, ..."""

    def generate(context, builder, signature, args):
        (value,) = args
        width = WIDTH
        while width > 1:
            width //= 2
            nothing = ir.Constant(value.type, ir.Undefined)
            index = ir.VectorType(ir.IntType(32), width)
            low, high = (
                builder.shuffle_vector(
                    value, nothing, ir.Constant(index, list(range(k, k + width)))
                )
                for k in (0, width)
            )
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return a.element(a), generate


@intrinsic
def power_of_two(typing_context, x):
    """2^x for x <= 0: to 1 ulp in float32 by arithmetic, in float64 by the C library.

    Below -100, float32 gives 2^-100. NaN stays NaN.
    """

    def generate(context, builder, signature, args):
        return _power_of_two(builder, args[0])

    return x(x), generate


@intrinsic
def sigmoid(typing_context, x):
    """1 / (1 + e^-x), from the exponential of -|x|, which cannot overflow. NaN stays NaN."""

    def generate(context, builder, signature, args):
        (value,) = args
        one, zero = _constant(value.type, 1.0), _constant(value.type, 0.0)
        magnitude = _call(builder, "fabs", value)
        power = _power_of_two(builder, builder.fmul(magnitude, _constant(value.type, -_LOG2_E)))
        share = builder.fdiv(one, builder.fadd(one, power))
        negative = builder.fcmp_ordered("<", value, zero)
        return builder.select(negative, builder.fmul(power, share), share)

    return x(x), generate


@intrinsic
def largest(typing_context, a, b):
    """Lane by lane the larger of two; a NaN in `a` stays."""

    def generate(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])

    return a(a, b), generate


@intrinsic
def top(typing_context, a):
    """The largest lane; lanes that are NaN are passed over."""

    def generate(context, builder, signature, args):
        (value,) = args
        scalar = "f64" if value.type.element == ir.DoubleType() else "f32"
        kind = ir.FunctionType(value.type.element, [value.type])
        name = f"llvm.vector.reduce.fmax.v{WIDTH}{scalar}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [value])

    return a.element(a), generate


@intrinsic
def minus(typing_context, a, number):
    """a less a number of any float type, in every lane."""

    def generate(context, builder, signature, args):
        subtracted = context.cast(builder, args[1], signature.args[1], a.element)
        return builder.fsub(args[0], _splat(builder, args[0].type, subtracted))

    return a(a, number), generate


@intrinsic
def plus(typing_context, a, b):
    """a + b."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@njit(fastmath=STEADY)
def silu_slope(x, s):
    """The derivative of silu, x s, where s = sigmoid(x)."""
    y = times(x, s)
    return fma(scale(y, -1.0), s, plus(s, y))
