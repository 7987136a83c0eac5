"""Label predictions, by generation and by exact label log-likelihood."""

import logging

from moult.base.files import read_json
from moult.data.examples import label_messages
from moult.data.parquet import read_rows
from moult.inference.requests import ChatRequest, LabelRequest, Sampling
from moult.inference.structured import parse_label

# Raise when the same model would now be asked, or its answers read, otherwise.
VERSION = 1
logger = logging.getLogger(__name__)


def predict_labels(recipe, folders, asker):
    """Return the prediction rows of one model over all datasets and methods of a suite.

    recipe: model, suite, split, methods, max_tokens, datasets (name → prompt template). folders: dataset name →
    prepared folder. asker: the model, with the frames of those folders.
    """
    predictions = []
    for name, template in recipe["datasets"].items():
        label_set = read_json(f"{folders[name]}/labels.json")
        rows = read_rows(folders[name], recipe["split"])
        asked = [label_messages(template, row, label_set) for row in rows]
        for method in recipe["methods"]:
            logger.info("%s: %d rows by %s", name, len(rows), method)
            read = _generated if method == "generate" else _likeliest
            for row, found in zip(rows, read(asker, asked, label_set["labels"], recipe), strict=True):
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


def _generated(asker, asked, labels, recipe):
    sampling = Sampling(max_tokens=recipe["max_tokens"])
    for value in asker.ask([ChatRequest(tuple(messages), sampling) for messages, _ in asked]):
        if value["finish_reason"] == "error":
            yield {"pred": None, "status": "error", "raw": value["error"]}
        else:
            label, status = parse_label(value["text"], labels)
            yield {"pred": label, "status": status, "raw": value["text"]}


def _likeliest(asker, asked, labels, recipe):
    for value in asker.label_logprobs([LabelRequest(tuple(messages), tuple(answers)) for messages, answers in asked]):
        if isinstance(value, dict):
            yield {"pred": None, "status": "error", "raw": value["error"]}
        else:
            best = max(range(len(labels)), key=value.__getitem__)
            yield {"pred": labels[best], "status": "ok", "raw": [round(score, 4) for score in value]}
