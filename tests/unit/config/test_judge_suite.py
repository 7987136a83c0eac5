"""Suites in which one judge or several compare answers: what they are asked, and what is refused."""

import pytest
from moult.base.errors import UserError
from moult.config.load import load
from moult.stages import BY_RULE
from pico_build import pico_config


def config(**judge):
    """Return the pico build's config with a judge suite of other settings; None takes one away."""
    told = pico_config()
    suite = told["suites"][1]["judge"]
    told["suites"][1]["judge"] = {key: value for key, value in (suite | judge).items() if value is not None}
    return told


def recipe(cfg, *names, rule="judge_answers"):
    return BY_RULE[rule].recipe(cfg, *names)


def test_the_keys_of_a_rubric_are_there_only_where_it_is_set():
    plain = recipe(load(config()), "quality", "advisor")
    assert not {"form", "rubric"} & plain.keys() and plain["criteria"] == ["accuracy"]
    cfg = load(config(form="line", rubric="coding", criteria=None))
    told = recipe(cfg, "quality", "advisor")
    assert (told["form"], told["rubric"]["name"]) == ("line", "coding")
    assert told["criteria"] == [one["name"] for one in told["rubric"]["dimensions"]]
    assert recipe(cfg, "quality", "advisor", rule="score_judgements")["criteria"] == told["criteria"]
    # Nothing else is asked otherwise: the other suite's recipe is what it was.
    assert recipe(cfg, "data", "distilled") == recipe(load(config()), "data", "distilled")


@pytest.mark.parametrize(
    ("judge", "form", "rubric"),
    [
        ({"form": "bracket"}, "bracket", "default"),
        ({"rubric": "math"}, "json", "math"),
        ({"endpoint": None, "judges": [{"endpoint": "student", "form": "line"}, "teacher"]}, "line", "default"),
    ],
)
def test_what_is_not_written_follows(judge, form, rubric):
    told = recipe(load(config(criteria=None, **judge)), "quality", "advisor")
    assert (told["form"], told["rubric"]["name"]) == (form, rubric)
    assert "{{ dimensions" in str(told["prompt"]) or "in dimensions" in told["prompt"]["user"]


def test_a_further_judge_is_a_job_of_its_own_and_the_first_one_stays_as_it_was():
    one, two = load(config()), load(config(endpoint=None, judges=["student", "teacher"]))
    assert recipe(one, "quality", "advisor") == recipe(two, "quality", "advisor")
    again = BY_RULE["judge_again"]
    assert again.names(one) == [] and again.names(two) == [("quality", "advisor", "teacher")]
    assert again.recipe(two, "quality", "advisor", "teacher")["endpoint"]["model"] == "big"
    assert again.client(two, "quality", "advisor", "teacher")["concurrency"] == 2
    assert (again.model(two, "quality", "advisor", "teacher"), again.model(two, "quality", "advisor", "student")) == (
        None,
        "base",
    )
    assert [ref.path for ref in BY_RULE["compare_judges"].inputs(two, "quality")["opinions"]] == [
        "opinions/quality/advisor/teacher.jsonl"
    ]


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"judges": ["student", "teacher"]}, "write exactly one of endpoint, judges (here: endpoint, judges)"),
        ({"endpoint": None}, "write exactly one of endpoint, judges (here: none)"),
        ({"endpoint": None, "judges": ["student"]}, "judges"),
        (
            {"endpoint": None, "judges": ["student", {"endpoint": "student", "form": "line"}]},
            "judges: one stands twice",
        ),
        ({"endpoint": None, "judges": ["student", "techer"]}, "'techer' is not there; did you mean 'teacher'?"),
        ({"form": "line"}, "criteria: follow from the rubric"),
        ({"form": "lines", "criteria": None}, "form"),
        ({"rubric": "maths", "criteria": None}, "rubric: 'maths' is not in resources/judge/criteria/"),
        ({"rubric": "math", "criteria": None, "prompt": "judge/pair"}, "prompt: 'judge/pair' shows no `dimensions`"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(judge, said):
    with pytest.raises(UserError) as refused:
        load(config(**judge))
    assert said in str(refused.value)


def test_a_budget_asks_for_the_price_of_every_judge():
    told = config(endpoint=None, judges=["student", "other"])
    told["endpoints"].append({"name": "other", "url": "https://example.org/v1", "model": "x"})
    told["budget"] = 1.0
    with pytest.raises(UserError, match="'other', price: is missing"):
        load(told)
