"""Input shapes and numbers of classes that the networks of the zoo accept."""

from __future__ import annotations

from joulewise.errors import ModelError, refuse

__all__ = ["check_image", "check_shape"]


def check_shape(input_shape: tuple[int, ...], classes: int) -> None:
    """Refuse a number of classes below 1, and a shape that is empty or has an axis of length 0."""
    if classes < 1:
        refuse("classes", classes, "a whole number of at least 1", ModelError)
    if not input_shape or min(input_shape) < 1:
        refuse("input_shape", input_shape, "one or more sizes, each at least 1", ModelError)


def check_image(input_shape: tuple[int, ...], classes: int) -> int:
    """Number of channels of an image shape; refuse any other shape, and images below 8x8.

    No network of the zoo halves the feature map more than three times, which takes 8x8 to 1x1.

    Example:
        >>> check_image((3, 32, 32), classes=10)
        3
    """
    check_shape(input_shape, classes)
    if len(input_shape) != 3 or min(input_shape[1:]) < 8:
        allowed = "(channels, height, width) with height and width of at least 8; others: use 'mlp'"
        refuse("input_shape", input_shape, allowed, ModelError)
    return input_shape[0]
