"""Windows: which input positions each output position of a convolution or a pool looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Window", "per_axis"]


def per_axis(setting: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """A setting such as a stride, one number for each axis."""
    return (setting,) * axes if isinstance(setting, int) else tuple(setting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A sliding window over one or two axes.

    Args:
        kernel: Its extent on each axis.
        stride: Steps between output positions on each axis.
        dilation: Steps between the taps of a window on each axis.
        padding: Positions added, as `torch.nn.functional.pad` has them: last axis first, both ends.
        mode: What stands there: ``"constant"`` for nothing, or another mode of that function.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    mode: str = "constant"

    def taps(self, shape: Sequence[int], out_shape: Sequence[int]) -> Tensor:
        """For each tap, the input position that each output position sees.

        Args:
            shape: Extents of the input on each axis.
            out_shape: Extents of the output.

        Returns:
            Row-major positions, int64 ``[taps, positions_out]``; -1 for padding.

        Example:
            >>> window = Window(kernel=(3,), stride=(1,), dilation=(1,), padding=(1, 1))
            >>> window.taps((4,), (4,))
            tensor([[-1,  0,  1,  2], [ 0,  1,  2,  3], [ 1,  2,  3, -1]])
        """
        size = int(torch.Size(shape).numel())
        image = torch.arange(1.0, size + 1, dtype=torch.float64).view(1, 1, *shape)
        padded = functional.pad(image, self.padding, mode=self.mode)
        reach = [
            (out - 1) * s + d * (k - 1) + 1
            for out, s, d, k in zip(out_shape, self.stride, self.dilation, self.kernel, strict=True)
        ]
        # An output size that is rounded up lets the last window hang over the end.
        over = [max(far - has, 0) for far, has in zip(reach, padded.shape[2:], strict=True)]
        padded = functional.pad(padded, [n for axis in reversed(over) for n in (0, axis)])
        for axis, far in enumerate(reach, 2):
            padded = padded.narrow(axis, 0, far)
        lead = 2 - len(self.kernel)
        seen = functional.unfold(
            padded.view(1, 1, *(1,) * lead, *padded.shape[2:]),
            (*(1,) * lead, *self.kernel),
            dilation=(*(1,) * lead, *self.dilation),
            stride=(*(1,) * lead, *self.stride),
        )
        return seen[0].long() - 1
