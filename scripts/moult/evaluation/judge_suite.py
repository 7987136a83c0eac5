"""The kind of suite in which judges compare answers in pairs: its stages, and how it is shown."""

from moult.base.files import derive_seed, read_jsonl
from moult.base.stage import Experiment, Ref, Stage
from moult.data.prompts import load_template
from moult.data.rubrics import named_rubric
from moult.evaluation import consensus, judging, pairwise
from moult.evaluation.judge_settings import JudgeSuite
from moult.evaluation.kinds import SuiteKind
from moult.inference.plans import Asking, Plan
from moult.inference.recipes import client_of, compute_recipe, decoding_recipe, endpoint_recipe
from moult.inference.requests import author

# Judgements that the report shows of a suite.
SAMPLES = 3


# ---------------------------------------------------------------- the stages


def _sampled_questions(cfg, suite):
    """Which questions a judged suite asks: the same of every model, and of every pair that is judged."""
    judge = cfg.find("suites", suite).judge
    return {
        "datasets": list(judge.datasets),
        "split": judge.split,
        "sample": judge.sample,
        "seed": derive_seed(cfg.seed, "judge", suite),
    }


def _answer_questions(cfg, suite, model):
    """How a model is asked the questions of a judged suite."""
    asking = cfg.find("suites", suite).judge.answers
    questions = _sampled_questions(cfg, suite)
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


def _criteria(judge):
    """Names of what a suite's judges score, beside `overall`."""
    if not judge.by_rubric:
        return list(judge.criteria)
    return [one["name"] for one in named_rubric(judge.by_rubric)["dimensions"]]


def _juror(cfg, suite, name=None):
    """One of a suite's judges, by the name of its endpoint; the one whose scores count without."""
    jurors = cfg.find("suites", suite).judge.jurors
    return next((juror for juror in jurors if juror.endpoint == name), jurors[0])


def _judge_answers(cfg, suite, measured, asked=None):
    """What a judge is shown, and what it is asked about it; `measured` is a model or a corpus."""
    judge, juror = cfg.find("suites", suite).judge, _juror(cfg, suite, asked)
    by_rubric = {}
    if judge.by_rubric:
        by_rubric = {"form": juror.form or judge.form or "json", "rubric": named_rubric(judge.by_rubric)}
    return by_rubric | {
        "suite": suite,
        "model": measured,
        "against": cfg.judged[suite, measured],
        "questions": _sampled_questions(cfg, suite),
        "criteria": _criteria(judge),
        "endpoint": endpoint_recipe(cfg, juror.endpoint),
        "prompt": load_template(judge.prompt),
        "decoding": decoding_recipe(judge.decoding),
        "repeats": {"questions": judge.repeats.questions, "times": judge.repeats.times},
        "version": judging.VERSION,
    }


def _score_judgements(cfg, suite, measured):
    """How the judgements of a model are scored; of the model that all others are compared with, the judgements of all
    others."""
    judge = cfg.find("suites", suite).judge
    reference = cfg.evaluation_of[suite, measured].reference
    return {
        "suite": suite,
        "model": measured,
        "against": cfg.judged[suite, measured],
        "datasets": list(judge.datasets),
        "criteria": _criteria(judge),
        "limit": cfg.limit,
        "reference": reference.model_dump() if reference else None,
        "seed": derive_seed(cfg.seed, "score_judgements", suite),
        "version": pairwise.VERSION,
    }


def _compare_judges(cfg, suite):
    """Whose judgements are compared, of whom."""
    pairs = _pairs_of(cfg, suite)
    return {
        "suite": suite,
        "judges": [juror.endpoint for juror in cfg.find("suites", suite).judge.jurors],
        "models": [model for _, model in pairs],
        "against": cfg.judged[pairs[0]],
        "datasets": list(cfg.find("suites", suite).judge.datasets),
        "split": cfg.find("suites", suite).judge.split,
        "seed": derive_seed(cfg.seed, "compare_judges", suite),
        "version": consensus.VERSION,
    }


def _judge(cfg, suite, _, asked=None):
    """The model that judges the answers of a suite, None where the judge is remote."""
    return cfg.find("endpoints", _juror(cfg, suite, asked).endpoint).serve


def judged_pairs(cfg: Experiment) -> list[tuple[str, str]]:
    """Return (suite, name) of every model or corpus that a judge sets against another."""
    return [pair for pair, against in cfg.judged.items() if pair[1] != against]


def _pairs_of(cfg, suite):
    return [pair for pair in judged_pairs(cfg) if pair[0] == suite]


def second_judges(cfg: Experiment) -> list[tuple[str, str, str]]:
    """Return (suite, name, endpoint) of every model or corpus that a further judge sets against another."""
    return [
        (*pair, juror.endpoint) for pair in judged_pairs(cfg) for juror in cfg.find("suites", pair[0]).judge.jurors[1:]
    ]


def _juries(cfg):
    """The suites of several judges, as names of jobs."""
    return [(suite,) for suite in dict.fromkeys(suite for suite, *_ in second_judges(cfg))]


def _questions(cfg, suite, *_):
    return {"datasets": [Ref("datasets", name) for name in cfg.find("suites", suite).judge.datasets]}


def _answers(cfg, suite, name):
    """What a judge is shown of a model or a corpus."""
    kind = "answers" if cfg.evaluation_of[suite, name].models else "corpora"
    return Ref(kind, f"{suite}/{name}" if kind == "answers" else name)


def _compared(cfg, suite, measured, asked=None):
    """The two files of answers that a judge compares, the questions, and the judge, if it is ours."""
    sides = (("ours", measured), ("theirs", cfg.judged[suite, measured]))
    found = {side: _answers(cfg, suite, name) for side, name in sides}
    judge = _judge(cfg, suite, measured, asked)
    return found | _questions(cfg, suite) | ({"served": Ref("models", judge)} if judge else {})


def _judgements(cfg, suite, measured):
    """The model's own judgements; of the model that all others are compared with, the judgements of all others."""
    pairs = _pairs_of(cfg, suite)
    mine = [pair for pair in pairs if pair[1] == measured] or pairs
    return {"judgements": [Ref("judgements", "/".join(pair)) for pair in mine]}


def _of_all_judges(cfg, suite):
    """What each judge of a suite said of each model, and what it was said of."""
    pairs = _pairs_of(cfg, suite)
    names = [*(model for _, model in pairs), cfg.judged[pairs[0]]]
    others = [one for one in second_judges(cfg) if one[0] == suite]
    return _questions(cfg, suite) | {
        "answers": [_answers(cfg, suite, name) for name in names],
        "judgements": [Ref("judgements", "/".join(pair)) for pair in pairs],
        "opinions": [Ref("opinions", "/".join(one)) for one in others],
    }


def _answering_load(cfg, suite, *_):
    judge = cfg.find("suites", suite).judge
    datasets = [cfg.find("datasets", one) for one in judge.datasets]
    return {"answer": judge.answers.decoding.max_tokens, "datasets": datasets}


def _judging_load(cfg, suite, *_):
    """A judge reads two answers."""
    load = _answering_load(cfg, suite)
    return load | {"answer": 2 * load["answer"] + cfg.find("suites", suite).judge.decoding.max_tokens}


def _asks(cfg, known, suite, measured, asked=None):
    """What a judge is asked; answers that are not written yet are counted with 0 to their max_tokens."""
    judge, recipe = cfg.find("suites", suite).judge, _judge_answers(cfg, suite, measured, asked)
    endpoints = {"endpoint": _juror(cfg, suite, asked).endpoint}
    rows = [known.questions(dataset, [judge.split]) for dataset in judge.datasets]
    if None in rows:
        return Asking(endpoints, recipe, None)
    questions = judging.drawn(recipe["questions"], [row for part in rows for row in part])
    low, high = known.assumed
    sides, lacking = [], {row["uid"] for row in questions} if high else set()
    for side in ("ours", "theirs"):
        reference = _compared(cfg, suite, measured)[side]
        rejected = known.rejected(reference)
        found = {
            row["uid"]: row
            for row in known.rows(reference) or ()
            if known.is_current(judge.datasets) or "question" in row
        }
        answers = judging.answers_of(found.values())
        missing = [
            row["uid"]
            for row in questions
            if row["uid"] not in rejected
            and (row["uid"] not in found or found[row["uid"]].get("question", row["question"]) != row["question"])
        ]
        sides.append(answers | {uid: ("", None) for uid in missing})
        if missing:
            name = reference.name.split("/")[-1]
            writing = judge.answers if reference.kind == "answers" else cfg.find("corpora", name)
            high += writing.decoding.max_tokens
            lacking |= set(missing)
            known.note(
                f"{len(missing)} answers of {name} are not written yet: counted with 0 to their max_tokens a request"
            )
    shown = judging.planned(recipe, questions, *sides)[0]
    plan = Plan([request for row, *_, request in shown if row["uid"] not in lacking], judge.decoding.max_tokens)
    guessed = tuple(request for row, *_, request in shown if row["uid"] in lacking)
    return Asking(endpoints, recipe, {"endpoint": plan}, guessed, (low, high))


def _answers_in_words(recipe, facts):
    return "", f"{facts['rows']:,} questions answered, temperature {recipe['decoding']['temperature']:g}"


def _judgements_in_words(recipe, facts):
    who = f"{recipe['model']} against {recipe['against']}"
    return "", f"{who}, judged by {author(recipe['endpoint'])}: {facts['rows']:,} judgements"


def _judging_stage(rule, makes, doing, names, *further):
    """Return a stage in which a judge compares answers: the suite's first one, or the one that a wildcard names."""
    return Stage(
        rule=rule,
        makes=makes,
        doing=doing,
        run="moult.evaluation.judging:run_judgements",
        wildcards=("suite", "measured", *further),
        names=names,
        recipe=_judge_answers,
        client=lambda cfg, suite, measured, asked=None: client_of(cfg, _juror(cfg, suite, asked).endpoint),
        inputs=_compared,
        model=_judge,
        needs="inference",
        workload=_judging_load,
        words=_judgements_in_words,
        asks=_asks,
    )


STAGES = (
    Stage(
        rule="answer_questions",
        makes="answers",
        doing="answering the questions of {suite} with {model}",
        run="moult.evaluation.judging:run_answers",
        wildcards=("suite", "model"),
        names=lambda cfg: cfg.answered,
        recipe=_answer_questions,
        inputs=lambda cfg, suite, model: {"model": Ref("models", model)} | _questions(cfg, suite),
        model=lambda cfg, suite, model: model,
        needs="inference",
        workload=_answering_load,
        words=_answers_in_words,
    ),
    _judging_stage("judge_answers", "judgements", "judging the answers of {measured} to {suite}", judged_pairs),
    _judging_stage(
        "judge_again", "opinions", "judging the answers of {measured} to {suite} by {judge}", second_judges, "judge"
    ),
    Stage(
        rule="compare_judges",
        makes="consensus",
        doing="comparing the judges of {suite}",
        run="moult.evaluation.consensus:run",
        wildcards=("suite",),
        names=_juries,
        recipe=_compare_judges,
        inputs=_of_all_judges,
        words=lambda recipe, facts: ("", f"how {' and '.join(recipe['judges'])} agree on the same answers"),
    ),
    Stage(
        rule="score_judgements",
        makes="scores",
        doing="scoring the judgements of {measured} under {suite}",
        run="moult.evaluation.pairwise:run",
        wildcards=("suite", "measured"),
        names=lambda cfg: list(cfg.judged),
        recipe=_score_judgements,
        inputs=_judgements,
        words=lambda *_: ("", "metrics of those judgements, with intervals"),
    ),
)


# ---------------------------------------------------------------- the kind


def _checks(cfg):
    """Yield a sentence for every evaluation that asks of a judge what it cannot do."""
    against = {}
    for entry in cfg.evaluations:
        judge, place = cfg.find("suites", entry.suite).judge, f"evaluations {entry.suite!r}"
        if not judge:
            continue
        if bool(entry.models) == bool(entry.corpora):
            yield f"{place}: a judge compares either `models` or `corpora`; write one of the two"
        field = "models" if entry.models else "corpora"
        beside = [name for other in cfg.evaluations if other.suite == entry.suite for name in getattr(other, field)]
        if len(entry.against) != 1 or entry.against[0] not in beside or entry.against == entry.measured:
            yield f"{place}, against: a judge compares; name two {field}, and one of them here"
        if against.setdefault(entry.suite, entry.against) != entry.against:
            yield f"{place}, against: is {against[entry.suite]} in one evaluation and {entry.against} in another"
        for name in entry.corpora:
            if cfg.corpus_dataset(name).name not in judge.datasets:
                yield f"{place}, corpora: {name!r} answers other questions than those of the suite's datasets"


def _compares(one):
    """Return whether a manifest of judgements is of models or of corpora."""
    return "corpora" if any(parent.startswith("corpora/") for parent in one["parents"]) else "models"


def _subjects(one):
    return [f"{_compares(one)}/{one['recipe'][side]}" for side in ("model", "against")]


def _summary(judgements):
    recipe = judgements[-1]["recipe"]
    judged = f"judged by {author(recipe['endpoint'])}"
    return judged, f"{', '.join(recipe['criteria'])}, {judged}"


def _samples(judgements, root):
    """Return whether a suite compares models or corpora, and its first judgements that could be read."""
    rows = [row for one in judgements for row in read_jsonl(root / f"{one['key']}.jsonl") if row["status"] == "ok"]
    compares = {_compares(one) for one in judgements}
    return {"compares": "corpora" if "corpora" in compares else "models", "samples": rows[:SAMPLES]}


JUDGE = SuiteKind(
    key="judge",
    fields=JudgeSuite,
    title="judge",
    shape="questions",
    carved=("test", "dev"),
    measures=("models", "corpora"),
    refusal="a judge compares models, or corpora; a setting has one model per dataset",
    published=("meteor",),
    methods={pairwise.METHOD: "judged in pairs"},
    headline=pairwise.HEADLINE,
    baseline=pairwise.BASELINE,
    differences=pairwise.differences,
    measurement="judgements",
    stages=STAGES,
    subjects=_subjects,
    summary=_summary,
    tables=pairwise.suite_tables,
    section=("judged", "Judged answers"),
    template="judged.html.j2",
    rejecting=("answers", "judgements", "opinions"),
    paid={"judgements": "judging", "opinions": "judging"},
    of_suite="consensus",
    checks=_checks,
    panels=pairwise.panels,
    samples=_samples,
)
