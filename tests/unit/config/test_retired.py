"""Retired words of the config are read as those that replaced them, told once, and change no recipe."""

import copy
from pathlib import Path

import pytest
import yaml
from moult.base.errors import UserError
from moult.config.load import load
from moult.planning.start import checked_config

METEOR = Path(__file__).parents[3] / "config" / "demo" / "meteor.yaml"


@pytest.fixture
def raw():
    raw = yaml.safe_load(METEOR.read_text(encoding="utf-8"))
    asked = {"dataset": raw["rounds"][0]["dataset"], "endpoint": raw["rounds"][0]["judge"]}
    raw["corpora"] += [
        {"kind": "guidelines", "name": "advice", "truncated": "reject"} | asked,
        {"kind": "contrasts", "name": "drawn", "chosen": {"method": "minimum_bayes_risk", "samples": 3}} | asked,
    ]
    raw["rounds"][0]["truncated"] = "keep"
    return raw


def retired(raw):
    old = copy.deepcopy(raw)
    for entry in (old["corpora"][-2], old["rounds"][0]):
        entry["cut"] = entry.pop("truncated")
    old["corpora"][-1]["chosen"]["method"] = "consistency"
    return old


def recipes(cfg):
    return {corpus.name: corpus.recipe(cfg) for corpus in cfg.corpora}


def test_retired_words_are_told_once_and_change_no_recipe(raw):
    told = []
    cfg = load(retired(raw), "mine.yaml", told.append)
    assert recipes(cfg) == recipes(load(raw))
    assert sorted(told) == [
        "mine.yaml: corpora 'advice': the key `cut` is called `truncated` now; write `truncated: reject`.",
        "mine.yaml: corpora 'drawn', chosen: the method is called `minimum_bayes_risk` now; "
        "write `method: minimum_bayes_risk`.",
        f"mine.yaml: rounds {raw['rounds'][0]['name']!r}: the key `cut` is called `truncated` now; "
        "write `truncated: keep`.",
    ]
    found = recipes(cfg)
    assert found["advice"]["cut"] == "reject" and found["drawn"]["chosen"]["method"] == "consistency"
    rounds = [corpus.recipe(cfg)["cut"] for corpus in cfg.corpora if getattr(corpus, "round", None)]
    assert len(rounds) > 1 and set(rounds) == {"keep"}


def test_only_the_process_that_speaks_tells_of_retired_words(raw, monkeypatch):
    monkeypatch.chdir(METEOR.parents[2])
    for speaks in (True, False):
        told = []
        checked_config(retired(raw), "mine.yaml", told.append, speaks)
        assert any("`truncated`" in sentence for sentence in told) == speaks


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"truncated": "keep", "cut": "keep"}, "cut: unknown key"),
        ({"cut": "perhaps"}, "truncated: 'perhaps' is none of what may stand here"),
    ],
)
def test_a_retired_key_is_as_strict_as_the_one_that_replaced_it(raw, entry, sentence):
    del raw["corpora"][-2]["truncated"]
    raw["corpora"][-2] |= entry
    with pytest.raises(UserError, match=sentence):
        load(raw)
