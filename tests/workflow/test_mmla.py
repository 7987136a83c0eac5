"""A setting of several models goes through the real Snakefile."""

import csv
import json


def read(path):
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_setting_is_scored_and_compared_like_a_model_and_scikit_learn_agrees(unbuilt):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    config = unbuilt.config
    moods, base = config["datasets"][1], config["models"][0]
    config["datasets"].append(moods | {"name": "again"})
    config["models"].append(base | {"name": "twin"})
    config["suites"][0]["labels"]["datasets"] = ["moods", "again"]
    setting = {"name": "each", "models": {"moods": "base", "again": "twin"}}
    config["evaluations"] = [{"suite": "labels", "models": ["base"], "settings": [setting], "against": "base"}]
    unbuilt.config = config
    results = unbuilt.path / "results" / "pico"
    targets = ["scores/summary.csv", "scores/differences.csv", "plots/confusion/labels/each.svg"]
    run = unbuilt.snakemake(*(f"results/pico/{target}" for target in targets))
    assert run.returncode == 0, run.stdout + run.stderr

    lines = {
        model: [json.loads(line) for line in (results / f"predictions/labels/{model}.jsonl").read_text().splitlines()]
        for model in ("base", "twin")
    }
    assert {line["dataset"] for line in lines["twin"]} == {"again"}
    assert not (results / "predictions/labels/each.jsonl").exists()
    scores = read(results / "scores" / "summary.csv")
    found = {(row["model"], row["dataset"], row["method"], row["metric"]): row["value"] for row in scores}
    assert {row["dataset"] for row in scores if row["model"] == "each"} == {"moods", "again", "mean", "weighted_mean"}
    for dataset, model in setting["models"].items():
        for method in ("generate", "likelihood"):
            mine = [line for line in lines[model] if (line["dataset"], line["method"]) == (dataset, method)]
            gold, pred = [line["gold"] for line in mine], [line["pred"] or "unread" for line in mine]
            place = ("each", dataset, method)
            assert float(found[*place, "accuracy"]) == round(accuracy_score(gold, pred), 6)
            for average in ("macro", "weighted"):
                expected = precision_recall_fscore_support(
                    gold, pred, labels=["good", "bad"], average=average, zero_division=0
                )
                for metric, value in zip(("precision", "recall", "f1"), expected, strict=False):
                    assert float(found[*place, f"{average}_{metric}"]) == round(value, 6)
    # The same model on the same rows: nothing differs.
    compared = read(results / "scores" / "differences.csv")
    assert {(row["model"], row["against"], row["dataset"]) for row in compared} == {
        ("each", "base", "moods"),
        ("each", "base", "again"),
        ("each", "base", "weighted_mean"),
    }
    assert {row["p_mcnemar"] for row in compared if row["dataset"] == "moods"} == {"1.0"}
