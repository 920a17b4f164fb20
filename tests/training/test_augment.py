import torch

from joulewise.training import augment


def images(count=200):
    return torch.arange(1, 1 + count * 2 * 6 * 6, dtype=torch.float32).view(count, 2, 6, 6)


def shifted(image, rows, columns):
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    return padded[:, rows : rows + 6, columns : columns + 6]


def test_each_result_is_a_shift_of_its_image_perhaps_mirrored():
    inputs = images()
    outputs = augment(inputs, padding=2, flips=True, generator=torch.Generator().manual_seed(0))
    assert outputs.shape == inputs.shape
    kinds = set()
    for before, after in zip(inputs, outputs, strict=True):
        found = [
            (rows, columns, mirrored)
            for rows in range(5)
            for columns in range(5)
            for mirrored in (False, True)
            if torch.equal(
                after,
                shifted(before, rows, columns).flip(2)
                if mirrored
                else shifted(before, rows, columns),
            )
        ]
        assert len(found) == 1
        kinds.add(found[0])
    assert len(kinds) > 40  # nearly all of the 50 kinds in 200 draws


def test_without_flips_and_padding_nothing_changes():
    inputs = images(5)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(inputs, padding=0, flips=False, generator=generator), inputs)


def test_bytes_stay_bytes_and_the_seed_decides():
    inputs = images(9).to(torch.uint8)
    first, again, other = (
        augment(inputs, padding=2, flips=True, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
