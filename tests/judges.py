"""A build that measures judges: items of two datasets, a model, an endpoint, and a file as judges."""

import json
import random
import re

from moult.base.files import write_jsonl
from openai_server import filled
from pico_build import TEACHER

# Pairs whose verdicts an endpoint explains.
EXPLAINED = {
    "name": "judged",
    "seed": 3,
    "datasets": [{"name": "pairs", "format": "judge", "files": {"train": "pairs.json"}, "dev_fraction": 0.2}],
    "endpoints": [
        {"name": "teacher", "url": TEACHER, "model": "big", "price": {"input": 1, "output": 2}, "concurrency": 2}
    ],
    "corpora": [{"name": "said", "kind": "judgements", "dataset": "pairs", "endpoint": "teacher"}],
}
CATEGORIES = ["math", "writing", "of no rubric"]


def pairs(n=12):
    """Pairs in which the right answer says so; people are of two minds about some."""
    rows = []
    for number in range(n):
        right, wrong = f"right {number}", "wrong" * (1 + number % 3)
        human = "AB"[number % 2]
        first, second = (right, wrong) if human == "A" else (wrong, right)
        row = {"id": f"p{number}", "question": f"PRIVATE question {number}?", "answer_1": first, "answer_2": second}
        row |= {"human": human, "category": CATEGORIES[number % 3], "reference": f"PRIVATE reference {number}"}
        rows.append(row | {"annotators": [human, human, "Tie" if number % 4 else human]})
    return rows


def grades(n=8):
    return [
        {"id": f"g{number}", "question": f"PRIVATE task {number}?", "answer": f"worth {number}", "human": number + 0.5}
        for number in range(n)
    ]


def judged_config():
    enforced = {
        "datasets": ["pairs"],
        "sample": 1,
        "baselines": [],
        "decoding": {"max_tokens": 1500},
    }
    hidden = {"datasets": ["grades"], "sample": 3, "form": "line", "baselines": [], "injections": True}
    suite = {
        "datasets": ["pairs", "grades"],
        "baselines": ["random", "first"],
        "form": "line",
        "references": True,
        "pairs": ["compare", "grades"],
    }
    return {
        "name": "judged",
        "seed": 3,
        "compute": {"dtype": "float32", "batch_size": 4},
        "datasets": [
            {"name": name, "format": "judge", "files": {"test": f"{name}.json"}} for name in ("pairs", "grades")
        ],
        "endpoints": [
            {"name": "teacher", "url": TEACHER, "model": "big", "price": {"input": 1, "output": 2}, "concurrency": 2},
            {"name": "served", "serve": "base"},
        ],
        "models": [{"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001}],
        "suites": [
            {"name": "people", "agreement": suite | {"decoding": {"max_tokens": 8}}},
            {"name": "enforced", "agreement": enforced},
            {"name": "hidden", "agreement": hidden},
        ],
        "evaluations": [
            {
                "suite": "people",
                "judges": ["teacher", "base", {"name": "somebody", "files": {"pairs": "theirs.jsonl"}}],
                "against": "random",
            },
            {"suite": "enforced", "judges": ["served"]},
            {"suite": "hidden", "judges": ["teacher"]},
        ],
    }


def write_judged(folder, config):
    """Write the data of the build, and verdicts that another build made of its pairs."""
    (folder / "pairs.json").write_text(json.dumps(pairs()))
    (folder / "grades.json").write_text(json.dumps(grades()))
    theirs = [
        {"uid": f"d:test:{row['id']}", "method": "compare", "order": order, "status": "ok", "grade": None}
        | {"winner": row["human"]}
        for row in pairs()
        for order in ("original", "swapped")
    ]
    write_jsonl(folder / "theirs.jsonl", theirs)
    (folder / "pico.yaml").write_text(json.dumps(config))


def honest(body):
    """Prefer the answer that says that it is right, and grade an answer by what it says that it is worth."""
    text = body["messages"][-1]["content"]
    if "answer_1]" not in text:
        worth = text.split(" answer]\n", 1)[1].split("\n[", 1)[0]
        grade = int(worth.split()[-1]) if worth.startswith("worth") else 9 if worth.startswith("right") else 2
        return f"###Overall Score: {grade}&&&Detailed Evaluation Feedback: so it is***"
    first = text.split(" answer_1]\n", 1)[1].split("\n[", 1)[0]
    return f"###Final Result: {'A' if first.startswith('right') else 'B'}&&&Detailed Evaluation Feedback: so it is***"


def explaining(body):
    """Agree with people about most pairs, by the schema that is asked for."""
    text = body["messages"][-1]["content"]
    better = re.search(r"People say: (answer_[12]) is the better", text)[1]
    reply = filled(body["response_format"]["json_schema"]["schema"], random.Random(0))
    if "PRIVATE question 7?" not in text:
        for side in ("answer_1", "answer_2"):
            reply[side]["overall"] = 8 if side == better else 3
    else:
        reply["answer_1"]["overall"] = reply["answer_2"]["overall"] = 5
    return json.dumps(reply)


def jury_config(rubric):
    """Return a config in which two judges are asked about the same answers, in two suites."""
    corpora = [
        {"name": f"t{number}", "kind": "distilled", "dataset": "questions", "splits": ["train"], "endpoint": "teacher"}
        | {"decoding": {"temperature": number / 10, "max_tokens": 8}}
        for number in (1, 2, 3)
    ]
    judge = {"datasets": ["questions"], "split": "train", "rubric": rubric, "repeats": {"questions": 0}}
    judge |= {"decoding": {"max_tokens": 1500}}
    return {
        "name": "two",
        "seed": 3,
        "compute": {"dtype": "float32", "batch_size": 8},
        "datasets": [
            {"name": "questions", "format": "stackoverflow", "files": {"train": "questions.tsv"}, "dev_fraction": 0}
        ],
        "endpoints": [
            {"name": "teacher", "url": TEACHER, "model": "big", "price": {"input": 1, "output": 2}, "concurrency": 2},
            {
                "name": "other",
                "url": TEACHER,
                "model": "contrary",
                "price": {"input": 1, "output": 2},
                "concurrency": 2,
            },
            {"name": "own", "serve": "base"},
        ],
        "corpora": corpora,
        "models": [{"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001}],
        "suites": [
            {
                "name": "mixed",
                "judge": judge | {"sample": 2, "judges": ["own", {"endpoint": "teacher", "form": "line"}]},
            },
            {"name": "lines", "judge": judge | {"form": "line", "judges": ["teacher", "other"]}},
        ],
        "evaluations": [
            {"suite": suite, "corpora": ["t1", "t2", "t3"][: 3 if suite == "lines" else 2], "against": "t1"}
            for suite in ("mixed", "lines")
        ],
    }
