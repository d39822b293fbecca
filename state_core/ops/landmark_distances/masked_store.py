"""A value written to those of 64 neighbouring places whose bit is set."""

# Numba compiles these functions and infers their types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


@intrinsic
def store_where(typing_context, table, row, column, bits, value):
    """table[row, column + l] = value for every bit l of `bits`, as one masked store.

    Memory behind a bit that is not set is not touched, be it outside the table.
    """
    signature = types.void(table, types.uint64, types.uint64, types.uint64, table.dtype)

    def emit(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        _, row, column, bits, value = arguments
        element = context.get_value_type(signature.args[4])
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        start = builder.gep(array.data, [builder.add(builder.mul(row, width), column)])
        values, mask = ir.VectorType(element, 64), ir.VectorType(I1, 64)
        place = builder.bitcast(start, values.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [values, values.as_pointer(), I32, mask])
        store = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.store.v64i32.p0")
        lanes = ir.Constant(ir.VectorType(I32, 64), None)
        first = builder.insert_element(ir.Constant(values, ir.Undefined), value, I32(0))
        splat = builder.shuffle_vector(first, ir.Constant(values, ir.Undefined), lanes)
        builder.call(store, [splat, place, I32(4), builder.bitcast(bits, mask)])
        return context.get_dummy_value()

    return signature, emit
