"""Name constraints: exactly the names, whatever they share."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moult.expansion import one_of

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
