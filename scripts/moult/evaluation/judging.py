"""Judging: models answer questions, a judge compares the answers in pairs, each pair in both orders."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import derive_seed, digest, read_jsonl, write_json, write_jsonl
from moult.base.rows import Question, Recipe, StoredAnswer, Usage
from moult.base.stage import Job
from moult.base.suite_rows import JudgeAnswer, Judgement
from moult.data.prompts import as_material, render
from moult.data.questions import question_rows
from moult.inference.asking import Asker, asker_of
from moult.inference.judge_replies import read_pair
from moult.inference.judge_requests import JUSTIFICATION, pair_schema, question_request
from moult.inference.remote.wire import OFF_FORM
from moult.inference.requests import ChatRequest, Sampling, author, corpus_requests

# Raise when the same recipe would now ask something else, or read the same reply otherwise.
VERSION = 1
ORDERS = ("original", "swapped")
logger = logging.getLogger(__name__)
# uid → (answer, None) or (None, why there is none).
Answers = Mapping[str, tuple[str | None, str | None]]


def sampled_questions(recipe: Recipe, folders: Mapping[str, str | Path]) -> list[Question]:
    """Return the questions of a judged suite, in the order of its datasets (see `data.questions.question_rows`).

    recipe: datasets, split, sample (None: all), seed. folders: a prepared dataset's per name. Which questions are drawn
    depends on the seed and their uids alone: a new row displaces at most one question.
    """
    rows = [row for name in recipe["datasets"] for row in question_rows(folders[name], [recipe["split"]])]
    if not rows:
        raise UserError(f"{', '.join(recipe['datasets'])}: there is no question in the split {recipe['split']}.")
    return drawn(recipe, rows)


def drawn(recipe: Recipe, rows: Sequence[Question]) -> list[Question]:
    """Return the sample of question rows that a judged suite asks, in their order; see `sampled_questions`."""
    first = sorted(rows, key=lambda row: digest([recipe["seed"], row["uid"]]))[: recipe["sample"]]
    chosen = {row["uid"] for row in first}
    return [row for row in rows if row["uid"] in chosen]


def answer_requests(recipe: Recipe, rows: Sequence[Question]) -> list[ChatRequest]:
    """Return the requests to a model, one per question."""
    requests = []
    for row in rows:
        asked = {"prompt": recipe["prompts"][row["dataset"]], "decoding": recipe["decoding"]}
        requests += corpus_requests(asked | {"seed": recipe["questions"]["seed"]}, [row])
    return requests


def answer_questions(recipe: Recipe, folders: Mapping[str, str | Path], asker: Asker) -> list[JudgeAnswer]:
    """Return the answers of one model to the questions of a suite: a row per question, failed ones with a reason.

    folders: a prepared dataset's per name. A row has uid, dataset, model, status (ok, or error: nothing to be judged),
    answer, finish_reason and reason.
    """
    rows = sampled_questions(recipe["questions"], folders)
    values = asker.ask(answer_requests(recipe, rows))
    answers: list[JudgeAnswer] = []
    for row, value in zip(rows, values, strict=True):
        reason = value["error"] or (None if value["text"] else "empty answer")
        answers.append(
            {
                "uid": row["uid"],
                "dataset": row["dataset"],
                "model": recipe["model"],
                "status": "error" if reason else "ok",
                "answer": value["text"],
                "finish_reason": value["finish_reason"],
                "reason": reason,
            }
        )
    logger.info("%d questions, %d answers", len(rows), sum(row["status"] == "ok" for row in answers))
    return answers


# ---------------------------------------------------------------- what the judge is asked


def pair_request(recipe: Recipe, row: Question, shown: Sequence[str], repeat: int = 0) -> ChatRequest:
    """Return the request that shows the judge a question and two answers, in the order of `shown`: by the criteria of
    the recipe, or by its rubric and in its form, where it has one."""
    served = "serve" in recipe["endpoint"]
    if "rubric" in recipe:
        seed = (recipe["questions"]["seed"], repeat)
        return question_request(recipe, recipe["prompt"], row, shown, served, seed)
    texts = {"title": row["title"] or "", "question": row["question"], "answer_1": shown[0], "answer_2": shown[1]}
    fields = as_material(texts) | {"field": row["field"], "criteria": recipe["criteria"]}
    messages = render(recipe["prompt"], **fields)
    return ChatRequest(
        tuple(messages),
        Sampling(**recipe["decoding"]),
        seed=derive_seed(recipe["questions"]["seed"], messages, repeat),
        schema=pair_schema(recipe["criteria"], JUSTIFICATION if served else None),
    )


def answers_of(rows: Iterable[Any]) -> Answers:
    """Return {uid: (answer, None) or (None, why there is none)} of the rows of an answers file, or of a corpus."""
    return {
        row["uid"]: (None, row["reason"]) if row.get("status", "ok") != "ok" else (row["answer"], None) for row in rows
    }


def planned(
    recipe: Recipe, questions: Sequence[Question], ours: Answers, theirs: Answers
) -> tuple[list[tuple[Question, str, int, ChatRequest]], list[tuple[Question, str]]]:
    """Return (asked, unanswered): (question, order, repeat, request) of each judgement, and (question, reason).

    ours, theirs: uid → (answer, None) or (None, reason), as of `answers_of`. A pair that lacks an answer is not judged.
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
            pair: Any = tuple(sides.values())
            asked += [(row, "original", 0, pair_request(recipe, row, pair))]
            asked += [(row, "swapped", 0, pair_request(recipe, row, pair[::-1]))]
            if repeated < recipe["repeats"]["questions"]:
                repeated += 1
                again = range(1, recipe["repeats"]["times"] + 1)
                asked += [(row, "original", time, pair_request(recipe, row, pair, time)) for time in again]
    return asked, unanswered


# ---------------------------------------------------------------- what the judge says


def judge_answers(
    recipe: Recipe, questions: Sequence[Question], ours: Answers, theirs: Answers, asker: Asker
) -> tuple[list[Judgement], Usage]:
    """Return (judgements, usage): what the judge says of each pair, in both orders, and again on a sample.

    recipe: model (A), against (B), criteria, endpoint, prompt, decoding, questions, repeats, and form and rubric where
    the judge is asked by a rubric. ours, theirs: see `planned`. asker: the judge. Rows are those of `judgement`; a pair
    without an answer is one row.
    """
    asked, unanswered = planned(recipe, questions, ours, theirs)
    values = asker.ask([request for *_, request in asked])
    rows = [
        judgement(recipe, row, order, repeat, value)
        for (row, order, repeat, _), value in zip(asked, values, strict=True)
    ]
    nothing = {"order": None, "repeat": 0, "status": "unanswered", "scores": None, "winner": None}
    rows += [_place(recipe, row) | nothing | {"justification": None, "raw": reason} for row, reason in unanswered]
    counts = Counter(row["status"] for row in rows)
    logger.info("%d questions, judgements: %s", len(questions), dict(counts))
    return rows, asker.usage()


def judgement(recipe: Recipe, row: Question, order: str, repeat: int, value: StoredAnswer) -> Judgement:
    """Return one judgement in the pair's original order: A is the model, B is `against`.

    Here, and nowhere else, a swapped reply is turned back. recipe: model, against, endpoint, criteria, and `form` where
    the reply was not asked for as JSON. status: ok; unknown, where the reply has not the form that was asked for;
    error, where there is no reply. Only ok has a winner, A, B or Tie, and, as far as the form has them, scores (A and B
    → criterion → 1 to 10).
    """
    said: dict[str, Any] = {"status": "error", "scores": None, "winner": None, "justification": None}
    if value["finish_reason"] != "error":
        found = read_pair(recipe.get("form", "json"), value["text"], recipe["criteria"])
        said["status"] = "ok" if found else "unknown"
        if found:
            shown = dict(zip(("first", "second"), "AB" if order == "original" else "BA", strict=True))
            scores = {side: found[place] for place, side in shown.items()}
            said["scores"] = {side: scores[side] for side in "AB"} if None not in scores.values() else None
            said |= {"winner": (shown | {"Tie": "Tie"})[found["winner"]], "justification": found["feedback"]}
    elif (value["error"] or "").startswith(OFF_FORM):
        said["status"] = "unknown"
    return _place(recipe, row) | {"order": order, "repeat": repeat} | said | {"raw": value["text"] or value["error"]}


def _place(recipe, row):
    who = {"model": recipe["model"], "against": recipe["against"], "judge": author(recipe["endpoint"])}
    return {"uid": row["uid"], "dataset": row["dataset"]} | who


def run_answers(job: Job) -> None:
    """Do the job of answer_questions."""
    folders = dict(zip(job.recipe["questions"]["datasets"], job.inputs.datasets, strict=True))
    with asker_of(job, job.inputs, "model") as asker:
        rows = answer_questions(job.recipe, folders, asker)
    write_jsonl(job.outputs.answers, rows)
    job.facts = {"rows": len(rows), "failed": sum(row["status"] != "ok" for row in rows)}


def run_judgements(job: Job) -> None:
    """Do the job of judge_answers."""
    recipe, inputs = job.recipe, job.inputs
    folders = dict(zip(recipe["questions"]["datasets"], inputs.datasets, strict=True))
    questions = sampled_questions(recipe["questions"], folders)
    with asker_of(job, inputs) as asker:
        ours, theirs = (answers_of(read_jsonl(path)) for path in (inputs.ours, inputs.theirs))
        rows, usage = judge_answers(recipe, questions, ours, theirs, asker)
    write_json(job.outputs.usage, usage)
    write_jsonl(job.outputs.judgements, rows)
    job.facts = {"rows": len(rows), "status": dict(sorted(Counter(row["status"] for row in rows).items()))}
