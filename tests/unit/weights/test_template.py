"""A fetched model's chat template: its own or another one, told the day and whether to think, and tried before work."""

import datetime
import shutil

import pytest
from families import FAMILIES, tokenizer_of
from moult.base.errors import UserError
from moult.data.chats import DATE
from moult.inference.tokens import prompt_ids
from moult.weights.fetch import fetch_model
from moult.weights.template import check_template, template_of, write_template

ASKED = [{"role": "user", "content": "a question"}]


def folder_of(path, family, template=None):
    tokenizer_of(FAMILIES[family], template).save_pretrained(path)
    return path


def asked_by(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, tokenizer.decode(prompt_ids(tokenizer, ASKED))


@pytest.mark.parametrize("family", ["llama-3.1", "gpt-oss"])
def test_the_day_is_the_configs_whoever_renders_the_template(tmp_path, family):
    folder = folder_of(tmp_path, family)
    day, told = datetime.date.fromisoformat(DATE), datetime.date(2031, 3, 7)
    assert any(day.strftime(form) in asked_by(folder)[1] for form in ("%d %b %Y", "%Y-%m-%d"))
    write_template(folder, template_of(folder, {"date": told.isoformat()}))
    tokenizer, text = asked_by(folder)
    assert any(told.strftime(form) in text for form in ("%d %b %Y", "%Y-%m-%d"))
    assert text == tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("family", ["qwen3", "smollm3"])
def test_thinking_is_switched_off_and_on_by_the_templates_own_switch(tmp_path, family):
    folder = folder_of(tmp_path, family)
    plain, own = asked_by(folder)[1], template_of(folder)
    write_template(folder, template_of(folder, {"thinking": False}))
    tokenizer, off = asked_by(folder)
    assert off.startswith(plain) and off.rstrip().endswith("</think>")
    # Whoever says so still wins.
    on = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert on == plain
    write_template(folder, own)
    write_template(folder, template_of(folder, {"thinking": True}))
    assert asked_by(folder)[1] == plain


def test_a_template_without_a_switch_is_told(tmp_path):
    with pytest.raises(UserError, match="thinking: the model's chat template has no switch"):
        template_of(folder_of(tmp_path, "chatml"), {"thinking": False})


def test_both_at_once_and_another_template(tmp_path):
    folder = folder_of(tmp_path, "chatml")
    text = FAMILIES["qwen3"].template + "{{ strftime_now('%d.%m.%Y') }}"
    settings = {"chat_template": text, "thinking": False, "date": "2031-03-07"}
    write_template(folder, template_of(folder, settings))
    assert asked_by(folder)[1].endswith("<think>\n\n</think>\n\n07.03.2031")


def test_what_is_odd_about_a_template_is_said(tmp_path):
    def told(family, template=None):
        return check_template(template_of(folder_of(tmp_path / family, family, template)), "here")

    assert told("chatml") == told("llama-2") == told("qwen3") == []
    assert "no system role" in " ".join(told("gemma"))
    assert "forgets words" in " ".join(told("mistral-v0.3"))
    assert "no conversation has" in " ".join(told("deepseek-r1"))
    assert "does not show all turns" in " ".join(told("falcon", "{{ messages[-1].content }}"))


def test_a_broken_template_stops_the_fetch_and_a_missing_one_where_it_is_asked(pico_model, tmp_path):
    folder = shutil.copytree(pico_model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    for asked in (None, True):
        with pytest.raises(UserError, match="model: the model's chat template raises: never"):
            fetch_model({"path": str(folder)}, tmp_path / "a", None, asked=asked)
    assert "raises: never" in str(fetch_model({"path": str(folder)}, tmp_path / "b", None, asked=False)["warnings"])
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="model: has no chat template.*`chat_template: chatml`"):
        fetch_model({"path": str(folder)}, tmp_path / "c", None, asked=True)
    assert "has no chat template" in str(fetch_model({"path": str(folder)}, tmp_path / "d", None)["warnings"])
    given = {"chat_template": FAMILIES["chatml"].template}
    fetch_model({"path": str(folder)}, tmp_path / "e", None, given, asked=True)
    assert asked_by(tmp_path / "e")[1].endswith("<|im_start|>assistant\n")
    assert not (folder / "chat_template.jinja").exists()


def test_planning_tells_a_template_by_which_a_model_cannot_be_asked(pico_model, tmp_path):
    from moult.config.load import load
    from moult.planning.start import contradicting_folders

    def told(**settings):
        base = {"name": "base", "fetch": {"path": str(folder)}, "parameters": 0.001} | settings
        raw = {"name": "x", "models": [base], "endpoints": [{"name": "it", "serve": "base"}]}
        return list(contradicting_folders(load(raw), lambda kind, name: False))

    folder = shutil.copytree(pico_model, tmp_path / "model")
    assert told() == told(chat_template="plain") == []
    (switch,) = told(thinking=True)
    assert "model base: thinking: " in switch and "no switch" in switch
    (folder / "chat_template.jinja").unlink()
    (missing,) = told()
    assert "model base: " in missing and "has no chat template" in missing
    assert told(chat_template="chatml") == []
    (tmp_path / "twice.jinja").write_text("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}")
    for fetch in ({"path": str(folder)}, {"hub": "a/b", "revision": "0" * 40}):
        (twice,) = told(chat_template=str(tmp_path / "twice.jinja"), fetch=fetch)
        assert "says a turn of the user twice" in twice


def test_a_template_that_is_nowhere_or_set_where_nothing_is_fetched_is_told():
    from moult.config.load import load

    base = {"name": "base", "fetch": {"path": "here"}, "parameters": 0.001}
    with pytest.raises(UserError, match="'chatlm' is no readable file and none by name; did you mean 'chatml'"):
        load({"name": "x", "models": [base | {"chat_template": "chatlm"}]})
    data = {"name": "talk", "format": "alpaca", "files": {"train": "talk.json"}}
    tuned = {"name": "tuned", "finetune": {"base": "base", "data": ["talk"]}, "thinking": False}
    with pytest.raises(UserError, match="thinking: belongs to the fetched model"):
        load({"name": "x", "datasets": [data], "models": [base, tuned]})
