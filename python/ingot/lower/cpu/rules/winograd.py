"""The results of a Winograd convolution, and what is fused after it: a tile at a time, vectors along the channels."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from ingot.lower.cpu import nest
from ingot.lower.cpu.epilogue import Epilogue
from ingot.lower.cpu.fused import Fused, Stage, keeps_shape, loads
from ingot.lower.cpu.nest import Flat, Local, branch, constant, loop, parallel, product, sequence, simplify
from ingot.lower.cpu.winograd import OUTPUT_ANNOTATION, Tiling, output_tile
from ingot.lower.targets import Target


def rule(fused: Fused, target: Target) -> tuple[tirx.PrimFunc, str] | None:
    """Schedules a function around a Winograd output transform."""
    anchor = next((s for s in fused.stages if OUTPUT_ANNOTATION in s.annotations), None)
    if anchor is None or not all(s.is_map for s in fused.stages if s is not anchor) or not keeps_shape(fused, anchor):
        return None
    m = int(str(anchor.annotations[OUTPUT_ANNOTATION]))
    return _write(fused, anchor, m, target), f"winograd {m}x{m}, output"


def _write(fused: Fused, anchor: Stage, m: int, target: Target) -> tirx.PrimFunc:
    images, height, width, columns = (constant(e) for e in anchor.extents)
    tiling = Tiling(m, height, width)
    dtype = str(anchor.buffer.ty.dtype)
    lanes = target.lanes(4)
    products = Flat(next(n.source for n in loads(anchor.value) if not n.source.same_as(anchor.buffer)))
    tiles = product([images, tiling.down, tiling.across])
    after = Epilogue(fused, anchor)

    def tile(image: Any, down: Any, across: Any, number: Any) -> Any:
        def vector(column: Any, lanes: int) -> Any:
            between = Local("between", tiling.m * tiling.side * lanes, dtype)
            results = Local("results", tiling.m * tiling.m * lanes, dtype)

            def load(i: int, j: int) -> Any:
                return products.load(simplify(((i * tiling.side + j) * tiles + number) * columns + column), lanes)

            def keep(i: int, j: int, value: Any) -> Any:
                return results.store((i * m + j) * lanes, value, lanes)

            def stored(i: int, j: int) -> Any:
                row = simplify((image * height + down * m + i) * width + across * m + j)

                def one(lane: Any) -> Any:
                    return after.store(row, simplify(column + lane), results.load(simplify(lane + (i * m + j) * lanes)))

                inside = tirx.all(down * m + i < height, across * m + j < width)
                return branch(inside, nest.vectorized("lane", lanes, one) if lanes > 1 else one(nest.index(0)))

            return sequence(between.allocate(), results.allocate(), output_tile(tiling, load, between, keep, dtype, lanes),
                            [stored(i, j) for i in range(m) for j in range(m)])

        whole, left = columns // lanes, columns % lanes
        return sequence(loop("v", whole, lambda v: vector(simplify(v * lanes), lanes)) if whole else None,
                        loop("k", left, lambda k: vector(simplify(whole * lanes + k), 1)) if left else None)

    def line(position: Any) -> Any:
        image, down = simplify(tirx.floordiv(position, tiling.down)), simplify(tirx.floormod(position, tiling.down))
        return loop("across", tiling.across, lambda a: tile(image, down, a, simplify(position * tiling.across + a)))

    body = parallel("line", product([images, tiling.down]), line)
    function = fused.function
    return tirx.PrimFunc(list(function.params), sequence(products.declare(), after.declared(), body), function.ret_type, function.attrs)
