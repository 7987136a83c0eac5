"""Label predictions, by generation and by exact label log-likelihood."""

import functools
import logging

from moult.base.files import read_json
from moult.data.parquet import read_rows
from moult.data.prompts import label_messages
from moult.data.videos.frames import Frames
from moult.inference.asking import ask_all, served_identity
from moult.inference.engines import base, loading
from moult.inference.journal import Journal
from moult.inference.requests import ChatRequest, LabelRequest, Sampling
from moult.inference.structured import parse_label

# Raise when the same model would now be asked, or its answers read, otherwise.
VERSION = 1
logger = logging.getLogger(__name__)


def predict_labels(recipe, model, model_manifest, folders, journal):
    """Return the prediction rows of one model over all datasets and methods of a suite; one model load.

    recipe: model, suite, split, methods, max_tokens, compute, datasets (name → prompt template), version.
    folders: dataset name → prepared folder.
    """
    identity = served_identity(model_manifest, recipe["compute"], base.VERSION)
    frames = Frames(folders.values())
    opener = functools.cache(lambda: loading.load_engine(model, **recipe["compute"], frames=frames))
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
