"""One sample against a block of the grid, as vector instructions.

numba's own vectorisation sees 216 scalar updates of a flat array and packs few of them; here they are written
as LLVM vectors, a row of the grid at a time, and any processor runs them with the registers it has.  A row
holds the W complex cells along x, interleaved, and is padded with zero weights to a whole vector: the array
must reach ``LANES`` floats beyond the first cell of its last row.

Weights are the polynomials of :attr:`dcryo.operators.window.Window.polynomial`, one per tap, evaluated for
all taps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dcryo.operators.window import DEGREE, TAPS

LANES = 2 * TAPS
"""Floats in the vector of a row."""

_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_FAST = ("fast",)


def _instruction(function: Any) -> Any:
    """:func:`numba.extending.intrinsic`, whose first argument no caller gives."""
    return intrinsic(function)


def _shuffle(builder: Any, vector: Any, lanes: Sequence[int]) -> Any:
    """The lanes of a vector in another order."""
    mask = ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _splat(builder: Any, scalar: Any, count: int) -> Any:
    """A vector of equal lanes."""
    empty = ir.Constant(ir.VectorType(_FLOAT, count), ir.Undefined)
    return _shuffle(builder, builder.insert_element(empty, scalar, _INT32(0)), [0] * count)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, fused where the processor can."""
    return builder.fadd(builder.fmul(a, b, _FAST), c, _FAST)


def _place(builder: Any, data: Any, offset: Any, count: int) -> Any:
    """Pointer to ``count`` floats as a vector."""
    return builder.bitcast(builder.gep(data, [offset]), ir.VectorType(_FLOAT, count).as_pointer())


def _load(builder: Any, data: Any, offset: Any, count: int) -> Any:
    vector = builder.load(_place(builder, data, offset, count))
    vector.align = 4
    return vector


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _weights(builder: Any, polynomial: Any, s: Any) -> Any:
    """The weights of all taps of one axis, by Horner's rule; ``s`` as in ``Window.polynomial``."""
    s = _splat(builder, s, TAPS)
    value = _load(builder, polynomial, _INT64(DEGREE * TAPS), TAPS)
    for degree in range(DEGREE - 1, -1, -1):
        coefficient = _load(builder, polynomial, _INT64(degree * TAPS), TAPS)
        value = _multiply_add(builder, value, s, coefficient)
    return value


def _slopes(builder: Any, polynomial: Any, s: Any) -> Any:
    """Derivatives of the weights by the position of the sample, which moves s at the rate of -2."""
    s = _splat(builder, s, TAPS)
    value = ir.Constant(ir.VectorType(_FLOAT, TAPS), [ir.Constant(_FLOAT, 0.0)] * TAPS)
    for degree in range(DEGREE, 0, -1):
        coefficient = _load(builder, polynomial, _INT64(degree * TAPS), TAPS)
        rate = ir.Constant(coefficient.type, [ir.Constant(_FLOAT, -2.0 * degree)] * TAPS)
        value = _multiply_add(builder, value, s, builder.fmul(coefficient, rate, _FAST))
    return value


def _lane(builder: Any, vector: Any, lane: int) -> Any:
    return builder.extract_element(vector, _INT32(lane))


def _twice(builder: Any, weights: Any) -> Any:
    """Weights for interleaved complex cells."""
    return _shuffle(builder, weights, [lane // 2 for lane in range(LANES)])


def _rows(builder: Any, offset: Any, stride_y: Any, stride_z: Any, width: int) -> list[list[Any]]:
    """Offsets of the rows of the block, [z][y]."""
    planes = [builder.add(offset, builder.mul(stride_z, _INT64(z))) for z in range(width)]
    return [[builder.add(at, builder.mul(stride_y, _INT64(y))) for y in range(width)] for at in planes]


@_instruction
def spread(
    typing: Any, width: Any, grid: Any, offset: Any, stride_y: Any, stride_z: Any, polynomial: Any,
    sx: Any, sy: Any, sz: Any, re: Any, im: Any,
) -> Any:  # fmt: skip
    """Add (re, im), times the weights of a sample, to the ``width``^3 cells from ``offset`` on."""
    if not isinstance(width, types.IntegerLiteral):
        return None  # numba also asks for the type without its value
    taps = width.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, cells, first, step_y, step_z, table, fx, fy, fz, real, imaginary = arguments
        cells = _data(context, builder, signature.args[1], cells)
        table = _data(context, builder, signature.args[5], table)
        x, y, z = (_weights(builder, table, s) for s in (fx, fy, fz))
        value = builder.insert_element(ir.Constant(ir.VectorType(_FLOAT, 2), ir.Undefined), real, _INT32(0))
        value = builder.insert_element(value, imaginary, _INT32(1))
        value = _shuffle(builder, value, [lane % 2 for lane in range(LANES)])
        row = builder.fmul(_twice(builder, x), value, _FAST)
        rows = [builder.fmul(row, _splat(builder, _lane(builder, y, i), LANES), _FAST) for i in range(taps)]
        for i, plane in enumerate(_rows(builder, first, step_y, step_z, taps)):
            weight = _splat(builder, _lane(builder, z, i), LANES)
            for at, scaled in zip(plane, rows, strict=True):
                total = _multiply_add(builder, weight, scaled, _load(builder, cells, at, LANES))
                builder.store(total, _place(builder, cells, at, LANES)).align = 4
        return context.get_dummy_value()

    arguments = (width, grid, offset, stride_y, stride_z, polynomial, sx, sy, sz, re, im)
    return types.void(*arguments), generate


@_instruction
def gather(
    typing: Any, width: Any, grid: Any, offset: Any, stride_y: Any, stride_z: Any, polynomial: Any,
    sx: Any, sy: Any, sz: Any,
) -> Any:  # fmt: skip
    """The weighted sum of the ``width``^3 cells from ``offset`` on, (re, im): the transpose of spread."""
    if not isinstance(width, types.IntegerLiteral):
        return None  # numba also asks for the type without its value
    taps = width.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, cells, first, step_y, step_z, table, fx, fy, fz = arguments
        cells = _data(context, builder, signature.args[1], cells)
        table = _data(context, builder, signature.args[5], table)
        x, y, z = (_weights(builder, table, s) for s in (fx, fy, fz))
        zero = ir.Constant(ir.VectorType(_FLOAT, LANES), [ir.Constant(_FLOAT, 0.0)] * LANES)
        # a sum per y: the processor adds to one while it waits for another
        sums = [zero] * taps
        for i, plane in enumerate(_rows(builder, first, step_y, step_z, taps)):
            weight = _splat(builder, _lane(builder, z, i), LANES)
            for j, at in enumerate(plane):
                sums[j] = _multiply_add(builder, weight, _load(builder, cells, at, LANES), sums[j])
        total = zero
        for j in range(taps):
            total = _multiply_add(builder, _splat(builder, _lane(builder, y, j), LANES), sums[j], total)
        parts = _along_x(builder, total, x)
        return context.make_tuple(builder, signature.return_type, parts)

    arguments = (width, grid, offset, stride_y, stride_z, polynomial, sx, sy, sz)
    pair: Any = types.UniTuple(types.float32, 2)  # type: ignore[no-untyped-call]
    return pair(*arguments), generate


def _along_x(builder: Any, row: Any, weights: Any) -> list[Any]:
    """Weighted sum of the cells of a row: its real and its imaginary part."""
    row = builder.fmul(row, _twice(builder, weights), _FAST)
    count = LANES
    while count > 2:
        count //= 2
        low = _shuffle(builder, row, range(count))
        row = builder.fadd(low, _shuffle(builder, row, range(count, 2 * count)), _FAST)
    return [_lane(builder, row, 0), _lane(builder, row, 1)]


@_instruction
def gather_gradient(
    typing: Any, width: Any, grid: Any, offset: Any, stride_y: Any, stride_z: Any, polynomial: Any,
    sx: Any, sy: Any, sz: Any,
) -> Any:  # fmt: skip
    """What :func:`gather` gives, and its derivatives by x, y and z in cells: (re, im) of each of the four."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    taps = width.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, cells, first, step_y, step_z, table, *fractions = arguments
        cells = _data(context, builder, signature.args[1], cells)
        table = _data(context, builder, signature.args[5], table)
        x, y, z = (_weights(builder, table, s) for s in fractions)
        dx, dy, dz = (_slopes(builder, table, s) for s in fractions)
        zero = ir.Constant(ir.VectorType(_FLOAT, LANES), [ir.Constant(_FLOAT, 0.0)] * LANES)
        sums, slopes = [zero] * taps, [zero] * taps
        for i, plane in enumerate(_rows(builder, first, step_y, step_z, taps)):
            weight = _splat(builder, _lane(builder, z, i), LANES)
            slope = _splat(builder, _lane(builder, dz, i), LANES)
            for j, at in enumerate(plane):
                row = _load(builder, cells, at, LANES)
                sums[j] = _multiply_add(builder, weight, row, sums[j])
                slopes[j] = _multiply_add(builder, slope, row, slopes[j])
        value, by_y, by_z = zero, zero, zero
        for j in range(taps):
            weight = _splat(builder, _lane(builder, y, j), LANES)
            value = _multiply_add(builder, weight, sums[j], value)
            by_z = _multiply_add(builder, weight, slopes[j], by_z)
            by_y = _multiply_add(builder, _splat(builder, _lane(builder, dy, j), LANES), sums[j], by_y)
        parts = [
            *_along_x(builder, value, x),
            *_along_x(builder, value, dx),
            *_along_x(builder, by_y, x),
            *_along_x(builder, by_z, x),
        ]
        return context.make_tuple(builder, signature.return_type, parts)

    arguments = (width, grid, offset, stride_y, stride_z, polynomial, sx, sy, sz)
    eight: Any = types.UniTuple(types.float32, 8)  # type: ignore[no-untyped-call]
    return eight(*arguments), generate


@_instruction
def spread_line(typing: Any, line: Any, offset: Any, polynomial: Any, s: Any, value: Any) -> Any:
    """Add a real value, times the weights of one axis, to ``TAPS`` cells from ``offset`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cells, at, table, fraction, scalar = arguments
        cells = _data(context, builder, signature.args[0], cells)
        table = _data(context, builder, signature.args[2], table)
        weights = _weights(builder, table, fraction)
        total = _multiply_add(
            builder, weights, _splat(builder, scalar, TAPS), _load(builder, cells, at, TAPS)
        )
        builder.store(total, _place(builder, cells, at, TAPS)).align = 4
        return context.get_dummy_value()

    return types.void(line, offset, polynomial, s, value), generate
