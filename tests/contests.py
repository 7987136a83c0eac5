"""Models set head to head: questions, answers and published judgements, and a teacher who judges."""

import json
import math
import re

from openai_server import Reply, completion
from pico import build_pico_model
from pico_build import write_config
from pico_variants import contest_config

INSTRUCTIONS = [f"PRIVATE instruction {number}" for number in range(12)]


def judged(body):
    """A teacher who likes whatever says `good`: a letter with log-probabilities, a verdict, or a grade."""
    text = next(message["content"] for message in body["messages"] if message["role"] == "user")
    if body.get("top_logprobs"):
        first = float("good" in part(text, "answer m")) - float("good" in part(text, "answer M"))
        chances = {"m": 1 / (1 + math.exp(-first)), "M": 1 / (1 + math.exp(first))}
        top = [{"token": token, "logprob": math.log(chance)} for token, chance in chances.items()]
        reply = completion(body, max(chances, key=chances.get))
        reply["choices"][0] |= {
            "logprobs": {"content": [{"token": "m", "top_logprobs": top}]},
            "finish_reason": "length",
        }
        return Reply(reply)
    if "answer of A" in text:
        if len(body["messages"]) == 2 and "silence" in text:
            return "I am of two minds."
        first, second = ("good" in part(text, f"answer of {side}") for side in "AB")
        return "So: [[A>>B]]" if first > second else "So: [[B>A]]" if second > first else "[[A=B]]"
    return f"Hm. [[{3 + len(text) % 2}]]"


def part(text, name):
    return re.search(rf"\[\w+ {name}\]\n(.*?)\n\[\w+ end of", text, re.DOTALL)[1]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_contest(folder):
    """Write config, questions, answers and what others judged into an empty folder."""
    (folder / "models").mkdir()
    for seed, name in enumerate(("base", "other")):
        build_pico_model(folder / "models" / name, seed=seed, max_position_embeddings=8192)
    rows = [
        {"instruction": text, "output": "dull", "dataset": f"part {at % 2}"} for at, text in enumerate(INSTRUCTIONS)
    ]
    (folder / "alpaca.json").write_text(json.dumps(rows))
    (folder / "served.json").write_text(json.dumps(rows[:3]))
    for name, text in (("good", "good, and much longer than the other"), ("weak", "dull")):
        answers = [{"instruction": one, "output": text, "generator": name} for one in INSTRUCTIONS]
        (folder / f"{name}.json").write_text(json.dumps(answers))
    shared = {"output_1": "dull", "output_2": "good", "generator_2": "good"}
    shared |= {"annotator": "weighted_alpaca_eval_gpt4_turbo"}
    published = [shared | {"instruction": one, "preference": 1.5 + at / 30} for at, one in enumerate(INSTRUCTIONS)]
    (folder / "published.json").write_text(json.dumps(published))
    questions = [{"question_id": f"q{at}", "category": "c", "turns": [{"content": f"ask {at}"}]} for at in range(4)]
    questions[3]["turns"][0]["content"] += " silence"
    write_lines(folder / "arena.jsonl", questions)
    for name, text in (("baseline", "dull"), ("good", "good")):
        answers = [{"question_id": f"q{at}", "choices": [{"turns": [{"content": text}]}]} for at in range(4)]
        write_lines(folder / f"arena-{name}.jsonl", answers)
    turns = {at: {"question_id": at, "turns": [f"one {at}", f"two {at}"]} for at in range(4)}
    write_lines(folder / "mt.jsonl", [row | {"category": ("math", "writing")[at % 2]} for at, row in turns.items()])
    references = [{"question_id": at, "choices": [{"turns": [f"right {at}", "so"]}]} for at in (0, 2)]
    write_lines(folder / "references.jsonl", references)
    battles = ["question_id,winner", "a,model_b", "a,model_b", "b,model_a", "b,tie"]
    (folder / "battles.csv").write_text("\n".join(battles) + "\n")
    write_config(folder / "pico.yaml", contest_config())
