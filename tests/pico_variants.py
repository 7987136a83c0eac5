"""Configs of what the pico build has not: pairs of a model's own answers, rounds of self-training, videos."""

from pico import build_pico_model, teach_pico_model
from pico_build import MOODS, TEACHER, write_config
from sources import REVISION

VIDEO_HUB = {"hub": "org/clips", "revision": REVISION, "folder": "D/video"}


def preference_config():
    """A model makes pairs of its own answers, is optimised on them, and on from there."""
    quick = {"max_steps": 6, "evaluate_every": 2, "batch_size": 2, "accumulation": 1, "max_length": 256}
    return {
        "name": "own",
        "seed": 7,
        "compute": {"dtype": "float32", "batch_size": 8},
        "datasets": [
            {"name": "questions", "format": "stackoverflow", "files": {"train": "data/ml.tsv"}, "dev_fraction": 0.25}
        ],
        "endpoints": [{"name": "student", "serve": "base"}],
        "corpora": [
            {
                "name": "pairs",
                "kind": "contrasts",
                "dataset": "questions",
                "endpoint": "student",
                "decoding": {"temperature": 1.0, "max_tokens": 24},
                "chosen": {"method": "beam", "beams": 4},
                "gate": {"min_characters": 3, "max_length_ratio": 5, "max_similarity": 0.99},
            }
        ],
        "models": [
            {"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001, "license": "CC0-1.0"},
            {
                "name": "preferring",
                "optimise": {
                    "base": "base",
                    "data": ["pairs"],
                    "loss": {"kind": "dpo"},
                    "learning_rate": 1e-3,
                    "lora": {"rank": 2, "alpha": 4},
                    **quick,
                },
            },
            {
                "name": "further",
                "optimise": {
                    "base": "preferring",
                    "data": ["pairs"],
                    "loss": {"kind": "contrastive", "margin": 0.5},
                    "learning_rate": 1e-4,
                    "method": "full",
                    **quick,
                },
            },
        ],
    }


def write_preferences(folder):
    """Write config, questions, and a model that can end its turn."""
    (folder / "data").mkdir()
    rows = [f"How to go about it, part {number}?\tI am stuck at {number * 7}." for number in range(16)]
    (folder / "data" / "ml.tsv").write_text("\n".join(["title\tquestion_content", *rows]) + "\n")
    teach_pico_model(build_pico_model(folder / "models" / "base", max_position_embeddings=2048))
    write_config(folder / "pico.yaml", preference_config())


def passing_config():
    """Models that are there until they are measured: a merge of two, and what LoRA trained."""
    lora = {"lora": {"rank": 2, "alpha": 4}, "max_steps": 2, "batch_size": 2, "max_length": 256}
    parents = [{"model": "base", "weight": 0.5}, {"model": "tuned", "weight": 0.5}]
    return {
        "name": "brief",
        "seed": 7,
        "compute": {"dtype": "float32", "batch_size": 8},
        "datasets": [
            {
                "name": "moods",
                "format": "mmla",
                "files": {split: f"data/moods/{split}.tsv" for split in ("train", "dev", "test")},
                "labels": ["good", "bad"],
                "task": "mood",
            }
        ],
        "models": [
            {"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001, "license": "CC0-1.0"},
            {"name": "tuned", "keep": False, "finetune": {"base": "base", "data": ["moods"], **lora}},
            {"name": "merged", "keep": False, "merge": {"method": "linear", "dtype": "float32", "parents": parents}},
        ],
        "suites": [{"name": "labels", "labels": {"datasets": ["moods"], "methods": ["likelihood"]}}],
        "evaluations": [{"suite": "labels", "models": ["base", "merged"]}],
    }


def rounds_config(rows, interval):
    """Rounds of `interval` rows each: a model answers, the teacher judges, what it accepts trains the next round."""
    return {
        "name": "pico",
        "seed": 3,
        "compute": {"dtype": "float32", "batch_size": 4},
        "datasets": [
            {"name": "q", "format": "stackoverflow", "files": {"train": "data/ml.tsv"}, "dev_fraction": 0},
        ],
        "endpoints": [
            {"name": "judge", "url": TEACHER, "model": "big", "price": {"input": 1, "output": 2}, "concurrency": 2}
        ],
        "models": [{"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001}],
        "rounds": [
            {
                "name": "rounds",
                "base": "base",
                "dataset": "q",
                "rows": rows,
                "interval": interval,
                "judge": "judge",
                "cut": "keep",
                "decoding": {"temperature": 1.0, "max_tokens": 8},
                "finetune": {"max_steps": 3, "batch_size": 2, "max_length": 256, "lora": {"rank": 2, "alpha": 4}},
            }
        ],
    }


def video_config(source=None):
    """A model that sees is trained and asked on clips, which come from `source`, by default the folder `video`."""
    training = {"base": "eyes", "data": ["lamps"], "max_steps": 2, "batch_size": 2, "max_length": 256}
    return {
        "name": "clips",
        "seed": 7,
        "datasets": [
            {
                "name": "lamps",
                "format": "mmla",
                "files": {split: f"data/{split}.tsv" for split in ("train", "test")},
                "labels": ["red", "green"],
                "task": "colour",
                "dev_fraction": 0.25,
                "videos": (source or {"path": "video"}) | {"frames": 4, "max_pixels": 4704},
            }
        ],
        "models": [
            {"name": "eyes", "fetch": {"path": "models/eyes"}, "parameters": 0.001, "license": "CC0-1.0"},
            {"name": "tuned", "finetune": training | {"lora": {"rank": 2, "alpha": 4}}},
        ],
        "suites": [{"name": "labels", "labels": {"datasets": ["lamps"], "max_tokens": 4}}],
        "evaluations": [{"suite": "labels", "models": ["eyes", "tuned"], "against": "eyes"}],
    }


SWEPT = ("base", "left", "right")


def sweep_config():
    """Three models, a sweep of six merges of them, and the best of these by scores, and by a race."""
    sweep = {
        "methods": ["ties", "dare_ties", "linear"],
        "base": "base",
        "parents": ["left", "right"],
        "densities": [0.5],
        "weights": [0.5, [0.2, 0.8]],
        "masks": "by_name",
        "dtype": "float32",
    }
    labels = {"datasets": ["moods"], "max_tokens": 4, "methods": ["likelihood"]}
    return {
        "name": "swept",
        "seed": 7,
        "datasets": [
            {
                "name": "moods",
                "format": "mmla",
                "files": {split: f"data/{split}.tsv" for split in MOODS},
                "labels": ["good", "bad"],
                "task": "mood",
            }
        ],
        "models": [
            *({"name": name, "fetch": {"path": f"models/{name}"}, "parameters": 0.001} for name in SWEPT),
            {"name": "grid", "sweep": sweep},
            {"name": "best", "select": {"among": ["left", "grid"], "suite": "dev"}},
            {"name": "raced", "select": {"among": ["grid"], "suite": "dev", "race": {"share": 1}}},
            {
                "name": "soup",
                "merge": {"method": "linear", "parents": [{"model": one, "weight": 1} for one in ("best", "base")]},
            },
        ],
        "suites": [{"name": "dev", "labels": labels | {"split": "dev"}}, {"name": "test", "labels": labels}],
        "evaluations": [{"suite": "dev", "models": ["left", "grid"]}, {"suite": "test", "models": ["best", "soup"]}],
    }


def write_swept(folder):
    """Write config, data and models of the sweep into an empty folder."""
    (folder / "data").mkdir()
    for split, n in MOODS.items():
        rows = [f"{split}{i}\tnumber {i} of {split}\t{'good' if i % 2 else 'bad'}" for i in range(n)]
        (folder / "data" / f"{split}.tsv").write_text("\n".join(["id\ttext\tlabel", *rows]) + "\n")
    for seed, name in enumerate(SWEPT):
        build_pico_model(folder / "models" / name, seed, max_position_embeddings=2048)
    write_config(folder / "pico.yaml", sweep_config())


def contest_config():
    """Models set head to head: by letters, verdicts and grades, of an endpoint, a served judge and published files."""
    asked = {"decoding": {"max_tokens": 8}}
    filed = [
        {"name": "good", "answers": "good.json", "judgements": "published.json"},
        {"name": "weak", "answers": "weak.json"},
        {"name": "somebody", "judgements": "published.json"},
    ]
    arena = {"kind": "arena", "questions": "arena.jsonl", "endpoint": "teacher", **asked}
    arena |= {"baseline": {"name": "plain", "answers": "arena-baseline.jsonl"}}
    mt = {"kind": "mt", "questions": "mt.jsonl", "references": "references.jsonl", "endpoint": "teacher", **asked}
    served = {"kind": "alpaca", "questions": "served.json", "endpoint": "student", **asked, "orders": "one"}
    return {
        "name": "heads",
        "seed": 3,
        "compute": {"dtype": "float32", "batch_size": 8},
        "datasets": [],
        "endpoints": [
            {"name": "student", "serve": "base"},
            {"name": "teacher", "url": TEACHER, "model": "big", "price": {"input": 1, "output": 2}, "concurrency": 2},
        ],
        "models": [
            {"name": name, "fetch": {"path": f"models/{name}"}, "parameters": 0.001, "license": "CC0-1.0"}
            for name in ("base", "other")
        ],
        "suites": [
            {
                "name": "letters",
                "head_to_head": {"kind": "alpaca", "questions": "alpaca.json", "endpoint": "teacher", **asked},
            },
            {"name": "served", "head_to_head": served},
            {"name": "verdicts", "head_to_head": arena},
            {"name": "grades", "head_to_head": mt},
            {"name": "told", "head_to_head": {"kind": "arena"}},
        ],
        "evaluations": [
            {"suite": "letters", "files": filed, "against": "weak"},
            {"suite": "served", "models": ["base", "other"]},
            {"suite": "verdicts", "models": ["base"], "files": [{"name": "good", "answers": "arena-good.jsonl"}]},
            {"suite": "grades", "models": ["base", "other"]},
            {"suite": "told", "files": [{"name": "somebody", "judgements": "battles.csv"}]},
        ],
    }
