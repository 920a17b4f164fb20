import json

import pytest
from plotly.offline import get_plotlyjs

from html_page import Page
from joulewise.errors import InputError
from joulewise.report import iso_rows, render, write_report
from joulewise.report.forecasts import pair_cells, pairs
from joulewise.report.knob import Knob
from joulewise.study import Comparison
from joulewise.units import format_percent, format_si


def shown(text: str) -> str:
    """A string of the terminal as the page sets it."""
    return text.replace(" uJ", " µJ")


def test_refers_to_nothing_outside_itself(page):
    parsed = Page(page)
    loading = {"src", "href", "action", "data", "poster", "srcset", "background", "xlink:href"}
    for tag, attributes in parsed.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not loading & set(attributes), (tag, attributes)
        assert not any("://" in (value or "") for value in attributes.values())
    assert "@import" not in parsed.styles
    assert "url(" not in parsed.styles
    own = [text for _, text in parsed.scripts if text != get_plotlyjs()]
    assert len(own) == len(parsed.scripts) - 1
    assert not any("://" in text for text in own)


def test_forbids_the_browser_to_load_anything(page):
    policies = [
        attributes["content"]
        for tag, attributes in Page(page).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none';")
    assert "http" not in policies[0]


def test_embedded_record_reads_back_equal(cases, page):
    record = Page(page).script("joulewise-record")
    assert Comparison.model_validate_json(record) == cases.comparison()


def test_iso_table_holds_the_record_and_nothing_else(cases, page):
    comparison = cases.comparison()
    header, *rows = Page(page).tables["iso-accuracy"]
    assert len(header) == 6
    expected = []
    for contender in comparison.contenders:
        energy = contender.reliable.energy
        total = energy.memory_reliable_j + energy.unplaced_j + energy.arithmetic_j
        ideal = f"{contender.name} {format_percent(contender.reliable.ideal_accuracy)}"
        memory = format_si(energy.memory_reliable_j, "J")
        expected.append([ideal, "reliable", "", memory, "", format_si(total, "J")])
        for saving, drop in zip(contender.savings, ("0.5 points", "1 point"), strict=True):
            at = saving.at
            ends = f"{100 * saving.memory_saved_low:.1f} to {100 * saving.memory_saved_high:.1f} %"
            expected.append(
                [
                    f"{drop} less",
                    f"{at.point:.3f}[{at.low:.3f} to {at.high:.3f}]",
                    f"{format_percent(saving.memory_saved, 1)}[{ends}]",
                    format_si(saving.memory_j, "J"),
                    format_percent(saving.total_saved, 1),
                    format_si(saving.total_j, "J"),
                ]
            )
    assert rows == [[shown(cell) for cell in row] for row in expected]


def test_table_of_points_holds_the_record(cases, page):
    _, *rows = Page(page).tables["points"]
    simulated = [
        (contender, point, simulation)
        for contender in cases.comparison().contenders
        for point, simulation in zip(contender.points, contender.simulations, strict=True)
    ]
    assert len(rows) == len(simulated)
    for row, (contender, point, simulation) in zip(rows, simulated, strict=True):
        low, high = simulation.accuracy_interval()
        figures = [
            point,
            2.718281828459045 ** (-12.8 * point),
            simulation.energy.memory_total_j,
            simulation.energy.normalised,
            simulation.energy.total_j,
            simulation.mean_accuracy,
            low,
            high,
            *(simulation.accuracy_quantile(share) for share in (0.05, 0.5, 0.95)),
            simulation.yield_at(simulation.ideal_accuracy - 0.01)[0],
        ]
        assert row[:2] == [contender.name, "eta"]
        assert [float(cell) for cell in row[2:]] == pytest.approx(figures, rel=1e-3, abs=6e-6)


def test_predictions_stand_beside_simulations(cases, page):
    _, *rows = Page(page).tables["predictions"]
    expected = []
    for contender in cases.comparison().contenders:
        ideal = contender.reliable.ideal_accuracy
        expected.append([f"{contender.name} {format_percent(ideal)}"])
        for pair in pairs(contender):
            cells = pair_cells(pair, Knob(name="eta"))
            expected.append([text + (f"[{ends}]" if ends else "") for text, ends in cells])
    assert rows == expected


def test_layers_are_on_the_page_and_each_network_has_its_chart(cases, page):
    parsed = Page(page)
    _, *rows = parsed.tables["layer-shares"]
    assert [row[:3] for row in rows[:2]] == [
        ["mlp", "0.400", "head:input"],
        ["mlp", "0.400", "head.weight"],
    ]
    figures = json.loads(parsed.script("joulewise-figures"))
    drawn = {attributes.get("data-figure") for _, attributes in parsed.tags} - {None}
    offered = {attributes.get("data-shows") for _, attributes in parsed.tags} - {None}
    assert drawn | offered == set(figures)
    slots = {attributes.get("id") for tag, attributes in parsed.tags if tag == "div"}
    assert {attributes.get("data-slot") for _, attributes in parsed.tags} - {None} <= slots
    assert "mlp at eta 0.400, 0.80 points lost: head.weight hurts most" in parsed.text
    assert "They leave out how the spread bends" in parsed.text


def test_records_without_forecasts_have_no_such_sections(cases):
    old = {"forecasts": (), "placed": ()}
    contenders = [cases.contender(name).model_copy(update=old) for name in ("mlp", "cnn")]
    parsed = Page(render(cases.comparison(*contenders)))
    assert {"predictions", "layer-shares"}.isdisjoint(parsed.tables)
    assert "Prediction against simulation" not in parsed.text
    assert "Who hurts most" not in parsed.text


def test_says_why_a_network_was_not_predicted(cases):
    refused = cases.contender("odd").model_copy(
        update={"forecasts": (None,) * 4, "forecast_refused": "the output does not depend"}
    )
    parsed = Page(render(cases.comparison(cases.contender("mlp"), refused)))
    assert "odd was not predicted: the output does not depend." in parsed.text
    assert all(row[0] == "mlp" for row in parsed.tables["layer-shares"][1:])


def test_says_what_was_run(page):
    text = Page(page).text
    for said in (
        "joulewise compare mlp cnn",
        "digits, 500 images",
        "4, seeds 7 to 10",
        "exp(-a eta)",
        "12.8",
        "a failing sign bit makes the word read 0",
        "epochs 3",
        "PyTorch 2.7.0",
        "a machine, 2 cores; 1 thread",
        "2026-01-02 03:04:05 UTC, after 51.2 s",
        "12,345",
        "1,200,000",
    ):
        assert said in text


def test_escapes_names_everywhere(cases):
    name = "<script>alert('x')</script> & <!-- \"co\""
    comparison = cases.comparison(
        cases.contender(name), command="run </script><script>", data="<b>digits</b>"
    )
    page = render(comparison)
    parsed = Page(page)
    ids = [id for id, _ in parsed.scripts]
    assert ids == ["joulewise-record", "joulewise-figures", None, None]
    assert name in parsed.text
    assert "run </script><script>" in parsed.text
    assert not any(tag == "b" for tag, _ in parsed.tags)
    for id in ("joulewise-record", "joulewise-figures"):
        assert "<" not in parsed.script(id)
    assert Comparison.model_validate_json(parsed.script("joulewise-record")) == comparison


def test_says_in_words_where_there_is_no_crossing(cases):
    edge = cases.crossing(0.01, 0.2, 2e-6, at_edge=True)
    page = render(
        cases.comparison(cases.contender("mlp", savings=(cases.not_reached(0.005), edge)))
    )
    _, _, nowhere, at_edge = Page(page).tables["iso-accuracy"]
    assert nowhere[1:] == ["not reached", "even the most reliable point simulated loses more"]
    assert at_edge[1].startswith("at most 0.200")
    assert at_edge[2].startswith(shown("at least 80.0 %"))
    assert "the least reliable point simulated is still within it" in Page(page).text


@pytest.mark.parametrize("changes", [{"activations_device": None}, {"weights_device": None}])
def test_one_kind_placed(cases, changes):
    text = Page(render(cases.comparison(**changes))).text
    assert "Memory of weights" in text
    assert "Memory of activations" in text
    assert text.count("are kept without faults") == 1


def test_one_contender_one_chip_untrained_unasked(cases):
    lone = cases.contender("mlp", chips=1, trained=False, savings=())
    parsed = Page(render(cases.comparison(lone)))
    assert "No accuracy drop was asked for" in parsed.text
    assert "not recorded" in parsed.text
    assert "nan" not in parsed.script("joulewise-figures").lower()
    assert "infinity" not in parsed.script("joulewise-figures").lower()
    assert len(parsed.tables["iso-accuracy"]) == 2


def test_every_terminal_row_is_on_the_page(cases, page):
    text = Page(page).text
    for row in iso_rows(cases.comparison()):
        for said in (row.point, row.memory_energy, row.memory_saved, row.total_energy):
            assert shown(said) in text


def test_many_networks_are_counted_in_the_title(cases):
    page = render(cases.comparison(*(cases.contender(f"net{k}") for k in range(7))))
    assert "<title>Energy against accuracy: 7 networks on digits</title>" in page


def test_refuses_an_empty_comparison(cases):
    empty = cases.comparison().model_copy(update={"contenders": ()})
    with pytest.raises(InputError, match="no network"):
        render(empty)


def test_writes_the_page_whole(cases, page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("older", encoding="utf-8")
    write_report(cases.comparison(), path)
    assert path.read_text(encoding="utf-8") == page
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


def test_keeps_the_older_page_if_rendering_fails(cases, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("older", encoding="utf-8")
    with pytest.raises(InputError):
        write_report(cases.comparison().model_copy(update={"contenders": ()}), path)
    assert path.read_text(encoding="utf-8") == "older"


def test_missing_folder_is_named_in_one_sentence(cases, tmp_path):
    folder = tmp_path / "nowhere"
    with pytest.raises(InputError) as caught:
        write_report(cases.comparison(), folder / "report.html")
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert not folder.exists()


def test_path_that_is_a_folder_is_refused(cases, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_report(cases.comparison(), tmp_path)
    assert list(tmp_path.iterdir()) == []
