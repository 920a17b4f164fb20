"""Input shapes and numbers of classes that the networks of the zoo accept."""

from __future__ import annotations

from joulewise.errors import ModelError, refuse

__all__ = ["check_classes", "check_image", "check_shape"]

_SMALLEST_SIDE = 8


def check_classes(classes: int) -> None:
    """Refuse a number of classes below 1.

    Args:
        classes: Number of outputs of the network.
    """
    if classes < 1:
        refuse("classes", classes, "a whole number of at least 1", ModelError)


def check_shape(input_shape: tuple[int, ...]) -> None:
    """Refuse a shape that is empty or has an axis without entries.

    Args:
        input_shape: Shape of one input, without the batch axis.
    """
    if not input_shape or min(input_shape) < 1:
        refuse("input_shape", input_shape, "one or more sizes, each at least 1", ModelError)


def check_image(input_shape: tuple[int, ...]) -> int:
    """Number of channels of an image shape; refuse any other shape, and images below 8x8.

    No network of the zoo halves the feature map more than three times, which takes 8x8 to 1x1.

    Args:
        input_shape: Shape of one input, ``(channels, height, width)``.

    Example:
        >>> check_image((3, 32, 32))
        3
    """
    check_shape(input_shape)
    if len(input_shape) != 3 or min(input_shape[1:]) < _SMALLEST_SIDE:
        allowed = "(channels, height, width) with height and width of at least 8; others: use 'mlp'"
        refuse("input_shape", input_shape, allowed, ModelError)
    return input_shape[0]
