"""Predictions and scores of a pico model: one load, nothing unparsed scored, published values beside ours."""

import csv
import json

import pytest
from moult.base.files import write_csv, write_json, write_jsonl
from moult.data.prepare import prepare_dataset
from moult.data.prompts import load_template
from moult.evaluation import scores as label_scores
from moult.evaluation.labels import predict_labels
from moult.evaluation.published import Published
from moult.evaluation.scores import (
    COLUMNS,
    DIFFERENCES,
    confusion_tables,
    differences,
    score_labels,
)
from moult.inference.asking import Asker
from moult.inference.engines import loading

LABELS = {"dataset": "MOSI", "task": "sentiment", "task_words": "sentiment", "language": "en"}
LABELS |= {"labels": ["positive", "negative"]}


@pytest.fixture
def folders(tmp_path):
    for split, n in (("train", 6), ("test", 4)):
        raw = tmp_path / "raw" / split / f"00-{split}.tsv"
        raw.parent.mkdir(parents=True)
        rows = [f"{i}\tline {split} {i}\t{'positive' if i % 3 else 'negative'}" for i in range(n)]
        raw.write_text("\n".join(["id\ttext\tlabel", *rows]) + "\n")
    recipe = {"name": "d", "format": "mmla", "columns": {}, "label_set": LABELS, "task": "sentiment", "seed": 1}
    recipe |= {"files": {"train": ["a"], "test": ["b"]}, "language": "en", "dev_fraction": 0, "limit": None}
    prepare_dataset(recipe, tmp_path / "raw", tmp_path / "d")
    return {"d": tmp_path / "d"}


def recipe(**more):
    plain = {"suite": "s", "model": "pico", "split": "test", "methods": ["generate", "likelihood"], "max_tokens": 4}
    plain |= {"datasets": {"d": load_template("mmla/text")}, "limit": None, "reference": None, "seed": 0}
    compute = {"engine": "transformers", "dtype": "float32", "batch_size": 3, "threads": 1}
    return plain | {"compute": compute} | more


def predicted(model, folders, folder):
    """Return the predictions of a model; its answers are kept in the folder."""
    write_json(folder / "m.json", {"content": "abc"})
    endpoint = {"name": "pico", "serve": "pico", "compute": recipe()["compute"]}
    with Asker(endpoint, folder / "j.sqlite", model=model, manifest=folder / "m.json") as asker:
        return predict_labels(recipe(), folders, asker)


def test_predictions_are_made_in_one_load_and_kept(tmp_path, folders, pico_model, monkeypatch):
    loads = []
    load = loading.load_engine
    monkeypatch.setattr(loading, "load_engine", lambda *a, **k: loads.append(1) or load(*a, **k))
    first = predicted(pico_model, folders, tmp_path)
    assert [row["method"] for row in first] == ["generate"] * 4 + ["likelihood"] * 4
    assert all(row["pred"] in LABELS["labels"] and len(row["raw"]) == 2 for row in first[4:])
    assert predicted(pico_model, folders, tmp_path) == first
    assert len(loads) == 1


def test_scores_of_a_prediction_file_are_those_of_scikit_learn(tmp_path, folders, pico_model):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    made = predicted(pico_model, folders, tmp_path)
    write_jsonl(tmp_path / "p.jsonl", made)
    # Out of the file alone, by nothing of ours.
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {
        (row["method"], row["dataset"], row["metric"]): row["value"] for row in score_labels(scoring(), made, folders)
    }
    for method in ("generate", "likelihood"):
        mine = [line for line in lines if line["method"] == method]
        gold, pred = [line["gold"] for line in mine], [line["pred"] or "unread" for line in mine]
        assert found[method, "d", "accuracy"] == round(accuracy_score(gold, pred), 6)
        for average in ("macro", "weighted"):
            expected = precision_recall_fscore_support(
                gold, pred, labels=LABELS["labels"], average=average, zero_division=0
            )
            for metric, value in zip(("precision", "recall", "f1"), expected, strict=False):
                assert found[method, "d", f"{average}_{metric}"] == round(value, 6)


def scoring(**more):
    return recipe(datasets={"d": "pico"}) | more


def predictions(preds, method="generate", model="pico"):
    golds = ["negative", "positive", "positive", "negative"]
    rows = []
    for i, (gold, pred) in enumerate(zip(golds, preds, strict=True)):
        status = pred if pred in ("unknown", "multi", "error") else "ok"
        label = pred if status == "ok" else None
        row = {"uid": f"d:{i}", "dataset": "d", "model": model, "method": method}
        rows.append(row | {"gold": gold, "pred": label, "status": status})
    return rows


def test_what_was_not_read_is_wrong_but_no_class(folders):
    rows = score_labels(scoring(methods=["generate"]), predictions(["negative", "unknown", "multi", "error"]), folders)
    found = {(row["dataset"], row["metric"]): row["value"] for row in rows}
    assert found["d", "accuracy"] == 0.25
    assert found["d", "unknown_rate"] == found["d", "multi_rate"] == found["d", "error_rate"] == 0.25
    # Two classes, not four or five: negative has precision 1 and recall 1/2, positive nothing.
    assert found["d", "macro_f1"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)
    assert found["d", "majority_accuracy"] == 0.5
    assert found["mean", "accuracy"] == found["weighted_mean", "accuracy"] == 0.25


def test_published_values_stand_beside_generated_scores(folders, caplog):
    reference = {"table": "mmla", "model": "LLaMA-3-8B", "setting": "zero-shot"}
    preds = ["negative", "positive", "positive", "negative"]
    both = predictions(preds) + predictions(preds, "likelihood")
    rows = score_labels(scoring(reference=reference), both, folders)
    found = {(row["dataset"], row["method"]): row for row in rows if row["metric"] == "accuracy"}
    one = found["d", "generate"]
    assert (one["paper"], one["reproduction"]) == (0.816, 0.8484)
    assert (one["paper_delta"], one["reproduction_delta"]) == (0.184, 0.1516)
    # The mean over one task is that task's value: no mean over other tasks stands beside it.
    assert found["mean", "generate"]["paper"] == found["weighted_mean", "generate"]["paper"] == 0.816
    assert not any(row.get("paper") or row.get("reproduction") for row in rows if row["method"] == "likelihood")
    limited = score_labels(scoring(reference=reference, limit=4), both, folders)
    assert "limit is 4: the published values of `reference` stand beside nothing" in caplog.text
    assert not any(row["paper"] or row["reproduction"] for row in limited)


def test_confusion_counts_by_given_and_predicted_label():
    rows = [
        {"dataset": "d", "model": "m", "method": "generate", "gold": "a", "pred": pred} for pred in ("a", "b", None)
    ]
    (table,) = confusion_tables({"datasets": {"d": "m"}, "methods": ["generate"]}, rows, {"d": ["a", "b"]})
    assert table["counts"] == [[1, 1, 1], [0, 0, 0]]


NINE = "MIntRec MIntRec2.0 MELD MELD-DA Ch-sims UR-FUNNY MUStARD AnnoMi-client AnnoMi-therapist".split()
TWELVE = [*NINE, "IEMOCAP", "IEMOCAP-DA", "MOSI"]


def test_published_means_run_over_the_same_datasets():
    llama = Published({"table": "mmla", "model": "LLaMA-3-8B", "setting": "sft"})
    # As printed: weighted in the paper, plain in the reproduction.
    assert llama.mean("paper", "weighted_mean", "accuracy", TWELVE) == 0.6618
    assert llama.mean("reproduction", "mean", "accuracy", TWELVE) == 0.6476
    # The other kind is computed; so are those over nine datasets.
    assert llama.mean("paper", "mean", "accuracy", TWELVE) == pytest.approx(0.6848, abs=5e-5)
    assert llama.mean("reproduction", "weighted_mean", "accuracy", TWELVE) == pytest.approx(0.6542, abs=2e-4)
    assert llama.mean("paper", "weighted_mean", "accuracy", NINE) == pytest.approx(0.6584, abs=2e-4)
    # Qwen2-1.5B has no value per dataset in the paper: its printed mean is over twelve, there is none over nine.
    qwen = Published({"table": "mmla", "model": "Qwen2-1.5B", "setting": "sft"})
    assert qwen.mean("paper", "weighted_mean", "accuracy", TWELVE) == 0.64
    assert qwen.mean("paper", "weighted_mean", "accuracy", NINE) is None
    assert qwen.mean("paper", "mean", "accuracy", TWELVE) is None


def test_differences_are_paired_by_row(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", predictions(["negative", "positive", "positive", "negative"], model="a"))
    write_jsonl(tmp_path / "b.jsonl", predictions(["negative", "positive", "negative", "unknown"], model="b")[::-1])
    paths = {("s", "a"): tmp_path / "a.jsonl", ("s", "b"): tmp_path / "b.jsonl"}
    compared = {"pairs": [["s", "a", "b"]], "measured": [["s", "a", {"d": "a"}], ["s", "b", {"d": "b"}]], "seed": 0}
    rows = differences(compared, paths)
    assert [(row["difference"], row["n"]) for row in rows] == [(0.5, 4)]
    write_csv(tmp_path / "d.csv", rows, DIFFERENCES)
    with open(tmp_path / "d.csv") as handle:
        assert next(csv.reader(handle)) == DIFFERENCES


def test_a_setting_is_answered_for_by_one_model_per_dataset(tmp_path):
    right, wrong = ["negative", "positive", "positive", "negative"], ["positive", "negative", "negative", "positive"]
    files = {"one": predictions(right, model="one"), "two": predictions(wrong, model="two")}
    files["one"] += [row | {"dataset": "e"} for row in predictions(wrong, model="one")]
    files["two"] += [row | {"dataset": "e"} for row in predictions(right, model="two")]
    for model, rows in files.items():
        write_jsonl(tmp_path / f"{model}.jsonl", rows)
    paths = {("s", model): tmp_path / f"{model}.jsonl" for model in files}
    setting = {"d": "one", "e": "two"}
    found = label_scores.answers_of(setting, [*files["one"], *files["two"]])
    assert {dataset: {row["model"] for row in rows} for dataset, rows in found.items()} == {"d": {"one"}, "e": {"two"}}
    compared = {"measured": [["s", "each", setting], ["s", "one", dict.fromkeys("de", "one")]], "seed": 0}
    rows = differences(compared | {"pairs": [["s", "each", "one"]]}, paths)
    found = [(row["dataset"], row["difference"], row["n"]) for row in rows]
    assert found == [("d", 0, 4), ("e", 1, 4), ("weighted_mean", 0.5, 8)]


def test_columns_are_those_that_readers_rely_on():
    assert {"model", "suite", "dataset", "metric", "value", "n", "ci_low", "ci_high"} <= set(COLUMNS)
