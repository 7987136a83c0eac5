"""What of publishing is known before anything is built."""

import pytest
from moult.base.errors import UserError
from moult.config.load import load
from moult.stages import BY_RULE

STAGE = BY_RULE["publish_model"]
PLACE = {"hub": "me/tuned", "token": "MY_TOKEN"}


def config(**base):
    base = {"name": "base", "fetch": {"path": "models/base"}, "parameters": 1, "license": "Apache-2.0"} | base
    parents = [{"model": name, "weight": 1} for name in ("base", "other")]
    merged = {"name": "tuned", "merge": {"method": "linear", "parents": parents}, "publish": PLACE, "license": "MIT"}
    others = {"name": "other", "license": "MIT", "fetch": {"path": "models/other"}}
    return {"name": "study", "push": True, "models": [base, base | others, merged]}


def inputs(raw):
    return STAGE.inputs(load(raw), "tuned")


def test_it_is_no_part_of_a_whole_build_and_looks_at_all_fetched_models_behind_it(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hf_0123456789")
    cfg = load(config())
    assert STAGE.planned(cfg) == [] and STAGE.names(cfg) == [("tuned",)]
    found = STAGE.inputs(cfg, "tuned")
    assert [one.name for one in (found["model"], *found["fetched"])] == ["tuned", "base", "other"]
    recipe = STAGE.recipe(cfg, "tuned")
    assert recipe["private"] and recipe["ancestors"] == {"base": "Apache-2.0", "other": "MIT"}
    assert STAGE.client(cfg, "tuned") == {"token": "MY_TOKEN"}


@pytest.mark.parametrize(
    ("raw", "variables", "sentence"),
    [
        (config() | {"push": False}, {}, "tuned is not published: to send it to me/tuned, add `--config push=true`"),
        (
            config(),
            {"MY_TOKEN": " "},
            "tuned is not published to me/tuned: the variable MY_TOKEN is not set; export",
        ),
        (config(), {"HF_ENDPOINT": "http://hub.example.org"}, "a token sent over http:// can be read by every machine"),
        (
            config(license="CC-BY-ND-4.0"),
            {},
            "base, of which it is made, is under CC-BY-ND-4.0, which permits",
        ),
        (config(license="Acme"), {}, "base, of which it is made, is under Acme, of which Moult does not know"),
    ],
)
def test_what_is_refused(monkeypatch, raw, variables, sentence):
    for name, value in ({"MY_TOKEN": "hf_0123456789"} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        inputs(raw)
    assert sentence in str(caught.value)


def test_what_only_a_fetched_card_will_say_is_left_to_the_job(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hf_0123456789")
    assert inputs(config(license=None))
    permitted = config(license="Acme")
    permitted["models"][2] = permitted["models"][2] | {"publish": PLACE | {"permitted": ["Acme"]}}
    assert inputs(permitted)


def test_two_models_do_not_go_to_one_repository():
    raw = config()
    raw["models"][0]["publish"] = PLACE | {"hub": "me/Tuned"}
    with pytest.raises(UserError, match="publish: two go to me/"):
        load(raw)
