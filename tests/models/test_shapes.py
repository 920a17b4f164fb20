import pytest

from joulewise.errors import ModelError
from joulewise.models.shapes import check_image, check_shape


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 8), (-1, 8, 8)])
def test_a_shape_without_entries_is_refused(shape):
    with pytest.raises(ModelError, match="input_shape is .* each at least 1"):
        check_shape(shape, 10)


@pytest.mark.parametrize("shape", [(8, 8), (3, 7, 8), (3, 8, 7), (1, 3, 8, 8), (20,)])
def test_what_is_no_image_of_8x8_is_refused(shape):
    with pytest.raises(ModelError, match="at least 8; others: use 'mlp'"):
        check_image(shape, 10)


def test_an_image_gives_its_channels():
    assert check_image((5, 8, 64), 10) == 5


@pytest.mark.parametrize("classes", [0, -3])
def test_no_classes_are_refused(classes):
    with pytest.raises(ModelError, match=f"classes is {classes}"):
        check_shape((5,), classes)
