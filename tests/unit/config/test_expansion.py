"""Name constraints: exactly the names, whatever they share. Rounds: what they are written out into."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moult.config.expansion import expand, one_of

NAMES = st.text("ab-._1", min_size=1, max_size=5)


@given(st.sets(NAMES, max_size=12), st.lists(NAMES, max_size=12))
def test_a_constraint_matches_its_names_and_no_others(names, others):
    pattern = re.compile(one_of(sorted(names)))
    for name in [*names, *others, *(name + "a" for name in names), ""]:
        assert bool(pattern.fullmatch(name)) == (name in names)


@pytest.mark.parametrize("names", [["a", "ab"], ["ab", "a"]])
def test_a_name_that_begins_another_is_told_from_it_inside_a_path(names):
    path = re.compile(f"models/(?P<model>{one_of(names)})$")
    assert [path.match(f"models/{name}")["model"] for name in names] == names


def test_a_constraint_stays_short_when_names_share_their_beginnings():
    names = [f"{kind}-{number}" for kind in ("tuned", "merged") for number in range(1000)]
    assert len(one_of(names)) < 500


def rounds(**more):
    entry = {"name": "m", "base": "base", "dataset": "q", "rows": 10, "interval": 4, "judge": "gpt"}
    return {"endpoints": [{"name": "gpt"}], "models": [{"name": "base"}], "rounds": [entry | more]}


def test_rounds_are_written_out_into_endpoints_corpora_and_models():
    written = expand(rounds(truncated="keep", finetune={"epochs": 1}))
    assert [entry["name"] for entry in written["models"]] == ["base", "m-r1", "m-r2", "m-r3"]
    assert written["endpoints"][1:] == [
        {"name": "m-r1-student", "serve": "base"},
        {"name": "m-r2-student", "serve": "m-r1"},
        {"name": "m-r3-student", "serve": "m-r2"},
    ]
    second = {"of": "m", "number": 2, "count": 3, "interval": 4}
    assert written["corpora"][1] == {
        "kind": "refined",
        "name": "m-r2",
        "endpoint": "m-r2-student",
        "judge": "gpt",
        "dataset": "q",
        "splits": ["train"],
        "slice": [4, 8],
        "truncated": "keep",
        "round": second,
    }
    tuned = {"epochs": 1, "base": "m-r1", "data": ["m-r2"]}
    assert written["models"][2] == {"name": "m-r2", "round": second, "finetune": tuned}


@pytest.mark.parametrize(
    ("rows", "interval", "limit", "count"),
    [(10, 4, None, 3), (12, 4, None, 3), (13, 4, None, 4), (3, 4, None, 1), (10_276, 10, None, 1028), (12, 4, 5, 2)],
)
def test_the_number_of_rounds_follows_from_rows_interval_and_limit(rows, interval, limit, count):
    given = rounds(rows=rows, interval=interval) | ({"limit": limit} if limit else {})
    slices = [entry["slice"] for entry in expand(given)["corpora"]]
    assert slices == [[start * interval, (start + 1) * interval] for start in range(count)]
    assert slices[-1][0] < min(rows, limit or rows) <= slices[-1][1]


def test_the_interval_is_what_a_group_can_afford_unless_it_is_said():
    given = rounds(rows=10_276)
    del given["rounds"][0]["interval"]
    assert len(expand(given)["corpora"]) == 4


def test_rounds_over_an_axis_are_written_out_for_each_of_its_values():
    written = expand(rounds(**{"for": {"student": ["a", "b"]}, "name": "m-{student}", "base": "{student}"}))
    assert [(entry["name"], entry["finetune"]["base"]) for entry in written["models"][1::3]] == [
        ("m-a-r1", "a"),
        ("m-b-r1", "b"),
    ]


def test_the_last_round_has_a_name_that_does_not_depend_on_their_number():
    given = rounds()
    given["models"].append({"name": "tuned", "optimise": {"base": "m-last", "data": ["m-last-pairs"]}})
    given["evaluations"] = [{"suite": "s", "models": ["base", "m-last"], "against": "m-last"}]
    written = expand(given)
    assert written["models"][1]["optimise"] == {"base": "m-r3", "data": ["m-last-pairs"]}
    assert written["evaluations"] == [{"suite": "s", "models": ["base", "m-r3"], "against": "m-r3"}]
    given["rounds"][0]["interval"] = 10
    assert expand(given)["evaluations"][0]["against"] == "m-r1"


def test_expanding_changes_nothing_that_was_given():
    given = rounds()
    before = repr(given)
    assert expand(given) == expand(given) and repr(given) == before


@pytest.mark.parametrize("wrong", [{"rows": "many"}, {"interval": 0}, {"finetune": 1}, {"rows": None}])
def test_what_the_types_will_refuse_is_not_written_out(wrong):
    assert expand(rounds(**wrong))["corpora"] == []
