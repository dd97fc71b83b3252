"""Vectors of float32 as values inside numba kernels.

LLVM vectorises a loop where it can prove that nothing in it overlaps, which it cannot for the butterflies of
a Fourier transform in place.  Here the vector is the value: ``load`` takes ``LANES`` consecutive numbers out
of an array, ``+``, ``-``, ``*`` and ``/`` work on all of them at once, also with a scalar on one side,
``store`` puts them back.  On processors with shorter vectors LLVM splits them.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, overload, register_model

intrinsic: Any = _intrinsic
"""Decorated functions are called without the typing context that they are written with."""

LANES = 16
"""Numbers in a vector: 512 bits."""

CACHE_LINE = 64
"""Bytes that a processor fetches at once."""


class Lanes(types.Type):
    """The numba type of a vector of ``LANES`` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes({LANES})")


_TYPE = Lanes()
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)  # type: ignore[no-untyped-call]


def _address(context: Any, builder: Any, array_type: Any, array: Any, first: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [first]), _VECTOR.as_pointer())


@intrinsic
def load(typing: Any, array: Any, first: Any) -> Any:
    """The vector that begins at element ``first`` of a flat contiguous array of float32."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args), align=4)

    return _TYPE(array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, first: Any, vector: Any) -> Any:
    """Put a vector where :func:`load` would find it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _TYPE), code


@intrinsic
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of element ``at`` of a contiguous array of any shape, which may lie outside."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind)
        builder.call(function, [pointer, word(0), word(3), word(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


def _spread(builder: Any, scalar: Any) -> Any:
    """A vector of one number."""
    undefined, zero = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    single = builder.insert_element(undefined, scalar, zero)
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


def _arithmetic(instruction: str) -> Any:
    @intrinsic
    def apply(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vectors = [
                value if kind == _TYPE else _spread(builder, value)
                for kind, value in zip(signature.args, args, strict=True)
            ]
            return getattr(builder, instruction)(*vectors, flags=("fast",))

        kinds = [kind if kind == _TYPE else types.float32 for kind in (a, b)]
        return _TYPE(*kinds), code

    return apply


def _overload(symbol: Any, instruction: str) -> None:
    apply = _arithmetic(instruction)

    @overload(symbol)
    def operation(a: Any, b: Any) -> Any:
        def implementation(a: Any, b: Any) -> Any:
            return apply(a, b)

        return implementation if isinstance(a, Lanes) or isinstance(b, Lanes) else None


for _symbol, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _overload(_symbol, _instruction)


def _function(name: str, count: int) -> Any:
    """LLVM's function ``name`` of ``count`` vectors."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * count)

    def call(builder: Any, arguments: Any) -> Any:
        full = f"llvm.{name}.v{LANES}f32"
        function = builder.module.globals.get(full) or ir.Function(builder.module, kind, full)
        return builder.call(function, arguments, fastmath=("fast",))

    return call


_SQRT, _LARGER, _MODULUS = _function("sqrt", 1), _function("maxnum", 2), _function("fabs", 1)


@intrinsic
def root(typing: Any, a: Any) -> Any:
    """Square roots of a vector."""
    return _TYPE(_TYPE), lambda context, builder, signature, args: _SQRT(builder, args)


@intrinsic
def modulus(typing: Any, a: Any) -> Any:
    """Absolute values of a vector."""
    return _TYPE(_TYPE), lambda context, builder, signature, args: _MODULUS(builder, args)


@intrinsic
def at_least(typing: Any, a: Any, least: Any) -> Any:
    """A vector, and ``least`` where it is smaller."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _LARGER(builder, [args[0], _spread(builder, args[1])])

    return _TYPE(_TYPE, types.float32), code


@intrinsic
def shifted(typing: Any, a: Any, last: Any) -> Any:
    """All numbers of a vector but the first, and then ``last``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(1, LANES + 1)))
        return builder.shuffle_vector(args[0], _spread(builder, args[1]), mask)

    return _TYPE(_TYPE, types.float32), code
