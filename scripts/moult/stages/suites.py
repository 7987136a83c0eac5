"""Stages of suites: predictions, answers, judgements, scores."""

from moult.base.files import derive_seed
from moult.base.stage import Ref, Stage
from moult.data.prompts import load_template
from moult.evaluation import judging, pairwise
from moult.evaluation import labels as labelling
from moult.evaluation import scores as label_scores
from moult.inference.recipes import client_of, compute_recipe, decoding_recipe, endpoint_recipe
from moult.inference.requests import author
from moult.report import plots
from moult.stages.corpora import served


def predict_labels(cfg, suite, model):
    """What is predicted: every dataset of a suite that the model is needed for, by every method, in one job."""
    entry = cfg.find("suites", suite).labels
    datasets = cfg.predicted[suite, model]
    return {
        "suite": suite,
        "model": model,
        "split": entry.split,
        "methods": list(entry.methods),
        "max_tokens": entry.max_tokens,
        "datasets": {name: load_template(cfg.find("datasets", name).template) for name in datasets},
        "compute": compute_recipe(cfg, model),
        "version": labelling.VERSION,
    }


def score_labels(cfg, suite, measured):
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
        "version": label_scores.VERSION,
    }


def plot_confusion(cfg, suite, measured):
    """Whose answers are counted."""
    return {
        "suite": suite,
        "model": measured,
        "methods": list(cfg.find("suites", suite).labels.methods),
        "datasets": cfg.measured[suite, measured],
        "version": plots.CONFUSION_VERSION,
    }


def sampled_questions(cfg, suite):
    """Which questions a judged suite asks: the same of every model, and of every pair that is judged."""
    judge = cfg.find("suites", suite).judge
    return {
        "datasets": list(judge.datasets),
        "split": judge.split,
        "sample": judge.sample,
        "seed": derive_seed(cfg.seed, "judge", suite),
    }


def answer_questions(cfg, suite, model):
    """How a model is asked the questions of a judged suite."""
    asking = cfg.find("suites", suite).judge.answers
    questions = sampled_questions(cfg, suite)
    return {
        "suite": suite,
        "model": model,
        "questions": questions,
        "prompts": {
            name: load_template(asking.prompt or cfg.find("datasets", name).template) for name in questions["datasets"]
        },
        "decoding": decoding_recipe(asking.decoding),
        "compute": compute_recipe(cfg, model),
        "version": judging.VERSION,
    }


def judge_answers(cfg, suite, measured):
    """What the judge is shown, and what it is asked about it; `measured` is a model or a corpus."""
    judge = cfg.find("suites", suite).judge
    return {
        "suite": suite,
        "model": measured,
        "against": cfg.judged[suite, measured],
        "questions": sampled_questions(cfg, suite),
        "criteria": list(judge.criteria),
        "endpoint": endpoint_recipe(cfg, judge.endpoint),
        "prompt": load_template(judge.prompt),
        "decoding": decoding_recipe(judge.decoding),
        "repeats": {"questions": judge.repeats.questions, "times": judge.repeats.times},
        "version": judging.VERSION,
    }


def score_judgements(cfg, suite, measured):
    """What is made of the judgements of a model, or, of the one that is compared with, of those of all others."""
    judge = cfg.find("suites", suite).judge
    reference = cfg.evaluation_of[suite, measured].reference
    return {
        "suite": suite,
        "model": measured,
        "against": cfg.judged[suite, measured],
        "datasets": list(judge.datasets),
        "criteria": list(judge.criteria),
        "limit": cfg.limit,
        "reference": reference.model_dump() if reference else None,
        "seed": derive_seed(cfg.seed, "score_judgements", suite),
        "version": pairwise.VERSION,
    }


# ---------------------------------------------------------------- labels


def _datasets(cfg, names):
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


# ---------------------------------------------------------------- judges


def _judge(cfg, suite, *_):
    """The model that judges the answers of a suite, None where the judge is remote."""
    return served(cfg, cfg.find("suites", suite).judge.endpoint)


def judged_pairs(cfg) -> list[tuple[str, str]]:
    """Return (suite, name) of every model or corpus that a judge sets against another."""
    return [pair for pair, against in cfg.judged.items() if pair[1] != against]


def _questions(cfg, suite, *_):
    return _datasets(cfg, cfg.find("suites", suite).judge.datasets)


def _compared(cfg, suite, measured):
    """The two files of answers that a judge compares, the questions, and the judge, if it is ours."""
    kind = "answers" if cfg.evaluation_of[suite, measured].models else "corpora"
    found = {}
    for side, name in (("ours", measured), ("theirs", cfg.judged[suite, measured])):
        found[side] = Ref(kind, f"{suite}/{name}" if kind == "answers" else name)
    judge = _judge(cfg, suite)
    return found | _questions(cfg, suite) | ({"served": Ref("models", judge)} if judge else {})


def _judgements(cfg, suite, measured):
    """The model's own judgements, or, of the one that others are set against, those of all others."""
    pairs = [pair for pair in judged_pairs(cfg) if pair[0] == suite]
    mine = [pair for pair in pairs if pair[1] == measured] or pairs
    return {"judgements": [Ref("judgements", "/".join(pair)) for pair in mine]}


def _answering_load(cfg, suite, *_):
    judge = cfg.find("suites", suite).judge
    datasets = [cfg.find("datasets", one) for one in judge.datasets]
    return {"answer": judge.answers.decoding.max_tokens, "datasets": datasets}


def _judging_load(cfg, suite, *_):
    """A judge reads two answers."""
    load = _answering_load(cfg, suite)
    return load | {"answer": 2 * load["answer"] + cfg.find("suites", suite).judge.decoding.max_tokens}


def _answers_in_words(recipe, facts):
    return "", f"{facts['rows']:,} questions answered, temperature {recipe['decoding']['temperature']:g}"


def _judgements_in_words(recipe, facts):
    who = f"{recipe['model']} against {recipe['against']}"
    return "", f"{who}, judged by {author(recipe['endpoint'])}: {facts['rows']:,} judgements"


STAGES = (
    Stage(
        rule="predict_labels",
        makes="predictions",
        doing="predicting the labels of {suite} with {model}",
        wildcards=("suite", "model"),
        names=lambda cfg: list(cfg.predicted),
        recipe=predict_labels,
        inputs=lambda cfg, *names: {"model": Ref("models", names[1])} | _datasets(cfg, cfg.predicted[names]),
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=_label_load,
        words=_labels_in_words,
    ),
    Stage(
        rule="score_labels",
        makes="scores",
        doing="scoring {measured} on {suite}",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(cfg.measured),
        recipe=score_labels,
        inputs=lambda cfg, *names: _predictions(cfg, *names) | _datasets(cfg, cfg.measured[names]),
        words=lambda *_: ("", "metrics of those predictions, with intervals"),
    ),
    Stage(
        rule="plot_confusion",
        makes="plots",
        doing="plotting which labels {measured} takes for which on {suite}",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(cfg.measured),
        recipe=plot_confusion,
        inputs=lambda cfg, *names: _predictions(cfg, *names, "file") | _datasets(cfg, cfg.measured[names]),
    ),
    Stage(
        rule="answer_questions",
        makes="answers",
        doing="answering the questions of {suite} with {model}",
        wildcards=("suite", "model"),
        names=lambda cfg: cfg.answered,
        recipe=answer_questions,
        inputs=lambda cfg, suite, model: {"model": Ref("models", model)} | _questions(cfg, suite),
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=_answering_load,
        words=_answers_in_words,
    ),
    Stage(
        rule="judge_answers",
        makes="judgements",
        doing="judging the answers of {measured} to {suite}",
        wildcards=("suite", "measured"),
        names=judged_pairs,
        recipe=judge_answers,
        client=lambda cfg, suite, measured: client_of(cfg, cfg.find("suites", suite).judge.endpoint),
        inputs=_compared,
        model=_judge,
        needs="inference",
        workload=_judging_load,
        words=_judgements_in_words,
    ),
    Stage(
        rule="score_judgements",
        makes="scores",
        doing="scoring the judgements of {measured} under {suite}",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(cfg.judged),
        recipe=score_judgements,
        inputs=_judgements,
        words=lambda *_: ("", "metrics of those judgements, with intervals"),
    ),
)
