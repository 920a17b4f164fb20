"""Progress where standard error is not a terminal: a line now and then, none alike."""

from types import SimpleNamespace

from joulewise.cli import console


def test_lines_say_how_long_it_has_taken(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 40.0, 65.0, 90.0])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with console.bar("trials") as update:
        for done in (0, 3, 3, 3):
            update(done, 8, "about 20 s left")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "trials: 3 of 8 after 40 s, about 20 s left",
        "trials: 3 of 8 after 90 s, about 20 s left",
    ]
