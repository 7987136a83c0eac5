"""Battles: models answer the turns of questions, and a judge says what their answers are worth."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moult.base.errors import UserError
from moult.base.files import derive_seed, write_json, write_jsonl
from moult.base.rows import Message, Recipe, Usage, columns_of
from moult.base.stage import Job
from moult.base.suite_rows import Battle, Turns
from moult.evaluation.head_to_head.benchmarks import BENCHMARKS
from moult.evaluation.head_to_head.kind import Benchmark, Shown
from moult.evaluation.head_to_head.public_files import Question, read_answers, read_questions, rows_of
from moult.evaluation.head_to_head.published_judgements import read_judgements
from moult.inference.asking import Asker, asker_of
from moult.inference.requests import ChatRequest, Sampling, author
from moult.inference.spending import summed_usage

# Raise when the same recipe would now ask something else, or read the same reply otherwise.
VERSION = 1
# Who says what files say.
FILES = {"name": "files", "model": "files"}
# Input of a job → what a suite's file of that name has.
WORDS = {"questions": "questions", "theirs": "baseline's answers", "references": "reference answers"}
logger = logging.getLogger(__name__)
# Question → (the texts of its turns, None) or (None, why there are none).
Answers = Mapping[str, tuple[tuple[str, ...] | None, str | None]]


def questions_of(recipe: Recipe, path: str | Path) -> list[Question]:
    """Return the questions that a suite asks. recipe: kind, limit (of a smoke run, or None)."""
    return read_questions(path, BENCHMARKS[recipe["kind"]].turns)[: recipe["limit"]]


# ---------------------------------------------------------------- answers


def turn_request(recipe: Recipe, question: Question, said: Sequence[str]) -> ChatRequest:
    """Return the request for the next turn of a question. said: the model's answers to the turns before.

    recipe: decoding, temperatures (category → temperature), seed.
    """
    messages: list[Message] = []
    for turn, text in enumerate(question.turns[: len(said) + 1]):
        messages.append({"role": "user", "content": text})
        if turn < len(said):
            messages.append({"role": "assistant", "content": said[turn]})
    decoding = recipe["decoding"]
    if question.part in recipe["temperatures"]:
        decoding = decoding | {"temperature": recipe["temperatures"][question.part]}
    seed = derive_seed(recipe["seed"], cast(Any, messages))
    return ChatRequest(tuple(messages), Sampling(**decoding), seed=seed)


def answer_turns(recipe: Recipe, questions: Sequence[Question], asker: Asker) -> list[Turns]:
    """Return a model's answers: a row per question, each turn asked with the answers to those before it.

    recipe: model, and what `turn_request` takes.
    """
    said: dict[str, list[str]] = {question.uid: [] for question in questions}
    reasons: dict[str, str] = {}
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        going = [one for one in questions if len(one.turns) > turn and one.uid not in reasons]
        values = asker.ask([turn_request(recipe, question, said[question.uid]) for question in going])
        for question, value in zip(going, values, strict=True):
            said[question.uid].append(value["text"])
            if reason := value["error"] or (None if value["text"] else "empty answer"):
                reasons[question.uid] = f"turn {turn + 1}: {reason}"
    rows: list[Turns] = []
    for question in questions:
        reason = reasons.get(question.uid)
        place: Any = {"uid": question.uid, "model": recipe["model"], "status": "error" if reason else "ok"}
        rows.append(place | {"turns": said[question.uid], "reason": reason})
    return rows


def answers_in(path: str | Path, questions: Sequence[Question]) -> Answers:
    """Return the answers of a file: rows of `turns/`, of this build or another, or those of a published form."""
    rows = rows_of(path)
    if rows and isinstance(rows[0], dict) and list(rows[0]) == columns_of(Turns):
        return {row["uid"]: (tuple(row["turns"]), row["reason"]) for row in rows}
    return {uid: (texts, None) for uid, texts in read_answers(path, questions).items()}


def baselines_of(questions: Iterable[Question]) -> Answers:
    """Return the answers that the questions come with."""
    return {one.uid: ((one.baseline,), None) for one in questions if one.baseline is not None}


# ---------------------------------------------------------------- battles


def planned(
    recipe: Recipe, questions: Sequence[Question], ours: Answers, theirs: Answers, references: Answers
) -> tuple[list[Shown], list[tuple[Question, str]]]:
    """Return (what the judge is shown, (question, reason) of those that are not judged).

    recipe: kind, model, baseline, and what the kind's own `recipe` has. theirs: the baseline's, of kinds that compare.
    """
    benchmark, shown, unanswered = BENCHMARKS[recipe["kind"]], [], []
    sides = [(recipe["model"], ours)] + ([(recipe["baseline"], theirs)] if benchmark.pairs else [])
    for question in questions:
        texts = []
        for name, answers in sides:
            said, reason = answers.get(question.uid, (None, "no answer"))
            if not reason and said is not None and len(said) < len(question.turns):
                reason = f"{len(said)} answers to {len(question.turns)} turns"
            if reason or said is None:
                unanswered.append((question, f"{name}: {reason}"))
                break
            texts.append(said)
        else:
            known = references.get(question.uid, (question.references, None))[0] or ()
            shown += benchmark.shown(recipe, question, texts[0], texts[-1], known)
    return shown, unanswered


def judge_battles(
    recipe: Recipe, questions: Sequence[Question], ours: Answers, theirs: Answers, references: Answers, asker: Asker
) -> tuple[list[Battle], Usage]:
    """Return (battles, usage): what the judge says of each answer; see `planned`."""
    benchmark = BENCHMARKS[recipe["kind"]]
    everything, unanswered = planned(recipe, questions, ours, theirs, references)
    values = benchmark.ask(recipe, everything, asker)
    rows = []
    for shown, value in zip(everything, values, strict=True):
        lengths = [len(text) for text in shown.answers[:: -1 if shown.game == "swapped" else 1]]
        said = benchmark.read(shown, value) | {"game": shown.game}
        rows.append(_row(recipe, shown.question, said | {"lengths": lengths if benchmark.pairs else lengths[-1:]}))
    nothing = {"game": "none", "status": "unanswered", "value": None, "weight": 1.0, "lengths": None, "raw": None}
    rows += [_row(recipe, question, nothing | {"reason": reason}) for question, reason in unanswered]
    return rows, asker.usage()


def _row(recipe, question, said):
    place = {"uid": question.uid, "kind": recipe["kind"], "part": question.part, "model": recipe["model"]}
    place |= {"judge": author(recipe["endpoint"]), "source": "asked"}
    return cast(Battle, {key: (place | said)[key] for key in columns_of(Battle)})


# ---------------------------------------------------------------- jobs


def check_files(job: Job, *names: str) -> None:
    """Raise a UserError where a file of the suite is still to be put there by hand."""
    for name in names:
        if name not in job.inputs.keys():
            told = f"the file of its {WORDS[name]} is not there yet; put it there and run again."
            raise UserError(f"suite {job.recipe['suite']}: {told}")


def run_answers(job: Job) -> None:
    """Do the job of answer_turns."""
    check_files(job, "questions")
    questions = questions_of(job.recipe, job.inputs.questions)
    with asker_of(job, job.inputs, "model") as asker:
        rows = answer_turns(job.recipe, questions, asker)
    write_jsonl(job.outputs.turns, rows)
    job.facts = {"rows": len(rows), "failed": sum(row["status"] != "ok" for row in rows)}


def run_battles(job: Job) -> None:
    """Do the job of judge_battles: what others published, and what the judge that is asked says."""
    recipe, inputs = job.recipe, job.inputs
    check_files(job, *recipe["reads"])
    benchmark: Benchmark = BENCHMARKS[recipe["kind"]]
    questions = questions_of(recipe, inputs.questions) if "questions" in inputs.keys() else None
    rows: list[Battle] = []
    usage = summed_usage([], FILES)
    if "judgements" in inputs.keys():
        parts = None if questions is None else {one.uid: one.part for one in questions}
        rows += read_judgements(inputs.judgements, benchmark, recipe["model"], recipe["of"], parts)
    if recipe["endpoint"] and questions is not None:
        theirs = answers_in(inputs.theirs, questions) if "theirs" in inputs.keys() else baselines_of(questions)
        references: Answers = {}
        if "references" in inputs.keys():
            # Those of questions that a smoke run leaves out are references to questions that are there.
            whole = read_questions(inputs.questions, benchmark.turns)
            found = read_answers(inputs.references, whole, "reference")
            references = {uid: (texts, None) for uid, texts in found.items()}
        with asker_of(job, inputs) as asker:
            ours = answers_in(inputs.ours, questions)
            asked, usage = judge_battles(recipe, questions, ours, theirs, references, asker)
        rows += asked
    status = Counter(row["status"] for row in rows)
    logger.info("%d battles: %s", len(rows), dict(status))
    write_json(job.outputs.usage, usage)
    write_jsonl(job.outputs.battles, rows)
    judges = sorted({(row["source"], row["judge"]) for row in rows})
    job.facts = {"rows": len(rows), "status": dict(sorted(status.items())), "judges": [list(one) for one in judges]}
