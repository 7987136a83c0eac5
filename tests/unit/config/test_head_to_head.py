"""Head-to-head suites: what is asked of whom, and what is refused before anything is built."""

import functools
import json
import operator

import pytest
from moult.base.errors import UserError
from moult.config.load import load
from moult.evaluation.suites import KINDS
from moult.planning.start import absent_files, awaited_files, checked_config
from moult.stages import BY_RULE

QUESTIONS = {
    "alpaca.json": [{"instruction": f"do {at}", "output": "plain", "dataset": "part"} for at in range(3)],
    "arena.json": [{"question_id": f"q{at}", "category": "c", "turns": [{"content": "ask"}]} for at in range(3)],
    "mt.json": [{"question_id": at, "category": "math", "turns": ["one", "two"], "reference": []} for at in range(3)],
    "answers.json": [{"instruction": f"do {at}", "output": "good"} for at in range(3)],
    "told.json": [{"question_id": 0, "turn": 1, "score": 7, "model": "a"}, {"question_id": 0, "turn": 2, "score": 5}],
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config with a suite of each kind, in a folder that has their files."""
    monkeypatch.chdir(tmp_path)
    for name, rows in QUESTIONS.items():
        (tmp_path / name).write_text(json.dumps(rows))
    baseline = {"name": "other", "model": "other"}
    return {
        "name": "c",
        "models": [
            {"name": name, "fetch": {"path": f"models/{name}"}, "parameters": 8} for name in ("base", "tuned", "other")
        ],
        "endpoints": [{"name": "judge", "serve": "base"}, {"name": "big", "url": "https://a.example/v1", "model": "b"}],
        "suites": [
            {"name": "letters", "head_to_head": {"kind": "alpaca", "questions": "alpaca.json", "endpoint": "judge"}},
            {
                "name": "verdicts",
                "head_to_head": {"kind": "arena", "questions": "arena.json", "endpoint": "big", "baseline": baseline},
            },
            {"name": "grades", "head_to_head": {"kind": "mt", "questions": "mt.json", "endpoint": "big"}},
        ],
        "evaluations": [
            {"suite": "letters", "models": ["tuned"], "files": [{"name": "good", "answers": "answers.json"}]},
            {"suite": "verdicts", "models": ["tuned"]},
            {"suite": "grades", "files": [{"name": "told", "judgements": "told.json", "of": "a"}]},
        ],
    }


def test_models_answer_files_are_read_and_the_judge_is_needed_where_it_is_asked(config):
    cfg = load(config)
    answer, judge, score = (BY_RULE[f"{rule}"] for rule in ("answer_turns", "judge_battles", "score_battles"))
    # The baseline answers too.
    assert set(answer.names(cfg)) == {("letters", "tuned"), ("verdicts", "tuned"), ("verdicts", "other")}
    assert {"tuned", "other"} <= set(cfg.kept_models) & cfg.asked_models
    assert judge.names(cfg) == score.names(cfg)
    asked = {names: judge.recipe(cfg, *names)["endpoint"].get("name") for names in judge.names(cfg)}
    expected = {("letters", "tuned"): "judge", ("letters", "good"): "judge", ("verdicts", "tuned"): "big"}
    assert asked == expected | {("grades", "told"): None}
    assert [judge.needed(cfg, *names) for names in asked] == ["inference", "inference", "tables", "tables"]
    assert set(judge.inputs(cfg, "verdicts", "tuned")) == {"questions", "ours", "theirs"}
    assert set(judge.inputs(cfg, "letters", "good")) == {"questions", "ours", "served"}
    assert set(judge.inputs(cfg, "grades", "told")) == {"questions", "judgements"}
    assert "prompt" not in judge.recipe(cfg, "grades", "told")


def test_what_is_judged_both_ways_bridges_to_the_others(config):
    told = [{"instruction": "do 1", "output_1": "plain", "output_2": "good", "preference": 1.7}]
    with open("told_letters.json", "w") as handle:
        json.dump(told, handle)
    config["evaluations"][0]["files"][0]["judgements"] = "told_letters.json"
    score, cfg = BY_RULE["score_battles"], load(config)
    assert [one.name for one in score.inputs(cfg, "letters", "tuned")["known"]] == ["letters/good"]
    assert score.inputs(cfg, "letters", "good")["known"] == []


def test_the_published_difficulties_are_part_of_alpacas_scores_alone(config):
    cfg = load(config)
    found = {names: "difficulties" in BY_RULE["score_battles"].recipe(cfg, *names) for names in (("letters", "tuned"),)}
    assert found == {("letters", "tuned"): True}
    assert "difficulties" not in BY_RULE["score_battles"].recipe(cfg, "verdicts", "tuned")


ALPACA, ARENA, MT = (("suites", at, "head_to_head") for at in range(3))
EVALUATION = ("evaluations", 0)


@pytest.mark.parametrize(
    ("place", "changes", "said"),
    [
        (ALPACA, {"kind": "alpca"}, "head_to_head, kind: 'alpca' is no kind; did you mean 'alpaca'?"),
        (ALPACA, {"order": "one"}, "head_to_head, order: unknown key; did you mean 'orders'?"),
        (ALPACA, {"endpoint": None}, "suites 'letters', endpoint: is needed to judge 'tuned'"),
        (ALPACA, {"endpoint": "jude"}, "suites 'letters', endpoint: 'jude' is not there; did you mean 'judge'?"),
        (ALPACA, {"questions": None}, "suites 'letters', questions: is needed to judge 'tuned'"),
        (ALPACA, {"published": {"tuned": "Target-WRPO"}}, "wrpo.csv has no model 'Target-WRPO'; did you mean"),
        (
            ALPACA,
            {"published": {"tund": "Target-SFT"}},
            "published: 'tund' is not measured by this suite; did you mean",
        ),
        (ALPACA, {"baseline": {"name": "x", "answers": "told.json"}}, "told.json, row 1: has no answer"),
        (ARENA, {"baseline": {"name": "x"}}, "baseline: write exactly one of model, answers"),
        (ARENA, {"baseline": None}, "baseline: the questions come without answers to compare with; name one"),
        (ARENA, {"baseline": {"name": "x", "model": "bas"}}, "baseline: 'bas' is not there; did you mean 'base'?"),
        (ARENA, {"questions": "mt.json"}, "mt.json, row 1: question 0 has 2 turns, but such a suite asks 1"),
        (MT, {"baseline": {"name": "x", "model": "base"}}, "head_to_head: baseline is no setting of mt"),
        (MT, {"references": "answers.json"}, "answers.json, row 1: is a reference for question"),
        (
            MT,
            {"prompt": "head_to_head/arena"},
            "prompt: 'head_to_head/arena' cannot be filled: 'answer_A' is undefined",
        ),
        (EVALUATION, {"files": [{"name": "z"}]}, "files 'z': write `answers`, `judgements` or both"),
        (EVALUATION, {"files": [{"name": "base", "answers": "answers.json"}]}, "'base': a model has this name"),
        (EVALUATION, {"files": [{"name": "z", "answers": "mt.json"}]}, "mt.json, row 1: has no answer"),
        (EVALUATION, {"files": [{"name": "z", "judgements": "told.json"}]}, "told.json, row 1: has the columns of no"),
        (EVALUATION, {"settings": [{"name": "s", "models": "tuned"}]}, "settings: a head-to-head suite measures"),
    ],
)
def test_a_wrong_setting_is_refused(config, place, changes, said):
    functools.reduce(operator.getitem, place, config).update(changes)
    with pytest.raises(UserError) as error:
        refuse(config)
    assert said in str(error.value)


def refuse(config):
    """Raise what planning says of a config and of the files that its suites name."""
    cfg = load(config)
    for kind in KINDS:
        for sentence in kind.flaws(cfg):
            raise UserError(sentence)


def test_files_that_are_put_there_by_hand_may_be_missing(config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UserError, match=r"alpaca.json does not exist"):
        checked_config(config, "c", pytest.fail, False)
    config["evaluations"] = [{"suite": name, "models": ["tuned"]} for name in ("letters", "verdicts", "grades")]
    for suite in config["suites"]:
        suite["head_to_head"]["by_hand"] = "from its repository"
    config["suites"][2]["head_to_head"]["references"] = "references.jsonl"
    cfg = load(config)
    assert "mt.json is not there yet; put it there: from its repository." in " ".join(awaited_files(cfg))
    assert not list(absent_files(cfg))[len(cfg.models) :]
    assert set(BY_RULE["judge_battles"].inputs(cfg, "grades", "tuned")) == {"ours"}
    assert BY_RULE["judge_battles"].recipe(cfg, "grades", "tuned")["reads"] == ["questions", "references"]
