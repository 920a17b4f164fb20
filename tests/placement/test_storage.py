import pytest
import torch

from joulewise.placement.storage import Owners, extent


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: t, 24),
        (lambda t: t[1:3], 12),
        (lambda t: t[:, ::2], 23),
        (lambda t: t.T, 24),
        (lambda t: t[:0], 0),
        (lambda t: t[:1].expand(9, 6), 6),
    ],
)
def test_the_extent_of_a_tensor(make, words):
    base = torch.zeros(4, 6)
    start, end = extent(make(base))
    assert start >= base.data_ptr() or not words
    assert end - start == 4 * words


def test_a_part_belongs_to_its_whole_and_knows_where_it_begins():
    one, other = torch.zeros(4, 6), torch.zeros(3, dtype=torch.float64)
    owners = Owners({"one": one, "other": other})
    assert owners.find(one.T) == ("one", 0)
    assert owners.find(one[1:, 2:]) == ("one", 8)
    assert owners.find(other[2:]) == ("other", 2)
    assert owners.find(torch.zeros(2)) is None
    assert Owners({}).find(one) is None
