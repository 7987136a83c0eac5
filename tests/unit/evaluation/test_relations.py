"""What suites say together: rankings against scipy, intervals, permutations, series, gains and losses, pictures."""

import itertools

import numpy as np
import pytest
from moult.evaluation.relations import Measures, _many_taus, changes, permutation_p, related, series, taus
from moult.evaluation.scores import COLUMNS, DIFFERENCES
from moult.evaluation.suites import KINDS
from moult.report.relation_plots import draw_heat, draw_parameters, draw_radar, draw_taus
from scipy.stats import kendalltau

SUBFIELDS = {"a": "syntax", "b": "syntax", "c": "semantics", "d": "discourse"}
SETS = {"holmes": {name: {"subfield": field, "phenomenon": f"kind {name}"} for name, field in SUBFIELDS.items()}}
MODELS = ("base", "other", "low", "middle", "high")
MERGES = {
    name: {"method": "slerp", "base": "base", "parents": ["other"], "parameters": {"t": share}}
    for name, share in (("low", 0.2), ("middle", 0.5), ("high", 0.8))
}


def row(suite, method, model, dataset, metric, value, width=0.05, task=""):
    told = {"suite": suite, "method": method, "model": model, "dataset": dataset, "metric": metric, "n": "50"}
    told |= {"value": str(value), "ci_low": str(value - width), "ci_high": str(value + width), "task": task}
    return dict.fromkeys(COLUMNS, "") | told


def rows():
    found = []
    for place, model in enumerate(MODELS):
        for number, name in enumerate(SUBFIELDS):
            found.append(row("holmes", "linear", model, name, "score", round(0.3 + 0.1 * place + 0.01 * number, 3)))
        found.append(row("holmes", "linear", model, "a", "score", 0.1, task="layer 0"))
        found.append(row("holmes", "linear", model, "mean", "score", 0.5))
        for name in ("acts", "moods"):
            found.append(row("labels", "likelihood", model, name, "accuracy", round(0.9 - 0.1 * place, 3), task="t"))
    return found


def everything():
    return related({"merges": MERGES, "seed": 1}, rows(), [], SETS, KINDS)


def test_scores_are_tidy():
    scores = everything()["scores"]
    assert len(scores) == 5 * 4 + 5 * 2 and {one["kind"] for one in scores} == {"probing", "label"}
    assert {one["subfield"] for one in scores if one["suite"] == "holmes"} == set(SUBFIELDS.values())


def test_tasks_of_lm_eval_are_benchmarks_too_and_their_groups_are_none():
    told = [row("academic", "lm-eval", model, task, "acc,none", 0.5) for model in MODELS for task in ("one", "two")]
    told += [row("academic", "lm-eval", model, "all", "acc,none", 0.5, task="group") for model in MODELS]
    told = [one | {"higher_is_better": "True"} for one in told]
    scores = related({"merges": {}, "seed": 1}, told, [], {}, KINDS)["scores"]
    assert {(one["dataset"], one["kind"], one["metric"]) for one in scores} == {
        ("one", "lm-eval", "score"),
        ("two", "lm-eval", "score"),
    }


def test_means_are_those_of_subfields_and_phenomena_the_best_first():
    groups = everything()["groups"]
    syntax = [one for one in groups if one["measure"] == "holmes: syntax"]
    assert [one["model"] for one in syntax] == list(reversed(MODELS)) and syntax[0]["datasets"] == 2
    assert syntax[0]["value"] == pytest.approx(0.705)
    assert {one["over"] for one in groups} == {"suite", "subfield", "phenomenon", "dataset"}


def test_rankings_are_compared_with_an_interval_a_p_and_the_number_of_models():
    found = {(one["first"], one["second"]): one for one in everything()["taus"]}
    reverse = found["holmes", "labels"] if ("holmes", "labels") in found else found["labels", "holmes"]
    assert reverse["tau_b"] == -1 and reverse["models"] == 5 and reverse["p"] == pytest.approx(2 / 120, abs=1e-6)
    assert reverse["ci_low"] == reverse["ci_high"] == -1
    alone = found["holmes: discourse", "holmes: semantics"]
    assert (alone["tau_b"], alone["ci_low"]) == (1, None)


def test_tau_b_is_scipy_s_with_ties_and_so_is_the_order_of_permutations():
    random = np.random.default_rng(0)
    x, y = random.integers(4, size=(2, 30, 6)).astype(float)
    for ours, one, other in zip(_many_taus(x, y), x, y, strict=True):
        theirs = kendalltau(one, other).statistic
        assert ours == pytest.approx(0 if np.isnan(theirs) else theirs, abs=1e-12)
    one, other = x[0], y[0]
    true = abs(kendalltau(one, other).statistic)
    all_orders = [abs(kendalltau(one, other[list(order)]).statistic) for order in itertools.permutations(range(6))]
    assert permutation_p(one, other, 0) == pytest.approx(np.mean(np.array(all_orders) >= true - 1e-9))


def test_a_p_of_many_models_is_that_of_drawn_orders():
    random = np.random.default_rng(1)
    x = random.normal(size=20)
    assert permutation_p(x, x, 3) < 0.002
    assert permutation_p(x, random.normal(size=20), 3) > 0.05


def test_datasets_that_disagree_widen_the_interval():
    told = rows()
    for one in told:
        if one["suite"] == "holmes" and one["dataset"] in ("c", "d") and not one["task"]:
            one["value"] = str(1 - float(one["value"]))
    (found,) = [
        one
        for one in related({"merges": {}, "seed": 1}, told, [], SETS, KINDS)["taus"]
        if {one["first"], one["second"]} == {"holmes", "labels"}
    ]
    assert found["ci_low"] < 0 < found["ci_high"]


def test_of_two_models_nothing_is_said():
    few = [one for one in rows() if one["model"] in ("base", "other")]
    assert related({"merges": {}, "seed": 1}, few, [], SETS, KINDS)["taus"] == []


def test_a_score_that_is_better_when_lower_is_ranked_the_other_way():
    told = [{"suite": "s", "method": "m", "dataset": d, "kind": "k", "subfield": "", "phenomenon": ""} for d in "ab"]
    told = [
        one | {"model": str(n), "metric": "x", "value": float(n), "ci_low": None, "ci_high": None, "n": 1}
        for one in told
        for n in range(4)
    ]
    up, down = Measures(told, {"k": True}), Measures(told, {"k": False})
    assert (up.drawn("s", list("0123"), 1) == -down.drawn("s", list("0123"), 1)).all()
    assert taus(up, 1) == taus(down, 1)


def test_merges_that_differ_in_a_number_are_a_series_with_their_parents():
    found = series(everything()["groups"], MERGES)
    points = [(one["value"], one["model"]) for one in found if one["suite"] == "holmes" and one["role"] == "merge"]
    assert sorted(points) == [(0.2, "low"), (0.5, "middle"), (0.8, "high")]
    assert {one["model"] for one in found if one["role"] == "parent"} == {"other"}
    assert {one["parameter"] for one in found} == {"t"}
    assert series(everything()["groups"], {"low": MERGES["low"]}) == []


def test_of_a_grid_each_line_is_a_series_and_weights_that_sum_to_one_are_one_parameter():
    grid = {
        f"m{density}{share}": {
            "method": "ties",
            "base": "base",
            "parents": ["a", "b"],
            "parameters": {"density": density, "a.weight": share, "b.weight": 1 - share},
        }
        for density in (0.2, 0.5, 0.8)
        for share in (0.3, 0.7)
    }
    group = {"over": "suite", "suite": "s", "method": "m", "value": 0.5, "ci_low": None, "ci_high": None}
    found = series([group | {"model": model} for model in [*grid, "a"]], grid)
    lines = {(one["series"], one["parameter"]) for one in found}
    assert len(lines) == 5
    assert ("ties of a and b, density 0.2", "a.weight, b.weight") in lines
    assert ("ties of a and b, a.weight 0.3, b.weight 0.7", "density") in lines
    for line in lines:
        own = [one for one in found if (one["series"], one["parameter"]) == line]
        assert [one["role"] for one in own].count("parent") == 1
        assert len({one["value"] for one in own if one["role"] == "merge"}) in (2, 3)


def test_gains_and_losses_are_told_task_by_task_and_paired_where_they_can_be():
    paired = {"suite": "labels", "model": "other", "against": "low", "dataset": "acts", "method": "likelihood"}
    paired |= {"difference": "0.02", "ci_low": "0.01", "ci_high": "0.03", "p_mcnemar": "0.01", "n": "50"}
    assert set(paired) == set(DIFFERENCES)
    found = related({"merges": MERGES, "seed": 1}, rows(), [paired], SETS, KINDS)["changes"]
    cells = {(one["merge"], one["parent"], one["suite"], one["dataset"]): one for one in found}
    assert cells["high", "base", "holmes", "a"]["change"] == "gained"
    assert cells["high", "base", "labels", "acts"]["change"] == "lost"
    told = cells["low", "other", "labels", "acts"]
    assert (told["difference"], told["p"], told["change"]) == (-0.02, 0.01, "lost")
    close = changes(
        [one | {"ci_low": one["value"] - 1, "ci_high": one["value"] + 1} for one in everything()["scores"]],
        [],
        MERGES,
        {"probing": True, "label": True},
    )
    assert {one["change"] for one in close} == {"even"}


def test_pictures_are_drawn_the_same_each_time_and_left_out_where_there_is_nothing_to_draw():
    found = everything()
    for draw in (
        lambda: draw_heat(found["groups"]),
        lambda: draw_radar(found["groups"], MERGES),
        lambda: draw_taus(found["taus"]),
        lambda: draw_parameters(found["parameters"]),
    ):
        assert draw().startswith("<?xml") and draw() == draw()
    assert "high" in draw_heat(found["groups"]) and "0.705" in draw_heat(found["groups"])
    assert "semantics" in draw_radar(found["groups"], MERGES)
    assert [draw_heat([]), draw_radar([], {}), draw_taus([]), draw_parameters([])] == [None] * 4


def test_hundreds_of_models_are_drawn_by_the_best():
    groups = [
        {"measure": "s", "over": "suite", "suite": "s", "method": "m", "model": f"m{n}", "value": 1 - n / 300}
        for n in range(300)
    ]
    svg = draw_heat(groups)
    assert "the 40 best of 300 models" in svg and ">m39<" in svg and ">m40<" not in svg
