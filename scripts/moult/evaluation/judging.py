"""Judging: models answer questions, a judge compares the answers in pairs, each pair in both orders."""

import logging
from collections import Counter
from typing import Annotated

from pydantic import Field, model_validator

from moult.base.errors import UserError
from moult.base.files import derive_seed, digest, read_jsonl
from moult.base.section import Section
from moult.data.fields import Decoding, Prompt, Split
from moult.data.prompts import as_material, render
from moult.data.questions import question_rows
from moult.evaluation import pairwise
from moult.evaluation.kinds import SuiteKind
from moult.inference.asking import ask_all, open_endpoint
from moult.inference.journal import Journal
from moult.inference.remote.wire import OFF_FORM
from moult.inference.requests import ChatRequest, Sampling, corpus_requests
from moult.inference.spending import usage_of
from moult.inference.structured import parse_pair

# Raise when the same recipe would now ask something else, or read the same reply otherwise.
VERSION = 1
ORDERS = ("original", "swapped")
# Longer justifications are cut short by the schema, where the model is ours: a weak one may never end.
JUSTIFICATION = 240
# Judgements that the report shows of a suite.
SAMPLES = 3
logger = logging.getLogger(__name__)


class Answering(Section):
    """How the models of a judged evaluation are asked; the defaults are METEOR's."""

    prompt: Prompt | None = Field(None, description="Default: the dataset's, so that it is the one of training.")
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.9, max_tokens=1024)


class Repeats(Section):
    """Pairs that the judge is shown again, each time with another seed: does it say the same?"""

    questions: int = Field(20, ge=0, description="At most so many of them; 0: none.")
    times: int = Field(1, ge=1)


class JudgeSuite(Section):
    """Answers to questions, compared in pairs by a judge that sees each pair in both orders."""

    datasets: list[str] = Field(min_length=1, description="Of format stackoverflow: their questions.")
    split: Split = "test"
    sample: int | None = Field(100, ge=1, description="At most so many questions, drawn with the seed; null: all.")
    criteria: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]] = Field(
        ["accuracy", "completeness", "relevance", "coherence", "reliability"],
        min_length=1,
        description="Scored from 1 to 10, and `overall` beside them.",
    )
    answers: Answering = Answering()
    endpoint: str = Field(description="The judge.")
    prompt: Prompt = "judge/pair"
    decoding: Decoding = Decoding(max_tokens=1500)
    repeats: Repeats = Repeats()

    @model_validator(mode="after")
    def criteria_are_distinct(self):
        if "overall" in self.criteria:
            raise ValueError("criteria: `overall` is asked for anyway; leave it out")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: one stands twice")
        return self


def sampled_questions(recipe, folders):
    """Return the questions of a judged suite, in the order of its datasets (see `corpora.question_rows`).

    recipe: datasets, split, sample (None: all), seed. folders: a prepared dataset's per name. Which are drawn depends
    on the seed and their names alone: a new row takes the place of one at the most.
    """
    rows = [row for name in recipe["datasets"] for row in question_rows(folders[name], [recipe["split"]])]
    if not rows:
        raise UserError(f"{', '.join(recipe['datasets'])}: there is no question in the split {recipe['split']}.")
    return drawn(recipe, rows)


def drawn(recipe, rows):
    """Return the sample of question rows that a judged suite asks, in their order; see `sampled_questions`."""
    first = sorted(rows, key=lambda row: digest([recipe["seed"], row["uid"]]))[: recipe["sample"]]
    chosen = {row["uid"] for row in first}
    return [row for row in rows if row["uid"] in chosen]


def answer_requests(recipe, rows):
    """Return what a model is asked, a request per question."""
    requests = []
    for row in rows:
        asked = {"prompt": recipe["prompts"][row["dataset"]], "decoding": recipe["decoding"]}
        requests += corpus_requests(asked | {"seed": recipe["questions"]["seed"]}, [row])
    return requests


def answer_questions(recipe, folders, model, model_manifest, journal):
    """Return the answers of one model to the questions of a suite: a row per question, failed ones with a reason.

    A row has uid, dataset, model, status (ok, or error: nothing to be judged), answer, finish_reason and reason.
    """
    rows = sampled_questions(recipe["questions"], folders)
    endpoint = {"name": recipe["model"], "serve": recipe["model"], "compute": recipe["compute"]}
    with Journal(journal) as kept:
        identity, opener = open_endpoint(endpoint, None, model, model_manifest, kept)
        values = ask_all(answer_requests(recipe, rows), identity=identity, open_answerer=opener, journal=kept)
    answers = []
    for row, value in zip(rows, values, strict=True):
        reason = value["error"] or (None if value["text"] else "empty answer")
        place = {"uid": row["uid"], "dataset": row["dataset"], "model": recipe["model"]}
        answers.append(
            place
            | {"status": "error" if reason else "ok", "answer": value["text"]}
            | {"finish_reason": value["finish_reason"], "reason": reason}
        )
    logger.info("%d questions, %d answers", len(rows), sum(row["status"] == "ok" for row in answers))
    return answers


# ---------------------------------------------------------------- what the judge is asked


def pair_schema(criteria, longest=None):
    """Return the JSON schema of a reply: a justification, then for each answer an integer from 1 to 10 per criterion
    and overall. longest: characters of the justification; None for remote models, of which not all take a limit.
    """
    score = {"type": "integer", "enum": list(range(1, 11))}
    text = {"type": "string"} | ({"maxLength": longest} if longest else {})
    scores = _closed({name: score for name in (*criteria, "overall")})
    return _closed({"justification": text, "answer_1": scores, "answer_2": scores})


def _closed(properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def pair_request(recipe, row, shown, repeat=0):
    """Return the request that shows the judge a question and two answers, in the order of `shown`."""
    texts = {"title": row["title"] or "", "question": row["question"], "answer_1": shown[0], "answer_2": shown[1]}
    fields = as_material(texts) | {"field": row["field"], "criteria": recipe["criteria"]}
    messages = render(recipe["prompt"], **fields)
    longest = JUSTIFICATION if "serve" in recipe["endpoint"] else None
    return ChatRequest(
        tuple(messages),
        Sampling(**recipe["decoding"]),
        seed=derive_seed(recipe["questions"]["seed"], messages, repeat),
        schema=pair_schema(recipe["criteria"], longest),
    )


def answers_in(path):
    """Return {uid: (answer, None) or (None, why there is none)} of an answers file, or of a corpus."""
    return {
        row["uid"]: (None, row["reason"]) if row.get("status", "ok") != "ok" else (row["answer"], None)
        for row in read_jsonl(path)
    }


def planned(recipe, questions, ours, theirs):
    """Return (asked, unanswered): (question, order, repeat, request) of each judgement, and (question, reason).

    ours, theirs: uid → (answer, None) or (None, reason), as of `answers_in`. A pair that lacks an answer is not judged.
    """
    asked, unanswered, repeated = [], [], 0
    for row in questions:
        sides = {}
        for name, answers in ((recipe["model"], ours), (recipe["against"], theirs)):
            text, reason = answers.get(row["uid"], (None, "no answer in the corpus"))
            sides[name] = text
            if reason:
                unanswered.append((row, f"{name}: {reason}"))
                break
        else:
            pair = tuple(sides.values())
            asked += [(row, "original", 0, pair_request(recipe, row, pair))]
            asked += [(row, "swapped", 0, pair_request(recipe, row, pair[::-1]))]
            if repeated < recipe["repeats"]["questions"]:
                repeated += 1
                again = range(1, recipe["repeats"]["times"] + 1)
                asked += [(row, "original", time, pair_request(recipe, row, pair, time)) for time in again]
    return asked, unanswered


# ---------------------------------------------------------------- what the judge says


def judge_answers(recipe, questions, ours, theirs, *, client=None, journal, judge=None, judge_manifest=None):
    """Return (judgements, usage): what the judge says of each pair, in both orders, and again on a sample.

    recipe: model (A), against (B), criteria, endpoint, prompt, decoding, questions, repeats, version. ours, theirs: see
    `planned`. judge: the folder of a served judge. Rows are those of `judgement`; a pair without an answer is one row.
    """
    asked, unanswered = planned(recipe, questions, ours, theirs)
    values = []
    if asked:
        with Journal(journal) as kept:
            identity, opener = open_endpoint(recipe["endpoint"], client, judge, judge_manifest, kept)
            requests = [request for *_, request in asked]
            values = ask_all(requests, identity=identity, open_answerer=opener, journal=kept)
    rows = [
        judgement(recipe, row, order, repeat, value)
        for (row, order, repeat, _), value in zip(asked, values, strict=True)
    ]
    nothing = {"order": None, "repeat": 0, "status": "unanswered", "scores": None, "winner": None}
    rows += [_place(recipe, row) | nothing | {"justification": None, "raw": reason} for row, reason in unanswered]
    counts = Counter(row["status"] for row in rows)
    logger.info("%d questions, judgements: %s", len(questions), dict(counts))
    return rows, usage_of(values, recipe["endpoint"] | (client or {}))


def judgement(recipe, row, order, repeat, value):
    """Return one judgement, everything in the item's original order: A is the model, B is `against`.

    Here, and nowhere else, a swapped reply is turned back. status: ok; unknown, where the reply has not the form that
    was asked for; error, where there is no reply. Only ok has scores (A and B → criterion → 1 to 10) and a winner, A, B
    or Tie, by the overall scores.
    """
    scores, justification, winner = None, None, None
    if value["finish_reason"] == "error":
        status = "unknown" if value["error"].startswith(OFF_FORM) else "error"
    else:
        found = parse_pair(value["text"], (*recipe["criteria"], "overall"))
        status = "ok" if found else "unknown"
        if found:
            first, second = ("A", "B") if order == "original" else ("B", "A")
            scores = {first: found["answer_1"], second: found["answer_2"]}
            scores = {side: scores[side] for side in "AB"}
            ours, theirs = scores["A"]["overall"], scores["B"]["overall"]
            winner = "Tie" if ours == theirs else "A" if ours > theirs else "B"
            justification = found["justification"]
    said = {"status": status, "scores": scores, "winner": winner, "justification": justification}
    return _place(recipe, row) | {"order": order, "repeat": repeat} | said | {"raw": value["text"] or value["error"]}


def _place(recipe, row):
    who = {"model": recipe["model"], "against": recipe["against"], "judge": _judge_of(recipe)}
    return {"uid": row["uid"], "dataset": row["dataset"]} | who


def _judge_of(recipe):
    return recipe["endpoint"].get("model") or recipe["endpoint"]["serve"]


# ---------------------------------------------------------------- the kind of suite


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
    return f"judged by {_judge_of(recipe)}", f"{', '.join(recipe['criteria'])}, judged by {_judge_of(recipe)}"


def _samples(judgements, root):
    """Return whether a suite compares models or corpora, and its first judgements that could be read."""
    rows = [row for one in judgements for row in read_jsonl(root / f"{one['key']}.jsonl") if row["status"] == "ok"]
    compares = {_compares(one) for one in judgements}
    return {"compares": "corpora" if "corpora" in compares else "models", "samples": rows[:SAMPLES]}


def _answered(recipe, facts):
    return f"{facts['rows']:,} questions answered, temperature {recipe['decoding']['temperature']:g}"


def _judged(recipe, facts):
    who = f"{recipe['model']} against {recipe['against']}"
    return f"{who}, judged by {_judge_of(recipe)}: {facts['rows']:,} judgements"


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
    words={
        "answer_questions": _answered,
        "judge_answers": _judged,
        "score_judgements": lambda recipe, facts: "metrics of those judgements, with intervals",
    },
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
