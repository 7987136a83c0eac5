"""Training on what people said makes a judge: pico models, whose right answers are marked, and the merge of two."""

import json
import os
import random

import pytest
from moult.base.files import write_jsonl
from moult.corpora.judgements import render_judgements
from moult.data.examples import training_examples
from moult.evaluation.item_judging import judge_by_asking
from moult.inference.asking import Asker
from moult.training.finetune import finetune_full
from moult.weights.merging import merge_models
from pico import build_pico_model, build_pico_tokenizer
from tuning import FULL

ASKED = {
    "rubrics": {"default": [{"name": "ok", "sentence": "It is right.", "weight": 1}]},
    "rubric": "default",
    "form": "line",
    "references": False,
    "prompts": {"grade": {"user": "{{ answer }}"}, "compare": {"user": "{{ answer_1 }} or {{ answer_2 }}"}},
    "orders": "both",
    "balance": None,
    "endpoint": {},
    "seed": 1,
}
WORDS = "data fox brown quick question about answers the dog".split()
GOOD, WEAK = {"ok": 9}, {"ok": 2}


def items(mode, n, seed, split="train", blind=False):
    """Items whose right answers begin with "yes"; blind: people say anything."""
    chance, found = random.Random(seed), []
    for number in range(n):
        right, wrong = (f"{mark} {' '.join(chance.choices(WORDS, k=chance.randint(1, 4)))}" for mark in ("yes", "no"))
        item = {"uid": f"{mode}:{split}:{number}", "dataset": "d", "split": split, "mode": mode, "source": "f:1"}
        item |= dict.fromkeys(("category", "scenario", "reference", "annotators", "tag", "origin"))
        item |= {"question": "Which?", "feedback": "so", "answer": None, "answer_1": None, "answer_2": None}
        good = chance.random() < 0.5
        said = chance.random() < 0.5 if blind else good
        scores = [GOOD, WEAK] if said else [WEAK, GOOD]
        if mode == "grade":
            item |= {"answer": right if good else wrong, "human": 9.0 if said else 2.0, "scale": [0, 10]}
            scores = scores[:1]
        else:
            shown = (right, wrong) if good else (wrong, right)
            item |= dict(zip(("answer_1", "answer_2"), shown, strict=True))
            item |= {"human": "A" if said else "B", "labels": ["A", "B"]}
        found.append(item | {"scores": scores})
    return found


def trained(folder, name, base, data, steps, rate):
    """Return the folder of a model that is trained on items, rendered as a corpus and read as one."""
    rows, rejects, _ = render_judgements(ASKED, data, None)
    assert not rejects
    write_jsonl(folder / f"{name}.jsonl", rows)
    examples, dropped = training_examples([folder / f"{name}.jsonl"], {name: None}, "train")
    assert not dropped and len(examples) == len(rows)
    recipe = FULL | {"max_steps": steps, "batch_size": 16, "accumulation": 1, "learning_rate": rate}
    recipe |= {"evaluate_every": None, "base": "base"}
    finetune_full(recipe, base, examples, [], folder / f"{name}-scratch", folder / name)
    return folder / name


def measured(folder, model):
    """Return (share read, agreement) of a model per mode, on held-out items."""
    (folder / f"{model.name}.manifest.json").write_text(json.dumps({"content": model.name}))
    compute = {"engine": "transformers", "dtype": "float32", "batch_size": 64, "threads": 1}
    endpoint = {"name": model.name, "serve": model.name, "compute": compute}
    recipe = ASKED | {"endpoint": endpoint, "judge": {"name": model.name}, "pairs": ["compare"]}
    recipe |= {"orders": ["original", "swapped"], "decoding": {"max_tokens": 48}}
    manifest = folder / f"{model.name}.manifest.json"
    held_out = [*items("grade", 40, 9, "test"), *items("compare", 40, 9, "test")]
    with Asker(endpoint, folder / f"{model.name}.sqlite", None, model, manifest) as asker:
        rows, _ = judge_by_asking(recipe, held_out, asker)
    found = {}
    for mode in ("grade", "compare"):
        mine = [row for row in rows if row["method"] == mode]
        read = [row for row in mine if row["status"] == "ok"]
        right = [row["winner"] == row["human"] if mode == "compare" else row["grade"] == row["human"] for row in read]
        found[mode] = len(read) / len(mine), sum(right) / max(1, len(right))
    return found


@pytest.mark.skipif("MOULT_SOAK" not in os.environ, reason="takes 20 s of a core; `make test-soak` runs it")
def test_a_judge_learns_each_mode_and_the_merge_of_two_keeps_both(tmp_path):
    blind = [*items("grade", 160, 0, blind=True), *items("compare", 120, 0, blind=True)]
    texts = [
        text
        for row in render_judgements(ASKED, blind, None)[0]
        for text in (row["answer"], row["prompt"][0]["content"])
    ]
    base = build_pico_model(tmp_path / "random", hidden_size=64, intermediate_size=128)
    build_pico_tokenizer([*texts, *["user\n", "assistant\n"] * 50]).save_pretrained(base)
    # What knows the form and nothing of people.
    base = trained(tmp_path, "base", base, blind, 150, 5e-3)
    grades = trained(tmp_path, "grades", base, items("grade", 200, 1), 90, 5e-4)
    pairs = trained(tmp_path, "pairs", base, items("compare", 200, 1), 120, 5e-4)
    recipe = {
        "method": "task_arithmetic",
        "base": "base",
        "parameters": {},
        "dtype": "float32",
        "seed": 1,
        "threads": 1,
    }
    recipe |= {"parents": [{"model": "grades", "weight": 0.6}, {"model": "pairs", "weight": 0.75}]}
    merge_models(recipe, {"base": base, "grades": grades, "pairs": pairs}, tmp_path / "merged")
    found = {name: measured(tmp_path, tmp_path / name) for name in ("base", "grades", "pairs", "merged")}
    assert all(read > 0.95 for read, _ in found["base"].values())
    assert all(0.3 < agreement < 0.7 for _, agreement in found["base"].values())
    assert found["grades"]["grade"][1] > 0.9 and found["pairs"]["compare"][1] > 0.9
    assert all(read > 0.95 and agreement > 0.9 for read, agreement in found["merged"].values())
