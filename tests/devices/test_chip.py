from joulewise.devices import Chip


def draw(chip, purpose="faults"):
    return chip.generator(purpose).integers(2**62, size=4).tolist()


def test_a_stream_depends_on_seed_part_and_purpose_only():
    chip = Chip(seed=1, part="a")
    assert draw(chip) == draw(Chip(seed=1).region("a"))
    streams = [
        draw(chip),
        draw(chip.region("b")),
        draw(Chip(seed=2, part="a")),
        draw(chip, "other"),
    ]
    assert len({tuple(stream) for stream in streams}) == 4


def test_part_and_purpose_do_not_run_into_each_other():
    assert draw(Chip(seed=1, part="ab"), "c") != draw(Chip(seed=1, part="a"), "bc")


def test_a_chip_is_the_same_on_any_machine():
    assert draw(Chip(seed=7, part="conv1.weight"))[0] == 953410124120831753
