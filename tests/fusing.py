"""A pico build that fuses models: two sources and a target answer prompts, a reward scores, pairs are learnt."""

import json

from pico import build_pico_model, build_pico_tokenizer, teach_pico_model
from pico_build import TEACHER, write_config

PROMPTS = [{"prompt": f"Which fox answers question {number}?", "prompt_id": f"p{number}"} for number in range(14)]


def build_pico_reward(path, seed=0):
    """Save a two-layer Llama with one output and seeded random weights; return its path."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = build_pico_tokenizer()
    torch.manual_seed(seed)
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 2, "num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    LlamaForSequenceClassification(LlamaConfig(**sizes)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def fusing_config():
    """Sources, a target that is tuned on their best answers, and then on pairs with its own."""
    quick = {"max_steps": 4, "evaluate_every": 2, "batch_size": 2, "max_length": 256, "lora": {"rank": 2, "alpha": 4}}
    drawn = {"temperature": 1.0, "max_tokens": 16}
    return {
        "name": "fused",
        "seed": 5,
        "compute": {"dtype": "float32", "batch_size": 8},
        "datasets": [{"name": "asked", "format": "prompts", "files": {"train": "prompts.jsonl"}, "dev_fraction": 0.25}],
        "endpoints": [
            {"name": "one", "serve": "base"},
            {"name": "two", "serve": "other"},
            {"name": "student", "serve": "sft"},
        ],
        "corpora": [
            *(
                {"name": f"{name}-samples", "kind": "samples", "dataset": "asked", "endpoint": name, "samples": 3}
                | {"decoding": drawn}
                | ({"share": [0.34, 1]} if name == "student" else {})
                for name in ("one", "two", "student")
            ),
            *(
                {"name": f"{name}-scores", "kind": "scored", "corpus": f"{name}-samples", "reward": "reward"}
                for name in ("one", "two", "student")
            ),
            {"name": "best", "kind": "preferences", "sources": ["one-scores", "two-scores"], "pairing": "best"}
            | {"share": [0, 0.34]},
            {"name": "pairs", "kind": "preferences", "sources": ["one-scores", "two-scores"]}
            | {"target": "student-scores", "share": [0.34, 1], "min_margin": None},
        ],
        "models": [
            {"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.001},
            {"name": "other", "fetch": {"path": "models/other"}, "parameters": 0.001},
            {"name": "reward", "fetch": {"path": "models/reward"}, "parameters": 0.001},
            {"name": "sft", "finetune": {"base": "base", "data": ["best"], **quick}},
            {
                "name": "preferring",
                "optimise": {
                    "base": "sft",
                    "data": ["pairs"],
                    "loss": {"kind": "wrpo", "beta": 0.1},
                    "accumulation": 1,
                    **quick,
                },
            },
        ],
    }


def asking_config(sources):
    """The same with remote models and a judge that grades, up to the pairs."""
    price = {"price": {"input": 1, "output": 2}, "concurrency": 2}
    names = [*sources, "own"]
    return {
        "name": "asked",
        "seed": 5,
        "datasets": [{"name": "asked", "format": "prompts", "files": {"train": "prompts.jsonl"}, "dev_fraction": 0.25}],
        "endpoints": [{"name": name, "url": TEACHER, "model": name, **price} for name in (*names, "judge")],
        "corpora": [
            *(
                {"name": f"{name}-samples", "kind": "samples", "dataset": "asked", "endpoint": name, "samples": 3}
                for name in names
            ),
            *(
                {"name": f"{name}-scores", "kind": "scored", "corpus": f"{name}-samples", "endpoint": "judge"}
                for name in names
            ),
            {"name": "pairs", "kind": "preferences", "sources": [f"{name}-scores" for name in sources]}
            | {"target": "own-scores", "min_margin": None},
        ],
    }


def write_fusing(folder):
    """Write config, prompts and models."""
    for seed, name in enumerate(("base", "other")):
        teach_pico_model(build_pico_model(folder / "models" / name, seed, max_position_embeddings=1024), 60, seed)
    build_pico_reward(folder / "models" / "reward")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    write_config(folder / "pico.yaml", fusing_config())
