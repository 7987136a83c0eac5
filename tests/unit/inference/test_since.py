"""Models whose chats have other tokens than before are told from those that have the same."""

import pytest
from families import FAMILIES, tokenizer_of
from moult.base.files import write_json
from moult.config.load import load
from moult.inference.since import has_other_tokens, tokens_recipe
from moult.stages.models import finetune

# Mistral's blank is the one with which its tokenizer begins a text.
SAME = {"chatml", "smollm2", "llama-3", "qwen2", "granite", "gemma", "smollm3", "mistral", "mistral-v0.3"}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_whose_template_was_rendered_rightly_before_keep_their_tokens(tmp_path, family):
    tokenizer_of(FAMILIES[family]).save_pretrained(tmp_path)
    assert has_other_tokens(tmp_path) == (family not in SAME)
    assert has_other_tokens(tmp_path, asked=True) == (family not in SAME or "mistral" in family)


@pytest.mark.parametrize(
    ("family", "facts", "told"), [("zephyr", {}, True), ("zephyr", {"tokens": 2}, False), ("chatml", {}, False)]
)
def test_only_what_was_made_with_such_a_model_before_is_made_again(tmp_path, monkeypatch, family, facts, told):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/old/models/base"
    tokenizer_of(FAMILIES[family]).save_pretrained(folder)
    write_json(folder.with_name("base.manifest.json"), {"recipe": {}, "facts": facts})
    raw = {
        "name": "old",
        "datasets": [{"name": "talk", "format": "alpaca", "files": {"train": "talk.json"}}],
        "models": [
            {"name": "base", "fetch": {"path": "base"}, "parameters": 0.001},
            {"name": "tuned", "finetune": {"base": "base", "data": ["talk"]}},
        ],
    }
    cfg = load(raw)
    assert tokens_recipe(cfg, "tuned") == ({"tokens": 2} if told else {})
    assert ("tokens" in finetune(cfg, "tuned")) == told
    # What is fetched again is new in itself.
    raw["models"][0]["chat_template"] = "chatml"
    assert tokens_recipe(load(raw), "base") == {}
