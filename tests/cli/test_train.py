import pytest


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--seed", 10**22), "seeds[0] is 10000000000000000000000"),
        (("--out", "folder.safetensors"), "out is folder.safetensors, a folder; allowed: a file"),
    ],
)
def test_what_would_fail_later_is_refused_before_training(run, tmp_path, monkeypatch, extra, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr("joulewise.training.train", lambda *_, **__: pytest.fail("it trains"))
    code, out, err = run("train", "--model", "mlp", "--out", "w.safetensors", *extra)
    assert (code, out) == (2, ""), err
    assert said in err and len(err.strip().splitlines()) == 1
