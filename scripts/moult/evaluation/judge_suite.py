"""The kind of suite in which a judge compares answers in pairs: its config, its stages, and how it is shown."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from moult.base.files import derive_seed, read_jsonl
from moult.base.section import Section
from moult.base.stage import Experiment, Ref, Stage
from moult.data.fields import Decoding, Prompt, Split
from moult.data.prompts import load_template
from moult.evaluation import judging, pairwise
from moult.evaluation.kinds import Settings, SuiteKind
from moult.inference.plans import Asking, Plan
from moult.inference.recipes import client_of, compute_recipe, decoding_recipe, endpoint_recipe
from moult.inference.requests import author

# Judgements that the report shows of a suite.
SAMPLES = 3


class Answering(Section):
    """How the models of a judged evaluation are asked; the defaults are METEOR's."""

    prompt: Prompt | None = Field(
        None, description="Template of resources/prompts for the questions; null: the one that the dataset trains with."
    )
    decoding: Decoding = Field(
        Decoding(temperature=0.7, top_p=0.9, max_tokens=1024), description="How the models' answers are decoded."
    )


class Repeats(Section):
    """Pairs that the judge is shown again, each time with another seed, to measure how far it agrees with itself."""

    questions: int = Field(
        20, ge=0, description="Largest number of questions whose pairs the judge is shown again; 0: none."
    )
    times: int = Field(1, ge=1, description="How often each of these pairs is shown again.")


class JudgeSuite(Settings):
    """Answers to questions, compared in pairs by a judge that sees each pair in both orders."""

    shown: ClassVar = {"prompt": ("answer_1", "answer_2", "fence", "criteria")}

    datasets: list[str] = Field(min_length=1, description="Datasets whose rows are questions.")
    split: Split = Field("test", description="Split whose questions are asked.")
    sample: int | None = Field(
        100, ge=1, description="Largest number of questions, drawn with the experiment's seed; null: all."
    )
    criteria: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]] = Field(
        ["accuracy", "completeness", "relevance", "coherence", "reliability"],
        min_length=1,
        description="Criteria that the judge scores from 1 to 10; `overall` is always scored too.",
    )
    answers: Answering = Field(Answering(), description="How the compared models answer the questions.")
    endpoint: str = Field(description="Endpoint that judges.")
    prompt: Prompt = Field(
        "judge/pair", description="Template of resources/prompts that asks the judge to compare two answers."
    )
    decoding: Decoding = Field(Decoding(max_tokens=1500), description="How the judge's reply is decoded.")
    repeats: Repeats = Field(
        Repeats(), description="Which pairs the judge is shown again, to measure how far it agrees with itself."
    )

    @model_validator(mode="after")
    def criteria_are_distinct(self) -> Self:
        if "overall" in self.criteria:
            raise ValueError("criteria: `overall` is asked for anyway; leave it out")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: one stands twice")
        return self

    @property
    def endpoints(self) -> dict[str, str]:
        return {"endpoint": self.endpoint}


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


def _judge_answers(cfg, suite, measured):
    """What the judge is shown, and what it is asked about it; `measured` is a model or a corpus."""
    judge = cfg.find("suites", suite).judge
    return {
        "suite": suite,
        "model": measured,
        "against": cfg.judged[suite, measured],
        "questions": _sampled_questions(cfg, suite),
        "criteria": list(judge.criteria),
        "endpoint": endpoint_recipe(cfg, judge.endpoint),
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
        "criteria": list(judge.criteria),
        "limit": cfg.limit,
        "reference": reference.model_dump() if reference else None,
        "seed": derive_seed(cfg.seed, "score_judgements", suite),
        "version": pairwise.VERSION,
    }


def _judge(cfg, suite, *_):
    """The model that judges the answers of a suite, None where the judge is remote."""
    return cfg.find("endpoints", cfg.find("suites", suite).judge.endpoint).serve


def judged_pairs(cfg: Experiment) -> list[tuple[str, str]]:
    """Return (suite, name) of every model or corpus that a judge sets against another."""
    return [pair for pair, against in cfg.judged.items() if pair[1] != against]


def _questions(cfg, suite, *_):
    return {"datasets": [Ref("datasets", name) for name in cfg.find("suites", suite).judge.datasets]}


def _compared(cfg, suite, measured):
    """The two files of answers that a judge compares, the questions, and the judge, if it is ours."""
    kind = "answers" if cfg.evaluation_of[suite, measured].models else "corpora"
    found = {}
    for side, name in (("ours", measured), ("theirs", cfg.judged[suite, measured])):
        found[side] = Ref(kind, f"{suite}/{name}" if kind == "answers" else name)
    judge = _judge(cfg, suite)
    return found | _questions(cfg, suite) | ({"served": Ref("models", judge)} if judge else {})


def _judgements(cfg, suite, measured):
    """The model's own judgements; of the model that all others are compared with, the judgements of all others."""
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


def _asks(cfg, known, suite, measured):
    """What the judge asks; answers that are not written yet are counted with 0 to their max_tokens."""
    judge, recipe = cfg.find("suites", suite).judge, _judge_answers(cfg, suite, measured)
    rows = [known.questions(dataset, [judge.split]) for dataset in judge.datasets]
    if None in rows:
        return Asking(judge.endpoints, recipe, None)
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
            asked = judge.answers if reference.kind == "answers" else cfg.find("corpora", name)
            high += asked.decoding.max_tokens
            lacking |= set(missing)
            known.note(
                f"{len(missing)} answers of {name} are not written yet: counted with 0 to their max_tokens a request"
            )
    asked = judging.planned(recipe, questions, *sides)[0]
    plan = Plan([request for row, *_, request in asked if row["uid"] not in lacking], judge.decoding.max_tokens)
    guessed = tuple(request for row, *_, request in asked if row["uid"] in lacking)
    return Asking(judge.endpoints, recipe, {"endpoint": plan}, guessed, (low, high))


def _answers_in_words(recipe, facts):
    return "", f"{facts['rows']:,} questions answered, temperature {recipe['decoding']['temperature']:g}"


def _judgements_in_words(recipe, facts):
    who = f"{recipe['model']} against {recipe['against']}"
    return "", f"{who}, judged by {author(recipe['endpoint'])}: {facts['rows']:,} judgements"


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
    Stage(
        rule="judge_answers",
        makes="judgements",
        doing="judging the answers of {measured} to {suite}",
        run="moult.evaluation.judging:run_judgements",
        wildcards=("suite", "measured"),
        names=judged_pairs,
        recipe=_judge_answers,
        client=lambda cfg, suite, measured: client_of(cfg, cfg.find("suites", suite).judge.endpoint),
        inputs=_compared,
        model=_judge,
        needs="inference",
        workload=_judging_load,
        words=_judgements_in_words,
        asks=_asks,
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
    rejecting=("answers", "judgements"),
    paid={"judgements": "judging"},
    checks=_checks,
    panels=pairwise.panels,
    samples=_samples,
)
