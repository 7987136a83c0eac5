"""Label predictions, by generation and by exact label log-likelihood."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from moult.base.files import derive_seed, read_json, write_jsonl
from moult.base.legible import on_one_line
from moult.base.rows import Recipe
from moult.base.stage import Job, Ref, Stage
from moult.base.suite_rows import Prediction
from moult.data.fields import Split
from moult.data.parquet import read_rows
from moult.data.prompts import label_messages, load_template
from moult.data.videos.frames import Frames
from moult.evaluation import scores
from moult.evaluation.kinds import Baseline, Headline, Rows, Settings, SuiteKind, Unread
from moult.evaluation.leaderboard import suite_tables
from moult.evaluation.scores import differences
from moult.inference.asking import Asker, asker_of
from moult.inference.recipes import compute_recipe
from moult.inference.requests import ChatRequest, LabelRequest, Sampling
from moult.inference.structured import parse_label

# Raise when the same model would now be asked, or its answers read, otherwise.
VERSION = 1
logger = logging.getLogger(__name__)


class LabelSuite(Settings):
    """Label classification over datasets, by generation and by exact label log-likelihood."""

    datasets: list[str] = Field(min_length=1, description="Datasets whose rows are labelled.")
    split: Split = Field("test", description="Split that is measured.")
    methods: list[Literal["generate", "likelihood"]] = Field(
        ["generate", "likelihood"],
        min_length=1,
        description=(
            "How a label is predicted: read from a generated answer (`generate`), or the label whose text is "
            "likeliest (`likelihood`)."
        ),
    )
    max_tokens: int = Field(16, ge=1, description="Largest length of a generated answer, in tokens.")


def predict_labels(recipe: Recipe, folders: Mapping[str, str | Path], asker: Asker) -> list[Prediction]:
    """Return the prediction rows of one model over all datasets and methods of a suite.

    recipe: model, suite, split, methods, max_tokens, datasets (name → prompt template). folders: dataset name →
    prepared folder. asker: the model, with the frames of those folders.
    """
    predictions: list[Prediction] = []
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
                        "pred": found["pred"],
                        "status": found["status"],
                        "raw": found["raw"],
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


def raced(
    recipe: Recipe, folders: Sequence[str | Path]
) -> tuple[list[Any], Callable[[Asker, list[Any]], list[float]], Frames]:
    """Return what a race needs (see `kinds.Rows`): a row scores 1 where its label is predicted, else 0."""
    frames, rows, labels = Frames(folders), [], {}
    for (name, template), folder in zip(recipe["datasets"].items(), folders, strict=True):
        label_set = read_json(f"{folder}/labels.json")
        labels[name] = label_set["labels"]
        rows += [
            (name, label_messages(template, row, label_set), row["label"]) for row in read_rows(folder, recipe["split"])
        ]

    def score(asker, asked):
        read = _generated if recipe["methods"] == ["generate"] else _likeliest
        scores = [0.0] * len(asked)
        for name, known in labels.items():
            places = [place for place, row in enumerate(asked) if row[0] == name]
            found = read(asker, [asked[place][1] for place in places], known, recipe)
            for place, one in zip(places, found, strict=True):
                scores[place] = float(one["pred"] == asked[place][2])
        return scores

    return rows, score, frames


# ---------------------------------------------------------------- the kind of suite


def _subjects(one):
    return [f"models/{one['name'].split('/')[1]}"]


def _summary(predictions):
    names = list(dict.fromkeys(name for one in predictions for name in one["recipe"]["datasets"]))
    return ", ".join(names) if len(names) < 4 else f"{len(names)} datasets", ", ".join(names)


def run(job: Job) -> None:
    """Do the job of predict_labels."""
    folders = dict(zip(job.recipe["datasets"], job.inputs.datasets, strict=True))
    with asker_of(job, job.inputs, "model", frames=Frames(folders.values())) as asker:
        rows = predict_labels(job.recipe, folders, asker)
    write_jsonl(job.outputs.predictions, rows)
    job.facts = {"rows": len(rows)}


# ---------------------------------------------------------------- the stages


def _predict_labels(cfg, suite, model):
    """What is predicted: every dataset of a suite that the model is needed for, by every method, in one job."""
    entry = cfg.find("suites", suite).labels
    datasets = cfg.predicted[suite, model]
    labels = [label for name in datasets for label in cfg.find("datasets", name).label_set["labels"]]
    read = {"words": "unicode"} if "generate" in entry.methods and not all(map(str.isascii, labels)) else {}
    return {
        "suite": suite,
        "model": model,
        "split": entry.split,
        "methods": list(entry.methods),
        "max_tokens": entry.max_tokens,
        "datasets": {name: load_template(cfg.find("datasets", name).template) for name in datasets},
        "compute": compute_recipe(cfg, model),
        **read,
        "version": VERSION,
    }


def _race(cfg, suite, method):
    """What is asked in a race: every dataset of a suite, by one method."""
    entry = cfg.find("suites", suite).labels
    return {
        "split": entry.split,
        "methods": [method or entry.methods[0]],
        "max_tokens": entry.max_tokens,
        "datasets": {name: load_template(cfg.find("datasets", name).template) for name in entry.datasets},
    }


def _score_labels(cfg, suite, measured):
    """What is scored: a model or a setting, by dataset the model that answers, and the published values beside it."""
    reference = cfg.evaluation_of[suite, measured].reference
    return {
        "suite": suite,
        "model": measured,
        "methods": list(cfg.find("suites", suite).labels.methods),
        "datasets": cfg.measured[suite, measured],
        "limit": cfg.limit,
        "reference": reference.model_dump() if reference else None,
        "seed": derive_seed(cfg.seed, "score_labels", suite),
        "version": scores.VERSION,
    }


def _plot_confusion(cfg, suite, measured):
    """Whose answers are counted."""
    recipe = {
        "suite": suite,
        "model": measured,
        "methods": list(cfg.find("suites", suite).labels.methods),
        "datasets": cfg.measured[suite, measured],
        "version": scores.CONFUSION_VERSION,
    }
    label_sets = [cfg.find("datasets", name).label_set["labels"] for name in recipe["datasets"]]
    if any(len(labels) > scores.MOST_LABELS for labels in label_sets):
        recipe["most"] = scores.MOST_LABELS
    # As long as a name could be read as a formula, or as more than a line, its picture was another one.
    if any("$" in one or on_one_line(one) != one for labels in label_sets for one in labels):
        recipe["names"] = "as text"
    return recipe


def _datasets(names):
    return {"datasets": [Ref("datasets", name) for name in names]}


def _predictions(cfg, suite, measured, form="artefact"):
    """The predictions of the models that stand for a model or a setting."""
    models = dict.fromkeys(cfg.measured[suite, measured].values())
    return {"predictions": [Ref("predictions", f"{suite}/{model}", form) for model in models]}


def _label_load(cfg, suite, model):
    labels = cfg.find("suites", suite).labels
    return {"answer": labels.max_tokens, "datasets": [cfg.find("datasets", one) for one in labels.datasets]}


def _labels_in_words(recipe, facts):
    return "", f"{' and '.join(recipe['methods'])} on {recipe['split']}, {recipe['compute']['engine']}"


STAGES = (
    Stage(
        rule="predict_labels",
        makes="predictions",
        doing="predicting the labels of {suite} with {model}",
        run="moult.evaluation.labels:run",
        wildcards=("suite", "model"),
        names=lambda cfg: list(cfg.predicted),
        recipe=_predict_labels,
        inputs=lambda cfg, *names: {"model": Ref("models", names[1])} | _datasets(cfg.predicted[names]),
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=_label_load,
        words=_labels_in_words,
    ),
    Stage(
        rule="score_labels",
        makes="scores",
        doing="scoring {measured} on {suite}",
        run="moult.evaluation.scores:run",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(cfg.measured),
        recipe=_score_labels,
        inputs=lambda cfg, *names: _predictions(cfg, *names) | _datasets(cfg.measured[names]),
        words=lambda *_: ("", "metrics of those predictions, with intervals"),
    ),
    Stage(
        rule="plot_confusion",
        makes="plots/confusion",
        doing="plotting which labels {measured} takes for which on {suite}",
        run="moult.report.plots:run_confusion",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(cfg.measured),
        recipe=_plot_confusion,
        inputs=lambda cfg, *names: _predictions(cfg, names[0], names[1], "file") | _datasets(cfg.measured[names]),
        sealed=False,
    ),
)
LABELS = SuiteKind(
    key="labels",
    fields=LabelSuite,
    title="label",
    shape="labelled",
    # On a carved dev split checkpoints are selected.
    carved=("test",),
    measures=("models", "settings"),
    refusal="a suite of labels measures models; write `models`",
    published=("mmla",),
    methods={"generate": "by generation", "likelihood": "by label likelihood"},
    headline=Headline("accuracy", "accuracy", "accuracies"),
    baseline=Baseline("majority label", "Always answering the most frequent label", metric="majority_accuracy"),
    differences=differences,
    race=Rows(_race, "moult.evaluation.labels:raced"),
    measurement="predictions",
    stages=STAGES,
    subjects=_subjects,
    summary=_summary,
    tables=suite_tables,
    section=("scores", "Scores"),
    template="labels.html.j2",
    metrics={
        "macro_f1": "macro F1",
        "weighted_f1": "weighted F1",
        "macro_precision": "macro precision",
        "macro_recall": "macro recall",
        "weighted_precision": "weighted precision",
        "weighted_recall": "weighted recall",
        "macro_f1_occurring": "macro F1, labels that occur",
        "macro_precision_occurring": "macro precision, labels that occur",
        "macro_recall_occurring": "macro recall, labels that occur",
    },
    unread=Unread(
        "Answers without one label",
        "no label could be read, more than one stood there, or there was no answer",
        {"unknown_rate": "no label", "multi_rate": "several", "error_rate": "errors"},
    ),
)
