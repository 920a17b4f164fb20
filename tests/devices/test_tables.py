import numpy as np
import pytest
import torch

from joulewise.devices.tables import as_numbers, has_column, interpolate, read_csv
from joulewise.errors import TableError

XS = torch.tensor([0.0, 0.1, 0.7, 1.5], dtype=torch.float64)
YS = torch.tensor([[1.0, -2.0], [0.3, 5.0], [1 / 3, 0.0], [9.0, 1e-9]], dtype=torch.float64)


def test_tuples_of_numbers():
    assert as_numbers("x", ((1, 2.5), (3, 4)), "pairs").tolist() == [[1, 2.5], [3, 4]]
    assert as_numbers("x", (), "pairs").size == 0
    for other in ((1, "a"), ((1,), (1, 2)), (None,), (True,), (10**30,), [1, 2], 5, None):
        with pytest.raises(TableError, match="^x is .*; allowed: pairs$"):
            as_numbers("x", other, "pairs")


def test_what_is_no_path():
    for read in (has_column, lambda path, column: read_csv(path, (column,), "table")):
        with pytest.raises(TableError, match="cannot be read: embedded null byte"):
            read("a\0b", "x")


def test_interpolation_is_numpys_within_the_table():
    x = torch.linspace(0, 1.5, 97, dtype=torch.float64).reshape(1, 97)
    found = interpolate(x, XS, YS)
    assert found.shape == (1, 97, 2)
    for column, ys in enumerate(YS.T):
        expected = np.interp(x.numpy(), XS.numpy(), ys.numpy())
        np.testing.assert_allclose(found[..., column], expected, rtol=1e-14, atol=1e-15)
        assert torch.equal(interpolate(x, XS, ys), found[..., column])


def test_interpolation_is_exact_at_entries_and_linear_beyond_them():
    assert torch.equal(interpolate(XS, XS, YS), YS)
    beyond = interpolate(torch.tensor([-0.1, 2.3], dtype=torch.float64), XS, YS[:, 0])
    assert beyond.tolist() == pytest.approx([1.7, 2 * 9 - 1 / 3])


def test_gradients_of_interpolation():
    x = torch.tensor([0.05, 0.5, 1.7], dtype=torch.float64, requires_grad=True)
    ys = YS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, ys: interpolate(x, XS, ys), (x, ys))
    batched = torch.func.vmap(lambda one: interpolate(one, XS, YS))(x)
    assert torch.equal(batched, interpolate(x, XS, YS))


def test_rows_of_a_csv_file_have_their_place(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("# by hand\na, b\n\n1,2e-3\n# again\n3,inf\n")
    assert read_csv(path, ("a", "b"), "table") == (
        "by hand again",
        [(f"{path}, line 4", [1.0, 2e-3]), (f"{path}, line 6", [3.0, float("inf")])],
    )


@pytest.mark.parametrize("line", ["1", "1,2,3", "1,x", "1,"])
def test_lines_that_are_not_numbers_are_refused(tmp_path, line):
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n{line}\n")
    with pytest.raises(TableError, match=f"t.csv, line 2 is '{line}'; allowed: 2 numbers, a,b$"):
        read_csv(path, ("a", "b"), "table")
