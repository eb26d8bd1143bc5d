"""What convolutions and pools share: windows that slide over the spatial axes of [N, C, ...]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.importer import dims
from ingot.importer.context import Context
from ingot.importer.dims import Dim


@dataclass(frozen=True)
class Window:
    """A window of ``kernel`` extents over spatial axes. ``before`` and ``after`` are the pads of each axis."""

    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]

    @property
    def pads(self) -> list[Dim]:
        """All pads, first those before each axis, as TVM and ONNX order them."""
        return [*self.before, *self.after]

    def reach(self, axis: int) -> Dim:
        """How far a dilated kernel extends on an axis."""
        return dims.dim((self.kernel[axis] - 1) * self.dilations[axis] + 1)

    def output(self, spatial: Sequence[Dim], ceil_mode: bool = False) -> list[Dim]:
        """The number of positions on each axis. With ``ceil_mode``, a last window may reach past the end but not start there."""
        result = []
        for axis, extent in enumerate(spatial):
            room = extent + self.before[axis] + self.after[axis] - self.reach(axis)
            stride = self.strides[axis]
            count = dims.floordiv(room + (stride - 1 if ceil_mode else 0), stride) + 1
            if ceil_mode:
                starts_inside = dims.floordiv(extent + self.before[axis] - 1, stride) + 1
                count = dims.minimum(count, starts_inside)
            result.append(dims.dim(count))
        return result


def window(cx: Context, spatial: Sequence[Dim], kernel: Sequence[Dim], *, auto_pad: str = "NOTSET", strides: Sequence[int] | None = None,
           dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None) -> Window:
    """A window from a node's attributes."""
    rank = len(spatial)
    steps = tuple(strides or [1] * rank)
    gaps = tuple(dilations or [1] * rank)
    given = tuple(pads or [0] * 2 * rank)
    if not len(kernel) == len(steps) == len(gaps) == rank or len(given) != 2 * rank:
        raise cx.error(f"the input has {rank} spatial axes, but kernel_shape, strides, dilations and pads are "
                       f"{dims.text(kernel)}, {list(steps)}, {list(gaps)}, {list(given)}")
    base = Window(tuple(kernel), steps, gaps, given[:rank], given[rank:])
    if auto_pad in ("NOTSET", ""):
        return base
    if auto_pad == "VALID":
        return Window(base.kernel, steps, gaps, (0,) * rank, (0,) * rank)
    before, after = [], []
    for axis, extent in enumerate(spatial):
        total = dims.maximum((dims.ceildiv(extent, steps[axis]) - 1) * steps[axis] + base.reach(axis) - extent, 0)
        small = dims.floordiv(total, 2)
        large = dims.dim(total - small)
        before.append(large if auto_pad == "SAME_LOWER" else small)
        after.append(small if auto_pad == "SAME_LOWER" else large)
    return Window(base.kernel, steps, gaps, tuple(before), tuple(after))
