"""Scores of probes against scikit-learn and scipy, selectivity, means, differences, the leaderboard's columns."""

import numpy as np
import pytest
from moult.base.files import read_csv
from moult.evaluation.association import kendall
from moult.evaluation.metrics import Estimate
from moult.evaluation.probing import compare, scores
from moult.evaluation.probing.scores import Resamples, estimate, less, macro_f1, score_probes
from moult.evaluation.probing.tables import MOST_MODELS, suite_tables
from moult.evaluation.scores import COLUMNS
from moult.evaluation.suites import PROBING

RECIPE = {"model": "m", "suite": "s", "limit": None, "seed": 3}
CONTROLS = ("none", "permutation", "random_weights", "random_labels")


def result(name, right, labels=2, rows=100, seed=0, **more):
    """Return a line of results in which about a share `right` of the rows is right, controls at chance."""
    random = np.random.default_rng([seed, len(name)])
    gold = (np.arange(rows) % labels).tolist() if labels > 1 else random.normal(size=rows).round(3).tolist()
    runs = []
    for control in CONTROLS:
        for one in range(5):
            share = right if control == "none" else 1 / max(labels, 2)
            if labels > 1:
                hit = random.random(rows) < share
                pred = np.where(hit, gold, (np.array(gold) + random.integers(1, labels, rows)) % labels).tolist()
            else:
                pred = (share * np.array(gold) + (1 - share) * random.normal(size=rows)).round(4).tolist()
            run = {"control": control, "layer": 2, "seed": one, "epochs": 3, "dev_loss": 0.5, "bits": None}
            runs.append(run | {"pred": pred} | ({"bits": 40.0} if control == "none" and labels > 1 else {}))
    told = {"dataset": name, "subfield": "syntax", "phenomenon": "case", "type": "sentence classification"}
    told |= {"labels": labels, "probe": "linear", "portion": 1, "rows": {"train": 64, "dev": 24, "test": rows}}
    told |= {"uniform_bits": 64.0 if labels > 1 else None, "gold": gold, "seen": [n % 4 == 0 for n in range(rows)]}
    return told | {"runs": runs} | more


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_macro_f1_is_scikit_learn_s(labels):
    from sklearn.metrics import f1_score

    random = np.random.default_rng(labels)
    for _ in range(20):
        gold, pred = random.integers(labels, size=(2, 30))
        # Classes that occur nowhere count nowhere.
        gold[gold == 1] = 0
        expected = f1_score(gold, pred, average="macro")
        assert macro_f1(gold, pred) == pytest.approx(expected, abs=1e-12)
        assert Resamples(gold, labels, 1).macro_f1(pred)[0] == pytest.approx(expected, abs=1e-6)


def found(rows):
    return {(row["dataset"], row["task"], row["metric"]): row for row in score_probes(RECIPE, rows)}


def test_scores_are_means_over_seeds_within_their_intervals():
    line = result("a", 0.9)
    cells = found([line, result("bb", 0.7, labels=1), result("ccc", 0.6, subfield="semantics", phenomenon="tense")])
    plain = [one["pred"] for one in line["runs"] if one["control"] == "none"]
    mean = np.mean([macro_f1(line["gold"], one) for one in plain])
    assert cells["a", "", "score"]["value"] == pytest.approx(mean, abs=1e-6)
    for row in cells.values():
        assert set(row) == set(COLUMNS)
        if row["ci_low"] is not None:
            assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert cells["a", "", "score_seen"]["n"] == 25 and cells["a", "", "score_unseen"]["n"] == 75
    for control in CONTROLS[1:]:
        told = cells["a", "", "score"]["value"] - cells["a", "", f"control_{control}"]["value"]
        assert cells["a", "", f"selectivity_{control}"]["value"] == pytest.approx(told, abs=2e-6)
        assert cells["a", "", f"selectivity_{control}"]["ci_low"] > 0
    assert cells["a", "", "compression"]["value"] == pytest.approx(1.6)
    values = {name: cells[name, "", "score"]["value"] for name in ("a", "bb", "ccc")}
    assert cells["mean", "", "score"]["value"] == pytest.approx(np.mean(list(values.values())), abs=2e-6)
    syntax = (values["a"] + values["bb"]) / 2
    assert cells["subfield: syntax", "subfield", "score"]["value"] == pytest.approx(syntax, abs=2e-6)
    assert cells["phenomenon: tense", "phenomenon", "score"]["value"] == values["ccc"]


def test_a_score_that_is_perfect_has_a_width_and_one_that_is_undefined_is_none_at_all():
    line = result("a", 1.0, rows=20)
    assert found([line])["a", "", "score"]["ci_low"] < 1
    flat = result("b", 1.0, labels=1)
    for one in flat["runs"]:
        one["pred"] = [0.5] * 100
    assert found([flat])["b", "", "score"]["value"] == 0


def test_pearson_is_numpy_s():
    line = result("b", 0.6, labels=1)
    runs = [one for one in line["runs"] if one["control"] == "none"]
    expected = np.mean([np.corrcoef(line["gold"], one["pred"])[0, 1] for one in runs])
    assert estimate(line, runs, np.ones(100, dtype=bool), None).value == pytest.approx(expected, abs=1e-9)


def test_other_layers_and_portions_stand_as_tasks():
    line = result("a", 0.9)
    line["runs"] = [one | {"layer": layer} for layer in (0, 2) for one in line["runs"]]
    cells = found([line, result("a", 0.7, portion=0.5)])
    assert ("a", "layer 0", "score") in cells and ("a", "portion 0.5", "score") in cells
    assert cells["a", "layer 0", "score"]["value"] == cells["a", "", "score"]["value"]
    assert ("portion 0.5", "portion", "score") in cells


def test_a_difference_of_estimates():
    told = less(Estimate(0.8, (0.7, 0.9)), Estimate(0.5, (0.4, 0.6)))
    assert told.value == pytest.approx(0.3) and told.interval == pytest.approx((0.3 - 0.02**0.5, 0.3 + 0.02**0.5))
    assert less(Estimate(0.8, None), Estimate(0.5, (0.4, 0.6))).interval is None


def test_the_interval_holds_the_true_score_mostly():
    held, random = 0, np.random.default_rng(2)
    for trial in range(120):
        gold = np.arange(60) % 2
        easy = random.random(60) < 0.8
        runs = [{"pred": np.where(easy, gold, 1 - gold).tolist()}]
        told = estimate({"gold": gold.tolist(), "labels": 2}, runs, np.ones(60, dtype=bool), Resamples(gold, 2, trial))
        held += told.interval[0] <= 0.8 <= told.interval[1]
    assert 0.89 < held / 120 <= 1


def write(path, rows):
    from moult.base.files import write_jsonl

    write_jsonl(path, rows)
    return path


def test_differences_are_paired_and_clear_where_they_are(tmp_path):
    paths = {}
    for name, right in (("good", 0.95), ("bad", 0.6), ("same", 0.95)):
        rows = [result("a", right), result("bb", right, labels=1)]
        paths["s", name] = write(tmp_path / f"{name}.jsonl", rows)
    told = compare.differences({"pairs": [["s", "good", "bad"], ["s", "same", "good"]], "seed": 1}, paths)
    clear = {(row["model"], row["dataset"]): row for row in told}
    assert {dataset for _, dataset in clear} == {"a", "bb", "weighted_mean"}
    assert clear["good", "weighted_mean"]["p_mcnemar"] < 0.01 and clear["good", "a"]["ci_low"] > 0
    assert clear["same", "weighted_mean"]["difference"] == 0 and clear["same", "a"]["p_mcnemar"] == 1
    scored = [found(rows)["a", "", "score"]["value"] for rows in ([result("a", 0.95)], [result("a", 0.6)])]
    assert clear["good", "a"]["difference"] == pytest.approx(scored[0] - scored[1], abs=2e-6)


def test_the_leaderboard_has_the_published_columns_and_means_over_the_same_sets():
    told = {"type": "sentence classification"}
    sets = {"blimp-causative": told | {"subfield": "syntax", "phenomenon": "argument structure"}}
    sets["own"] = told | {"subfield": "", "phenomenon": ""}
    line = dict.fromkeys(COLUMNS, "")
    line |= {"model": "m", "method": "linear", "metric": "score", "value": "0.5"}
    rows = [line | {"dataset": name} for name in sets]
    recipe = {"suite": "s", "published": {"models": ["gpt2"], "portion": 1.0}}
    table, means = compare.leaderboard(recipe, rows, sets)
    columns = ["probing dataset", "linguistic subfield", "linguistic phenomena", "probe type", "train portion", "probe"]
    assert list(table[0]) == [*columns, "m", "gpt2"]
    assert table[0]["gpt2"] == pytest.approx(0.92795707) and table[1]["gpt2"] is None
    ours = {(row["name"], row["whose"]): row["datasets"] for row in means if row["over"] == "subfield"}
    assert ours == {("syntax", "ours"): 1, ("other", "ours"): 1, ("syntax", "beside published"): 1}
    assert {row["over"] for row in means} == {"subfield", "phenomenon"}


def test_the_merging_study_stands_with_its_note():
    rows = compare.study_means()
    assert len(rows) == 65 and all("F1 of label 1" in row["note"] for row in rows)


def test_of_hundreds_of_models_the_best_stand_first():
    rows = []
    for number in range(100):
        for dataset, task in (("mean", ""), ("weighted_mean", ""), ("subfield: syntax", "subfield"), ("a", "")):
            row = {"suite": "s", "model": f"merge{number}", "dataset": dataset, "task": task, "method": "linear"}
            row |= {"metric": "score", "value": str(number / 100), "n": "10", "ci_low": "", "ci_high": ""}
            rows.append(dict.fromkeys(COLUMNS, "") | row)
    (suite,) = suite_tables(PROBING, rows, [])
    (table,) = suite["tables"]
    assert [row["model"] for row in table["rows"]] == [f"merge{n}" for n in range(99, 99 - MOST_MODELS, -1)]
    assert suite["left_out"] == 100 - MOST_MODELS and [one["name"] for one in table["columns"]] == ["syntax"]


def test_kendall_is_scipy_s_with_ties():
    from scipy.stats import kendalltau

    random = np.random.default_rng(5)
    for _ in range(20):
        x, y = random.integers(5, size=(2, 12)).astype(float)
        (value,) = kendall(x, y, np.ones((1, 12)))
        assert value == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)


def test_scores_are_written(tmp_path):
    from types import SimpleNamespace as Space

    path = write(tmp_path / "m.jsonl", [result("a", 0.9)])
    job = Space(recipe=RECIPE, inputs=Space(probes=path), outputs=Space(scores=tmp_path / "m.csv"))
    scores.run(job)
    assert {row["method"] for row in read_csv(tmp_path / "m.csv")} == {"linear"}
