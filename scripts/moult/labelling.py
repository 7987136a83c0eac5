"""Label classification: predictions by generation and by exact label log-likelihood, and their scores."""

import csv
import functools
import logging
from collections import Counter

from moult import generate, metrics
from moult.chat import ChatRequest, LabelRequest, Sampling, ask_all
from moult.config import REFERENCE
from moult.corpora import served_identity
from moult.files import read_json, read_jsonl, whole_file
from moult.journal import Journal
from moult.parsing import parse_label
from moult.prompts import Example, render, render_answer, with_videos
from moult.tables import read_rows
from moult.videos import Frames

# Raise when the same answers would now be read or scored otherwise.
VERSION = 1
COLUMNS = "model suite dataset task method metric value n ci_low ci_high reference reference_source delta limit".split()
DIFFERENCES = "suite model against dataset method difference ci_low ci_high p_mcnemar n".split()
logger = logging.getLogger(__name__)


def label_messages(template, row, label_set):
    """Return (messages, one answer text per label): how a labelled row is put to a model, everywhere."""
    fields = {"text": row["text"], "task_words": label_set["task_words"], "labels": label_set["labels"]}
    answers = [render_answer(template, **fields, label=label) for label in label_set["labels"]]
    videos = [medium["frames"] for medium in row.get("media") or () if medium["type"] == "video"]
    return with_videos(render(template, **fields), videos), answers


def label_examples(folder, split, template):
    """Return the training examples of a prepared dataset's split: the prompt, and the answer with the gold label."""
    label_set = read_json(f"{folder}/labels.json")
    examples = []
    for row in read_rows(folder, split):
        messages, answers = label_messages(template, row, label_set)
        examples.append(Example(row["uid"], messages, answers[label_set["labels"].index(row["label"])]))
    return examples


def predict_labels(recipe, model, model_manifest, folders, journal):
    """Return the prediction rows of one model over all datasets and methods of a suite; one model load.

    recipe: model, suite, split, methods, max_tokens, compute, datasets (name → prompt template), version.
    folders: dataset name → prepared folder.
    """
    identity = served_identity(model_manifest, recipe["compute"], generate.VERSION)
    frames = Frames(folders.values())
    opener = functools.cache(lambda: generate.load_engine(model, **recipe["compute"], frames=frames))
    predictions = []
    with Journal(journal) as kept:
        for name, template in recipe["datasets"].items():
            label_set = read_json(f"{folders[name]}/labels.json")
            rows = read_rows(folders[name], recipe["split"])
            asked = [label_messages(template, row, label_set) for row in rows]
            for method in recipe["methods"]:
                logger.info("%s: %d rows by %s", name, len(rows), method)
                ask = functools.partial(ask_all, identity=identity, open_answerer=opener, journal=kept)
                read = _generated if method == "generate" else _likeliest
                for row, found in zip(rows, read(ask, asked, label_set["labels"], recipe), strict=True):
                    predictions.append(
                        {
                            "uid": row["uid"],
                            "dataset": name,
                            "task": row["task"],
                            "model": recipe["model"],
                            "method": method,
                            "gold": row["label"],
                            **found,
                        }
                    )
    return predictions


def _generated(ask, asked, labels, recipe):
    sampling = Sampling(max_tokens=recipe["max_tokens"])
    values = ask([ChatRequest(tuple(messages), sampling) for messages, _ in asked])
    for value in values:
        if value["finish_reason"] == "error":
            yield {"pred": None, "status": "error", "raw": value["error"]}
        else:
            label, status = parse_label(value["text"], labels)
            yield {"pred": label, "status": status, "raw": value["text"]}


def _likeliest(ask, asked, labels, recipe):
    values = ask(
        [LabelRequest(tuple(messages), tuple(answers)) for messages, answers in asked],
        method="label_logprobs",
    )
    for value in values:
        if isinstance(value, dict):
            yield {"pred": None, "status": "error", "raw": value["error"]}
        else:
            best = max(range(len(labels)), key=value.__getitem__)
            yield {"pred": labels[best], "status": "ok", "raw": [round(score, 4) for score in value]}


def majority_label(folder):
    """Return the most frequent label of the train split (ties: the first in the label set), or None without one."""
    profile = read_json(f"{folder}/profile.json")["splits"].get("train")
    if not profile:
        return None
    labels = read_json(f"{folder}/labels.json")["labels"]
    return max(labels, key=lambda label: profile["labels"].get(label, 0))


def reference_values(reference):
    """Return {(dataset, metric): (value, source, n)} of the published table that an evaluation names."""
    if not reference:
        return {}
    with open(REFERENCE / f"{reference['table']}.csv", encoding="utf-8") as handle:
        return {
            (row["dataset"], row["metric"]): (
                float(row["value"]),
                f"{row['source']}: {row['model']} {row['setting']}",
                int(row["n"]),
            )
            for row in csv.DictReader(handle)
            if all(row[key] == reference[key] for key in ("source", "model", "setting"))
        }


def score_labels(recipe, predictions, folders):
    """Return score rows (see COLUMNS) of one model under one suite.

    Per dataset and method: accuracy, macro and weighted precision, recall and F1 over the whole label set, rates of
    unknown, multi and error answers, and the majority label's accuracy; then both means over the suite's datasets,
    plain and weighted by n. Intervals are 95% bootstrap percentiles over rows.
    """
    # A smoke run's few rows have no published value to stand beside.
    published = {} if recipe["limit"] else reference_values(recipe["reference"])
    rows = []
    for method in recipe["methods"]:
        scored = []
        for name in recipe["datasets"]:
            label_set = read_json(f"{folders[name]}/labels.json")
            mine = [row for row in predictions if row["dataset"] == name and row["method"] == method]
            result = metrics.label_metrics(
                [row["gold"] for row in mine],
                [row["pred"] for row in mine],
                label_set["labels"],
                recipe["seed"],
            )
            statuses = Counter(row["status"] for row in mine)
            for status in ("unknown", "multi", "error"):
                result[f"{status}_rate"] = metrics.share(statuses[status], len(mine))
            if majority := majority_label(folders[name]):
                result["majority_accuracy"] = metrics.share(sum(row["gold"] == majority for row in mine), len(mine))
            scored.append((len(mine), result))
            place = {"dataset": name, "task": label_set["task"], "method": method, "n": len(mine)}
            rows += _long(place, result, published, label_set["dataset"])
        for mean, weights in (("mean", None), ("weighted_mean", [n for n, _ in scored])):
            place = {"dataset": mean, "task": "", "method": method, "n": sum(n for n, _ in scored)}
            rows += _long(place, metrics.mean_of([result for _, result in scored], weights), published, mean)
    shared = {"model": recipe["model"], "suite": recipe["suite"], "limit": recipe["limit"]}
    return [{column: (shared | row).get(column) for column in COLUMNS} for row in rows]


def _long(place, result, published, published_as):
    for metric, estimate in result.items():
        row = place | {"metric": metric} | estimate.as_row()
        # Published values come from generated answers; a mean over other tasks is no reference.
        if place["method"] == "generate" and (published_as, metric) in published:
            value, source, n = published[published_as, metric]
            if place["task"] or place["n"] == n:
                row |= {
                    "reference": value,
                    "reference_source": source,
                    "delta": round(estimate.value - value, 6),
                }
        yield row


def write_csv(path, rows, columns):
    """Write rows as CSV, whole or not at all; None is an empty cell."""
    with whole_file(path) as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def differences(recipe, predictions):
    """Return paired accuracy differences of each model against the one its evaluation names.

    recipe: pairs [suite, model, against], seed. predictions: (suite, model) → path of the predictions.
    Columns: suite, model, against, dataset, method, difference, ci_low, ci_high, p_mcnemar, n.
    """
    rows = []
    for suite, model, against in recipe["pairs"]:
        if (suite, model) not in predictions:
            continue
        ours, theirs = (_correct(predictions[suite, name]) for name in (model, against))
        for dataset, method in dict.fromkeys((key[1], key[2]) for key in ours):
            keys = [key for key in ours if key[1:] == (dataset, method)]
            pairs = [(ours[key], theirs[key]) for key in keys]
            place = {"suite": suite, "model": model, "against": against, "dataset": dataset, "method": method}
            rows.append(place | metrics.paired_difference(pairs, recipe["seed"]) | {"n": len(pairs)})
    return rows


def _correct(path):
    return {(row["uid"], row["dataset"], row["method"]): row["pred"] == row["gold"] for row in read_jsonl(path)}
