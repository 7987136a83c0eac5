"""Pictures are well-formed SVG, the same bytes each time, and do not disturb each other on one page."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from moult.base.paths import CODE, RESOURCES
from moult.report import graphs, plots
from moult.report.svg import PALETTE, inline_svg, shorten

RULES = """digraph snakemake_dag {
    node[shape=box, style=rounded];
    0[label = "all", color = "0.4 0.6 0.85", style="rounded"];
    1[label = "fetch_dataset"];
    2[label = "prepare_dataset"];
    3[label = "some_other"];
    1 -> 2
    2 -> 3
    1 -> 3
    3 -> 0
}"""


def score_rows(models, datasets, methods=("generate", "likelihood")):
    return [
        {"dataset": dataset, "model": model, "method": method, "metric": metric}
        | {"value": "0.5", "ci_low": "0.4", "ci_high": "0.6"}
        for model in models
        for dataset in datasets
        for method in methods
        for metric in ("accuracy", "macro_f1", *["majority_accuracy"] * (dataset != "mean"))
    ]


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def paths(svg):
    return [element for element in ElementTree.fromstring(svg) if "marker-end" in element.attrib]


def test_graph_draws_every_node_and_only_the_edges_that_no_path_implies():
    nodes = {name: {"label": name, "detail": "1 < 2 & 3", "kind": "models", "href": f"#{name}"} for name in "abc"}
    edges = [("a", "b"), ("b", "c"), ("a", "c")]
    svg = graphs.draw_graph(nodes, edges)
    assert texts(svg) == ["a", "1 < 2 & 3", "b", "1 < 2 & 3", "c", "1 < 2 & 3"]
    assert len(paths(svg)) == 2
    assert len(paths(graphs.draw_graph(nodes, edges[:2], dashed=edges[2:]))) == 3
    assert graphs.draw_graph(nodes, edges) == svg


@pytest.mark.parametrize("kind", list(graphs.SHAPES))
def test_every_kind_has_a_key(kind):
    path = ElementTree.fromstring(graphs.draw_key(kind))[0]
    assert path.attrib["fill"] == PALETTE[kind] and "{" not in path.attrib["d"]


def test_rulegraph_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "moult.report.graphs", "-", str(tmp_path / "rules.svg")]
    run = subprocess.run(command, input=RULES, text=True, capture_output=True, check=True, cwd=CODE)
    assert run.stderr == ""
    svg = (tmp_path / "rules.svg").read_text(encoding="utf-8")
    assert texts(svg) == ["fetch_dataset", "prepare_dataset", "some_other"]
    assert PALETTE["datasets"] in svg and PALETTE["other"] in svg
    assert len(paths(svg)) == 2


@pytest.mark.parametrize("models", [1, 3, 40])
def test_scores_have_a_panel_per_dataset_and_a_line_per_model(models):
    names = [f"model_{index}" for index in range(models)]
    svg = plots.draw_scores(score_rows(names, ["acts", "moods", "mean", "weighted_mean"]))
    shown = texts(svg)
    assert {"acts", "moods", "mean of 2 datasets", "generate", "likelihood", "majority label", *names} <= set(shown)
    assert svg == plots.draw_scores(score_rows(names, ["acts", "moods", "mean", "weighted_mean"]))


def test_scores_of_one_dataset_have_no_mean_and_a_suite_without_scores_says_so():
    assert "mean" not in " ".join(texts(plots.draw_scores(score_rows(["a"], ["acts", "mean"], ["generate"]))))
    assert texts(plots.draw_scores([])) == ["No model was measured on this suite."]


def test_confusion_counts_every_answer_the_unread_ones_too():
    labels = [f"label {i}" for i in range(30)]
    many = {"labels": labels, "counts": [[100 + i] + [0] * 29 + [3] for i in range(30)]}
    few = {"labels": ["yes", "no & <more>"], "counts": [[5, 0, 2], [1, 7, 0]]}
    tables = [one | {"dataset": name, "method": "generate"} for name, one in (("many", many), ("few", few))]
    svg = plots.draw_confusion(tables)
    found = texts(svg)
    assert {"many, generate", "few, generate", "no & <more>", "unread", "label 29", "129", "7"} <= set(found)
    # Cells without answers are empty: 60 and 4 counts stand in 930 and 6 cells.
    assert len([text for text in found if text.isdigit()]) == 64
    assert plots.draw_confusion(tables) == svg


def test_of_many_labels_the_most_confused_are_drawn_and_the_rest_summed():
    counts = [[2 * (place == line) for place in range(601)] for line in range(600)]
    for gold, pred, rows in ((5, 7, 9), (7, 5, 4), (599, 600, 3), (1, 2, 1)):
        counts[gold][pred] += rows
    table = {"dataset": "d", "method": "generate", "labels": [f"l{i}" for i in range(600)], "counts": counts}
    drawn = plots._readable(table)
    assert len(drawn["labels"]) == 60 and drawn["labels"][-1] == "541 others" and drawn["summed"] == 541
    assert {"l1", "l2", "l5", "l7", "l599"} < set(drawn["labels"])
    place = drawn["labels"].index
    assert drawn["counts"][place("l5")][place("l7")] == 9 and drawn["counts"][place("l599")][-1] == 3
    assert drawn["counts"][-1][-2] == 2 * 541 and sum(map(sum, drawn["counts"])) == sum(map(sum, counts))
    svg = plots.draw_confusion([table])
    assert "d, generate: the 59 most confused of 600 labels" in texts(svg) and len(svg) < 1_000_000
    few = {key: table[key][:60] for key in ("labels", "counts")}
    assert plots._readable(table | few)["summed"] == 0


def test_of_many_models_the_best_are_drawn():
    rows = score_rows([f"model_{index}" for index in range(500)], ["acts"], ["generate"])
    rows = [row | {"value": str(int(row["model"][6:]) / 500)} for row in rows]
    shown = texts(plots.draw_scores(rows))
    assert "the 60 best of 500 models" in shown and "model_440" in shown and "model_439" not in shown


def test_too_few_rows_leave_a_mark_without_an_interval():
    rows = [row | {"ci_low": "", "ci_high": ""} for row in score_rows(["a"], ["acts"], ["generate"])]
    assert "a" in texts(plots.draw_scores(rows))


NAMES = {
    "two dollars": ("$50 to $100", "$50 to $100"),
    "no formula": ("$\\frac$", "$\\frac$"),
    "escaped": ("\\$5", "\\$5"),
    "markup": ("</text><script>", "</text><script>"),
    "escape sequence": ("a\x1b[31mb\x1b]0;t\x07c", "a\ufffdb\ufffdc"),
    "NUL": ("a\0b", "a\ufffdb"),
    "direction": ("\u202eevil\u2069", "\ufffdevil\ufffd"),
    "half a character": ("a\ud83d", "a\ufffd"),
    "no character": ("a\ufffeb\uffff", "a\ufffdb\ufffd"),
    "lines": ("a\r\nb\u2028c\td", "a b\ufffdc d"),
    "emoji": ("\U0001f600", "\U0001f600"),
    "empty": ("", None),
}


@pytest.mark.parametrize("name", list(NAMES))
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_name_of_any_sort_is_text_in_every_picture(name):
    given, shown = NAMES[name]
    table = {"dataset": given, "method": "generate", "labels": [given, "b"], "counts": [[1, 2, 0], [3, 4, 1]]}
    svg = plots.draw_confusion([table])
    assert ElementTree.fromstring(inline_svg(svg, "p", given).replace("xlink:href", "href")) is not None
    assert shown is None or shown in texts(svg)
    svg = plots.draw_scores(score_rows([given], ["acts"], ["generate"]))
    assert shown is None or shown in texts(svg)
    nodes = {"a": {"label": given, "detail": given, "title": given, "kind": "models"}, "b": {"label": "b"}}
    assert shown is None or shown in texts(graphs.draw_graph(nodes, [("a", "b")]))


@pytest.mark.parametrize("dev", [(), (2,), (1, 2)])
def test_losses_with_and_without_dev(dev):
    rows = [{"step": str(step), "split": "train", "loss": "1.5"} for step in (1, 2)]
    rows += [{"step": str(step), "split": "dev", "loss": "1.2"} for step in dev]
    shown = texts(plots.draw_losses(rows, 2))
    assert "kept: step 2" in shown and ("dev" in shown) == bool(dev)


def test_pictures_on_one_page_share_no_id_and_take_its_colours():
    svg = plots.draw_losses([{"step": "1", "split": "train", "loss": "1.5"}], 1)
    one, two = (inline_svg(svg, prefix, 'of "a" & b') for prefix in ("one", "two"))
    ids = [re.findall(r'\sid="([^"]+)"', page) for page in (one, two)]
    assert ids[0] and not set(ids[0]) & set(ids[1])
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= set(ids[0])
    assert not set(PALETTE.values()) & set(re.findall(r"#\w{6}", one)) and "var(--ink)" in one
    root = ElementTree.fromstring(one.replace("xlink:href", "href"))
    assert root.attrib["aria-label"] == 'of "a" & b' and root.attrib["role"] == "img"


def test_links_out_of_a_picture_stay():
    svg = graphs.draw_graph({"a": {"label": "a", "href": "#models/a"}, "b": {"label": "b"}}, [("a", "b")])
    inline = inline_svg(svg, "p", "x")
    assert 'href="#models/a"' in inline and 'id="p-arrow"' in inline and "url(#p-arrow)" in inline


def test_the_page_knows_every_colour_in_light_and_dark():
    style = RESOURCES / "report" / "style.css"
    light, dark = style.read_text(encoding="utf-8").split("prefers-color-scheme: dark")
    for name in PALETTE:
        assert f"--{name}:" in light and f"--{name}:" in dark
    assert len(set(PALETTE.values())) == len(PALETTE)


def test_shorten_keeps_both_ends():
    assert shorten("short") == "short"
    assert shorten("a" * 20 + "b" * 20, 11) == "aaaaa…bbbbb"
