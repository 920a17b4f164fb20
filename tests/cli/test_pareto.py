"""``joulewise pareto``: fronts side by side, as tables and as a record."""

import json

import pytest

from html_page import Page

QUICK = ("--images", "150", "--samples", "64", "--chips", "6", "--plans", "4")


def test_fronts_of_several_kinds(run, trained, tmp_path):
    code, out, err = run(
        "pareto", "--model", f"mlp={trained}", *QUICK, "--store", "weights", "--bit-planes",
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    assert "0.5 points lost" in out and "net, tensor and bit plane" in out
    assert f"The report, for a browser: {tmp_path / 'report.html'}" in out
    record = json.loads((tmp_path / "pareto.json").read_text())
    page = Page((tmp_path / "report.html").read_text())
    assert json.loads(page.script("joulewise-record")) == record
    json.loads(page.script("joulewise-figures"), parse_constant=pytest.fail)
    assert [front["name"] for front in record["fronts"]] == [
        "net, one point", "net, tensor", "net, tensor and bit plane",
    ]  # fmt: skip
    assert {len(front["front"]["points"]) for front in record["fronts"]} == {4}


def test_several_memories(run, trained):
    code, out, err = run(
        "pareto", "--model", f"mlp={trained}", *QUICK, "--device", "sram", "--device", "crossbar",
        "--sigma", "1e-6", "--per", "tensor", "--json",
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    assert [front["knob"] for front in record["fronts"]] == ["eta", "g_max"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--plans", 1), "plans is 1"),
        (("--per", "layer"), "per is 'layer'"),
        (("--drop", 0), "drop is 0"),
        (("--per", "tensor", "--per", "tensor"), "one name each"),
        (("--device", "pcm"), "which cannot be chosen"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(run, trained, extra, said):
    code, out, err = run("pareto", "--model", f"mlp={trained}", *QUICK, *extra)
    assert (code, out) == (2, ""), err
    assert said in err and len(err.strip().splitlines()) == 1
