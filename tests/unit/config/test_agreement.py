"""Suites that measure judges: what may be a judge, and what is refused before anything is built."""

import functools
import operator

import pytest
from judges import judged_config
from moult.base.errors import UserError
from moult.config.load import load
from moult.stages import BY_RULE


def test_judges_are_models_endpoints_files_and_baselines():
    cfg = load(judged_config())
    stage = BY_RULE["judge_items"]
    recipes = {names: stage.recipe(cfg, *names) for names in stage.names(cfg)}
    served = {names: recipe["endpoint"].get("serve") for names, recipe in recipes.items()}
    others = [("people", name) for name in ("teacher", "somebody", "random", "first")] + [("hidden", "teacher")]
    ours = [("people", "base"), ("enforced", "served")]
    assert served == dict.fromkeys(others) | dict.fromkeys(ours, "base")
    assert recipes["people", "somebody"]["judge"] == {"name": "somebody", "files": ["pairs"]}
    assert recipes["people", "random"]["judge"] == {"name": "random", "baseline": "random"}
    # What no judge is asked about is not in the recipe of one that is not asked.
    assert "prompts" not in recipes["people", "random"] and "prompts" in recipes["people", "base"]
    assert [stage.model(cfg, *names) for names in served] == list(served.values())
    assert "base" in cfg.kept_models
    needs = {names: stage.needed(cfg, *names) for names in recipes}
    assert needs == dict.fromkeys(others, "tables") | dict.fromkeys(ours, "inference")


SUITE, EVALUATION = ("suites", 0, "agreement"), ("evaluations", 0)


@pytest.mark.parametrize(
    ("place", "changes", "said"),
    [
        (
            EVALUATION,
            {"judges": ["techer"]},
            "judges 'techer': no model and no endpoint has this name; did you mean 'teacher'?",
        ),
        (EVALUATION, {"judges": ["random", "base"]}, "judges 'random': a baseline has this name"),
        (EVALUATION, {"judges": [{"name": "x", "model": "bas"}]}, "model: 'bas' is not there; did you mean 'base'?"),
        (EVALUATION, {"judges": [{"name": "x", "endpoint": "bas"}]}, "endpoint: 'bas' is not there"),
        (
            EVALUATION,
            {"judges": [{"name": "x", "model": "base", "endpoint": "teacher"}]},
            "is model and endpoint; write one",
        ),
        (EVALUATION, {"judges": [{"name": "x", "files": {}}]}, "name the file of a dataset"),
        (
            EVALUATION,
            {"judges": [{"name": "x", "files": {"pair": "a"}}]},
            "files: 'pair' is not among the suite's datasets",
        ),
        (EVALUATION, {"judges": [{"name": "base", "published": "GPT4"}]}, "no judge 'GPT4'; did you mean 'GPT-4"),
        (EVALUATION, {"judges": [], "models": ["base"]}, "an agreement suite measures judges; write `judges`"),
        (EVALUATION, {"judges": []}, " that the suite measures"),
        (EVALUATION, {"against": "rand"}, "against: 'rand' is not measured by this suite; did you mean 'random'?"),
        (SUITE, {"datasets": ["pears"]}, "suites 'people', datasets: 'pears' is not there; did you mean 'pairs'?"),
        (SUITE, {"split": "train"}, "dataset 'pairs' has no file for 'train'"),
        (SUITE, {"rubric": "maths"}, "rubric: 'maths' is not in resources/judge/criteria/ or judge/criteria/"),
        (SUITE, {"form": "yaml"}, "form"),
        (SUITE, {"grade": "judge/grades"}, "prompt 'judge/grades' is not in resources/prompts/"),
        (SUITE, {"published": {"pairs": "Auto-I"}}, "no dataset 'Auto-I'; did you mean 'Auto-J'?"),
        (SUITE, {"published": {"more": "Auto-J"}}, "published: 'more' is not among the suite's datasets"),
        (SUITE, {"baselines": ["median"]}, "baselines"),
    ],
)
def test_a_wrong_setting_is_refused(place, changes, said):
    config = judged_config()
    entry = functools.reduce(operator.getitem, place, config)
    entry |= changes
    with pytest.raises(UserError) as error:
        load(config)
    assert said in str(error.value)


def test_a_model_and_an_endpoint_of_one_name_are_told_apart():
    config = judged_config()
    config["endpoints"].append({"name": "base", "url": "http://127.0.0.1:9/v1", "model": "big"})
    with pytest.raises(UserError, match="a model and an endpoint have this name; say which"):
        load(config)
    config["evaluations"][0]["judges"][1] = {"name": "base", "endpoint": "base"}
    assert BY_RULE["judge_items"].client(load(config), "people", "base")["concurrency"] > 0


def test_a_budget_counts_a_judges_answers():
    config = judged_config() | {"budget": 1}
    del config["endpoints"][0]["price"]
    with pytest.raises(UserError, match="endpoints 'teacher', price: is missing, but there is a `budget`"):
        load(config)
