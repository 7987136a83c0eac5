"""Judges at work on items that people judged: what each is asked, what it says, and judges that need no model."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moult.base.errors import UserError
from moult.base.files import digest, write_json, write_jsonl
from moult.base.rows import JudgeItem, Recipe, Usage
from moult.base.stage import Job
from moult.base.suite_rows import Verdict
from moult.data.questions import judge_items
from moult.data.rubrics import rubric_of
from moult.evaluation.agreement_scores import BY_GRADES, COMPARE, GRADE
from moult.evaluation.foreign_verdicts import read_foreign
from moult.evaluation.injections import as_injected, attacked_items
from moult.evaluation.judging import drawn, judgement
from moult.inference.asking import Asker, asker_of
from moult.inference.judge_replies import grade_line, read_grade
from moult.inference.judge_requests import dimensions_of, judge_request
from moult.inference.remote.wire import OFF_FORM
from moult.inference.requests import ChatRequest
from moult.inference.rewards import ask_rewards, reward_request

# Raise when the same recipe would now ask something else, or read the same reply otherwise.
VERSION = 1
# Of an answer of so many characters the judge that likes long answers thinks 5 of 10.
MIDDLING = 400
OF_ITEM = ("human", "annotators", "category", "scenario", "tag", "labels", "scale")
logger = logging.getLogger(__name__)
# An item, the method, the order in which answers are shown, and the answers in this order.
Shown = tuple[JudgeItem, str, str, Sequence[str]]


def sampled_items(recipe: Recipe, folders: Mapping[str, str | Path]) -> list[JudgeItem]:
    """Return the items of a suite, in the order of its datasets. recipe: datasets, split, sample (per dataset; None:
    all), seed. folders: a prepared dataset's per name."""
    found: list[JudgeItem] = []
    for name in recipe["datasets"]:
        found += cast(list[JudgeItem], drawn(recipe, cast(Any, judge_items(folders[name], [recipe["split"]]))))
    if not found:
        raise UserError(f"{', '.join(recipe['datasets'])}: there is no item in the split {recipe['split']}.")
    return found


def shown(recipe: Recipe, items: Sequence[JudgeItem]) -> Iterator[Shown]:
    """Yield everything that a judge is shown. recipe: pairs (compare, grades, or both), orders, and `modes`, where the
    judge can do one thing only."""
    for item in items:
        if item["mode"] == "grade":
            yield item, GRADE, "original", (cast(str, item["answer"]),)
            continue
        pair = (cast(str, item["answer_1"]), cast(str, item["answer_2"]))
        if "compare" in recipe["pairs"]:
            for order in recipe["orders"]:
                yield item, COMPARE, order, pair if order == "original" else pair[::-1]
        if "grades" in recipe["pairs"]:
            for answer in pair:
                yield item, BY_GRADES, "original", (answer,)


def verdicts_of(recipe: Recipe, everything: Sequence[Shown], replies: Sequence[Any]) -> list[Verdict]:
    """Return the verdict rows of what a judge replied (stored values) to what it was shown, in its order.

    recipe: judge, form (of the replies), rubrics, rubric. Of a pair that is judged by grades, the higher one wins.
    """
    rows: list[Verdict] = []
    read = zip(everything, replies, strict=True)
    for (item, method, order, answers), value in read:
        dimensions = dimensions_of(recipe, item)
        if method == COMPARE:
            read_as: Recipe = {"model": None, "against": None, "endpoint": {"model": recipe["judge"]["name"]}}
            read_as |= {"form": recipe["form"], "criteria": dimensions}
            found = judgement(read_as, cast(Any, item), order, 0, value)
            said = {key: found[key] for key in ("status", "winner", "scores", "raw")}
            rows.append(_row(recipe, item, method, order, answers, said | {"feedback": found["justification"]}))
        elif method == GRADE:
            rows.append(_row(recipe, item, method, order, answers, _graded(recipe, dimensions, value)))
        else:
            (_, _, _, other), second = next(read)
            graded = [_graded(recipe, dimensions, one) for one in (value, second)]
            rows.append(_row(recipe, item, method, order, (*answers, *other), by_grades(*graded)))
    return rows


def _graded(recipe, dimensions, value):
    if isinstance(value, list):
        return {"status": "ok", "grade": value[0], "scores": None, "raw": None}
    said: dict[str, Any] = {"status": "error", "raw": value["text"] or value["error"]}
    if value["finish_reason"] != "error":
        found = read_grade(recipe["form"], value["text"], dimensions)
        said |= ({"status": "ok"} | found) if found else {"status": "unknown"}
    elif (value["error"] or "").startswith(OFF_FORM):
        said["status"] = "unknown"
    return said


def by_grades(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two graded answers say of the pair: the higher grade wins, equal ones tie."""
    statuses = (first["status"], second["status"])
    status = "ok" if statuses == ("ok", "ok") else "error" if "error" in statuses else "unknown"
    raw = "\n".join(str(one["raw"]) for one in (first, second))
    if status != "ok":
        return {"status": status, "raw": raw}
    difference = first["grade"] - second["grade"]
    winner = "Tie" if difference == 0 else "A" if difference > 0 else "B"
    scores = {
        side: (one["scores"] or {}) | {"overall": one["grade"]} for side, one in zip("AB", (first, second), strict=True)
    }
    return {"status": status, "raw": raw, "winner": winner, "scores": scores}


def _row(recipe, item, method, order, answers, said):
    """Return a verdict row; answers: as shown, or in the item's order where they were not shown together."""
    answers = answers if order != "swapped" else answers[::-1]
    row = {"uid": item["uid"], "dataset": item["dataset"], "judge": recipe["judge"]["name"]}
    row |= {"method": method, "order": order, "status": said["status"]}
    row |= {key: said.get(key) for key in ("winner", "grade", "scores", "feedback", "raw")}
    row["rubric"] = rubric_of(item["category"], recipe["rubrics"], recipe["rubric"])
    row["lengths"] = [len(answer) for answer in answers]
    return cast(Verdict, row | {key: item[key] for key in OF_ITEM if key in item})


def unanswered(recipe: Recipe, item: JudgeItem, reason: str) -> Verdict:
    """Return the verdict row of an item that a judge said nothing of."""
    pair = item["mode"] == "compare"
    answers = (item["answer_1"], item["answer_2"]) if pair else (item["answer"],)
    said = {"status": "unanswered", "raw": reason}
    return _row(recipe, item, COMPARE if pair else GRADE, None, answers, said)


# ---------------------------------------------------------------- judges without a model


def said(text: str) -> Any:
    """Return a text as the stored value of a reply."""
    return {"text": text, "finish_reason": "stop", "error": None}


def _winner(letter):
    return f"###Final Result: {letter}"


def _at_random(item, method, order, answers, seed):
    """Any verdict that may be given, drawn anew for each thing that is shown."""
    chance = int(digest([seed, item["uid"], method, order, answers])[:12], 16)
    if method == COMPARE:
        return _winner(item["labels"][chance % len(item["labels"])])
    return grade_line({}, 1 + chance % 10, "")


def _longest(item, method, order, answers, seed):
    if method == COMPARE:
        first, second = map(len, answers)
        return _winner("Tie" if first == second else "A" if first > second else "B")
    return f"###Overall Score: {10 * len(answers[0]) / (len(answers[0]) + MIDDLING):.6f}"


def _first(item, method, order, answers, seed):
    return _winner("A") if method == COMPARE else None


def _constant(item, method, order, answers, seed):
    return _winner("Tie") if method == COMPARE else "###Overall Score: 5"


# What anybody can do without reading: name → what it says of what it is shown, None where that is nothing.
BASELINES: dict[str, Callable[..., str | None]] = {
    "random": _at_random,
    "longest": _longest,
    "first": _first,
    "constant": _constant,
}


def by_baseline(recipe: Recipe, items: Sequence[JudgeItem]) -> list[Verdict]:
    """Return the verdict rows of a judge that reads nothing."""
    name = recipe["judge"]["baseline"]
    found = [(one, BASELINES[name](*one, recipe["seed"])) for one in shown(recipe, items)]
    able = [(one, said(text)) for one, text in found if text is not None]
    return verdicts_of(recipe | {"form": "line"}, [one for one, _ in able], [text for _, text in able])


def by_files(recipe: Recipe, items: Sequence[JudgeItem], paths: Mapping[str, str | Path]) -> list[Verdict]:
    """Return the verdict rows of judgements that somebody else made. paths: dataset → file."""
    rows: list[Verdict] = []
    for dataset, path in paths.items():
        mine = [item for item in items if item["dataset"] == dataset]
        found = read_foreign(path, mine)
        told: list[Shown] = []
        texts: list[Any] = []
        for item in mine:
            judged = found.get(item["uid"])
            if judged is None:
                rows.append(unanswered(recipe, item, f"{Path(path).name} has no judgement of it"))
            for order, text in (judged or {}).items():
                pair = (item["answer_1"], item["answer_2"])
                answers = (item["answer"],) if item["mode"] == "grade" else pair[:: 1 if order == "original" else -1]
                told.append((item, COMPARE if item["mode"] == "compare" else GRADE, order, cast(Any, answers)))
                texts.append(said(text))
        rows += verdicts_of(recipe | {"form": "line"}, told, texts)
    return rows


def asked(recipe: Recipe, items: Sequence[JudgeItem]) -> list[Shown]:
    """Return everything that a model or an endpoint is asked about: the items, and pairs in which instructions hide."""
    everything = list(shown(recipe, items))
    if "injections" in recipe:
        one_way = {"pairs": ["compare"] if "compare" in recipe["pairs"] else ["grades"]}
        everything += shown(recipe | one_way, attacked_items(recipe["injections"]))
    return everything


def requests_of(recipe: Recipe, items: Sequence[JudgeItem]) -> list[ChatRequest]:
    """Return the requests to a model or an endpoint, one for each thing that it is asked about."""
    served = "serve" in recipe["endpoint"]
    return [judge_request(recipe, cast(Any, item), answers, served) for item, _, _, answers in asked(recipe, items)]


def judge_by_asking(recipe: Recipe, items: Sequence[JudgeItem], asker: Asker) -> tuple[list[Verdict], Usage]:
    """Return (verdict rows, usage) of a model or an endpoint that is asked about the items."""
    values = asker.ask(requests_of(recipe, items))
    return as_injected(verdicts_of(recipe, asked(recipe, items), values)), asker.usage()


def judge_by_rewards(recipe: Recipe, items: Sequence[JudgeItem], asker: Asker) -> list[Verdict]:
    """Return the verdict rows of a reward model, which scores each answer alone."""
    everything = list(shown(recipe, items))
    requests = [reward_request(item["question"], answers[0]) for item, _, _, answers in everything]
    return verdicts_of(recipe, everything, ask_rewards(asker, requests))


def run(job: Job) -> None:
    """Do the job of judge_items."""
    recipe, inputs = job.recipe, job.inputs
    items = sampled_items(recipe, dict(zip(recipe["datasets"], inputs.datasets, strict=True)))
    judge = recipe["judge"]
    nothing = {"endpoint": judge["name"], "model": judge["name"], "calls": 0, "failed": 0}
    usage = cast(Usage, nothing | {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0})
    if "baseline" in judge:
        rows = by_baseline(recipe, items)
    elif "files" in judge:
        rows = by_files(recipe, items, dict(zip(judge["files"], inputs.files, strict=True)))
    else:
        with asker_of(job, inputs) as asker:
            if "reward" in judge:
                rows = judge_by_rewards(recipe, items, asker)
            else:
                rows, usage = judge_by_asking(recipe, items, asker)
    status = Counter(row["status"] for row in rows)
    logger.info("%d items, verdicts: %s", len(items), dict(status))
    write_json(job.outputs.usage, usage)
    write_jsonl(job.outputs.verdicts, rows)
    rubrics = Counter(row["rubric"] for row in rows)
    job.facts = {"rows": len(rows), "items": len(items), "status": dict(sorted(status.items()))}
    job.facts |= {"rubrics": dict(sorted(rubrics.items()))}
