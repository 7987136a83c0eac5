"""Scores of label predictions, published values beside them, and paired differences."""

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from moult.base.files import each_jsonl, read_json, write_csv
from moult.base.rows import Recipe, columns_of
from moult.base.stage import Job
from moult.base.suite_rows import Difference, Prediction, Score
from moult.evaluation import metrics
from moult.evaluation.published import SOURCES, Published

# Raise when the same predictions would now be scored or tabulated otherwise.
VERSION = 3
# Raise when confusion matrices are drawn otherwise: it redraws them.
CONFUSION_VERSION = 1
COLUMNS = columns_of(Score)
DIFFERENCES = columns_of(Difference)
# What scores are made of. A row's `raw` is a number per label: many times the rest.
NEEDED = ("uid", "dataset", "model", "method", "gold", "pred", "status")
# Labels of a confusion matrix that can be read; of more, the rest are summed.
MOST_LABELS = 60
logger = logging.getLogger(__name__)


def read_predictions(path: str | Path) -> Iterator[Prediction]:
    """Yield the rows of a file of predictions, with what scores need of them."""
    for row in each_jsonl(path):
        yield cast(Prediction, {key: row[key] for key in NEEDED})


def majority_label(folder: str | Path) -> str | None:
    """Return the most frequent label of the train split (ties: the first in the label set), or None without one."""
    profile = read_json(f"{folder}/profile.json")["splits"].get("train")
    if not profile:
        return None
    labels = read_json(f"{folder}/labels.json")["labels"]
    return max(labels, key=lambda label: profile["labels"].get(label, 0))


def answers_of(measured: Mapping[str, str], predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Return dataset → the prediction rows that count there: those of the model that answers for it.

    measured: dataset → model; predictions: rows of these models, which may hold other datasets too.
    """
    found = {dataset: [] for dataset in measured}
    for row in predictions:
        if measured.get(row["dataset"]) == row["model"]:
            found[row["dataset"]].append(row)
    return found


def score_labels(recipe: Recipe, predictions: Iterable[Prediction], folders: Mapping[str, str | Path]) -> list[Score]:
    """Return score rows (see COLUMNS) of one model or setting under one suite.

    Per dataset and method: accuracy, macro and weighted precision, recall and F1 over the whole label set, rates of
    unknown, multi and error answers, and the majority label's accuracy; then both means over the suite's datasets,
    plain and weighted by n. Intervals are those of `metrics`. Beside what was generated stand the published values of
    the same datasets, and means over them alone.

    recipe: suite, model, datasets (dataset → the model that answers), methods, reference, limit, seed.
    """
    # A smoke run's few rows have no published value to stand beside.
    if recipe["limit"] and recipe["reference"]:
        logger.warning("limit is %d: the published values of `reference` stand beside nothing", recipe["limit"])
    published = Published(None if recipe["limit"] else recipe["reference"])
    answers = answers_of(recipe["datasets"], predictions)
    rows = []
    for method in recipe["methods"]:
        scored, tasks = [], []
        beside = published if method == "generate" else Published(None)
        for name in recipe["datasets"]:
            label_set = read_json(f"{folders[name]}/labels.json")
            mine = [row for row in answers[name] if row["method"] == method]
            measured = metrics.label_metrics(
                [row["gold"] for row in mine],
                [row["pred"] for row in mine],
                label_set["labels"],
                recipe["seed"],
            )
            result = dict(measured)
            statuses = Counter(row["status"] for row in mine)
            for status in ("unknown", "multi", "error"):
                result[f"{status}_rate"] = metrics.share(statuses[status], len(mine))
            if majority := majority_label(folders[name]):
                result["majority_accuracy"] = metrics.share(sum(row["gold"] == majority for row in mine), len(mine))
            scored.append((len(mine), measured))
            tasks.append(label_set["dataset"])
            place = {"dataset": name, "task": label_set["task"], "method": method, "n": len(mine)}
            rows += _long(place, result, functools.partial(beside.of, dataset=label_set["dataset"]))
        for mean, weights in (("mean", None), ("weighted_mean", [n for n, _ in scored])):
            place = {"dataset": mean, "task": "", "method": method, "n": sum(n for n, _ in scored)}
            means = metrics.mean_of([result for _, result in scored], weights)
            rows += _long(place, means, functools.partial(beside.mean, mean=mean, datasets=tasks))
    shared = {"model": recipe["model"], "suite": recipe["suite"], "limit": recipe["limit"]}
    return cast(list[Score], [{column: (shared | row).get(column) for column in COLUMNS} for row in rows])


def _long(place, result, published):
    for metric, estimate in result.items():
        row = place | {"metric": metric} | estimate.as_row()
        for source in SOURCES:
            value = published(source, metric=metric)
            if value is not None:
                row |= {source: round(value, 6), f"{source}_delta": round(estimate.value - value, 6)}
        yield row


def confusion_tables(
    recipe: Recipe, predictions: Iterable[Prediction], labels: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """Return {dataset, method, labels, counts} per dataset and method.

    counts: [labels, labels + 1] rows by given and predicted label, the last column for answers without one.

    recipe: datasets (dataset → the model that answers), methods. labels: dataset → its label set.
    """
    answers = answers_of(recipe["datasets"], predictions)
    tables = []
    for dataset, names in labels.items():
        place: dict[str | None, int] = {label: index for index, label in enumerate(names)}
        for method in recipe["methods"]:
            counts = [[0] * (len(names) + 1) for _ in names]
            for row in answers[dataset]:
                if row["method"] == method:
                    counts[place[row["gold"]]][place.get(row["pred"], len(names))] += 1
            tables.append({"dataset": dataset, "method": method, "labels": names, "counts": counts})
    return tables


def differences(recipe: Recipe, predictions: Mapping[tuple[str, ...], str | Path]) -> list[Difference]:
    """Return paired accuracy differences of each model or setting against those that its evaluation names.

    recipe: pairs [suite, name, against], measured [suite, name, dataset → model]. predictions: (suite, model) → path of
    the predictions. Columns: DIFFERENCES. A suite of several datasets has a line `weighted_mean` too, over all rows.
    """
    models_of = {(suite, name): model_of for suite, name, model_of in recipe["measured"]}

    # Pairs stand one behind another by what they are compared with.
    @functools.lru_cache(maxsize=1)
    def theirs_of(suite, against):
        return _correct(models_of[suite, against], suite, predictions)

    rows: list[Difference] = []
    for suite, model, against in recipe["pairs"]:
        if (suite, model) not in models_of:
            continue
        ours, theirs = _correct(models_of[suite, model], suite, predictions), theirs_of(suite, against)
        whole: dict[str, list[tuple[int, ...]]] = {}
        for (dataset, method), right in ours.items():
            beside = theirs[dataset, method]
            pairs = Counter((correct, beside[uid]) for uid, correct in right.items())
            counts: tuple[int, ...] = pairs[True, False], pairs[False, True], len(right)
            whole.setdefault(method, []).append(counts)
            rows.append(_difference(suite, model, against, dataset, method, counts))
        for method, parts in whole.items():
            if len(parts) > 1:
                counts = tuple(map(sum, zip(*parts, strict=True)))
                rows.append(_difference(suite, model, against, "weighted_mean", method, counts))
    return rows


def _difference(suite, model, against, dataset, method, counts):
    place = {"suite": suite, "model": model, "against": against, "dataset": dataset, "method": method}
    difference: Any = metrics.paired_difference(*counts)
    return cast(Difference, place | difference | {"n": counts[-1]})


def _correct(model_of, suite, predictions):
    """Return (dataset, method) → uid → whether it was right, of a model or setting."""
    rows = (row for model in dict.fromkeys(model_of.values()) for row in read_predictions(predictions[suite, model]))
    found = {}
    for dataset, answers in answers_of(model_of, rows).items():
        for row in answers:
            found.setdefault((dataset, row["method"]), {})[row["uid"]] = row["pred"] == row["gold"]
    return found


def run(job: Job) -> None:
    """Do the job of score_labels."""
    folders = dict(zip(job.recipe["datasets"], job.inputs.datasets, strict=True))
    predictions = (row for path in job.inputs.predictions for row in read_predictions(path))
    write_csv(job.outputs.scores, score_labels(job.recipe, predictions, folders), COLUMNS)
