"""Converters of matrix products."""

from __future__ import annotations

from mxtrt.convert.ops.registry import Call, converter


def _swap(call: Call, first: int, second: int) -> list[int]:
    """The axes of a tensor of the first input's rank, two of them exchanged."""
    order = list(range(call.rank()))
    order[first], order[second] = order[second], order[first]
    return order


def _swapped(call: Call, name: str, first: int, second: int) -> str:
    order = _swap(call, first, second)
    return name if order == sorted(order) else call.emit("Transpose", [name], perm=order)


def _matrices(call: Call, row: int = -2) -> list[str]:
    """Both operands, their rows moved to the last axis but one, transposed where asked."""
    names = []
    for index, key in enumerate(("transpose_a", "transpose_b")):
        name = _swapped(call, call.input(index), row, -2)
        names.append(_swapped(call, name, -2, -1) if call.flag(key) else name)
    return names


@converter("batch_dot", "_npx_batch_dot", outputs=1)
def batch_dot(call: Call) -> None:
    """``MatMul`` of the matrices in the last two axes."""
    call.require_floats()
    call.emit("MatMul", _matrices(call), output=call.output())


@converter("_linalg_gemm2", "linalg_gemm2", outputs=1)
def linalg_gemm2(call: Call) -> None:
    """``Gemm`` of two matrices, ``MatMul`` of stacks of them: alpha * A B."""
    _gemm(call, beta=0.0)


@converter("_linalg_gemm", "linalg_gemm", outputs=1)
def linalg_gemm(call: Call) -> None:
    """``Gemm`` of two matrices, ``MatMul`` of stacks of them: alpha * A B + beta * C.

    As in BLAS, a C that is multiplied by zero is not read.
    """
    _gemm(call, call.number("beta", 1.0))


def _gemm(call: Call, beta: float) -> None:
    call.require_floats()
    alpha, row = call.number("alpha", 1.0), call.axis("axis", -2)
    call.require(alpha != 0, "alpha=0")
    call.require(row < call.rank() - 1, f"axis={row} holds the columns")
    if call.rank() == 2:
        call.emit(
            "Gemm",
            [call.input(i) for i in range(3 if beta else 2)],
            output=call.output(),
            alpha=alpha,
            beta=beta or None,
            transA=int(call.flag("transpose_a")),
            transB=int(call.flag("transpose_b")),
        )
        return
    product = call.emit("MatMul", _matrices(call, row))
    if alpha != 1:
        product = call.emit("Mul", [product, call.constant(alpha)])
    if beta:
        addend = _swapped(call, call.input(2), row, -2)
        if beta != 1:
            addend = call.emit("Mul", [addend, call.constant(beta)])
        product = call.emit("Add", [product, addend])
    if row == call.rank() - 2:
        call.emit("Identity", [product], output=call.output())
    else:
        call.emit("Transpose", [product], output=call.output(), perm=_swap(call, row, -2))


@converter("dot", outputs=1)
def dot(call: Call) -> None:
    """Sum over the last axis of the first operand and the first axis of the second.

    ``transpose_a`` takes the first axis of the first operand instead and ``transpose_b`` the
    last of the second; all other axes stay in order (``dot-inl.h``).  Hence one ``Gemm`` of
    the operands as matrices, or ``MatMul`` where the second is a matrix that all share.
    """
    call.require_floats()
    first, second = call.flag("transpose_a"), call.flag("transpose_b")
    if call.rank(0) > 2 and call.rank(1) == 2 and not first:
        matrix = call.input(1)
        if second:
            matrix = call.emit("Transpose", [matrix], perm=[1, 0])
        call.emit("MatMul", [call.input(0), matrix], output=call.output())
        return
    operands = [_matrix(call, 0, rows_first=first), _matrix(call, 1, rows_first=not second)]
    plain = call.rank(0) == call.rank(1) == 2
    output = call.output() if plain else None
    product = call.emit("Gemm", operands, output=output, transA=int(first), transB=int(second))
    if not plain:
        target = call.indices([-1, *call.out_shape()[1:]])
        call.emit("Reshape", [product, target], output=call.output())


def _matrix(call: Call, index: int, *, rows_first: bool) -> str:
    """An operand as a matrix whose rows are the first axis, or whose columns are the last."""
    if call.rank(index) == 2:
        return call.input(index)
    target = [0, -1] if rows_first else [-1, call.shape(index)[-1]]
    return call.emit("Reshape", [call.input(index), call.indices(target)])
