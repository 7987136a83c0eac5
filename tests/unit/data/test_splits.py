"""Rows drawn for a split: equal texts together, each label its share, the file's order nothing."""

import random
from collections import Counter

import pytest
from moult.data.splits import drawn


def rows_of(texts, labels=None):
    labels = labels or [None] * len(texts)
    return [
        {"uid": f"d:train:{place}", "title": None, "text": text, "label": label}
        for place, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_equal_texts_stay_together_and_labels_have_their_share(seed):
    chance = random.Random(seed)
    labels = chance.choices(["joy", "anger", "fear"], [6, 3, 1], k=300)
    texts = [f"Text {chance.randrange(150)}{chance.choice(['', '!', ' '])} {label}" for label in labels]
    rows = rows_of(texts, labels)
    chosen = drawn(rows, 0.2, seed)
    sides = {}
    for row in rows:
        sides.setdefault(" ".join(row["text"].replace("!", " ").split()), set()).add(row["uid"] in chosen)
    assert all(len(side) == 1 for side in sides.values())
    assert abs(len(chosen) - 60) <= 3
    share = Counter(row["label"] for row in rows if row["uid"] in chosen)
    assert all(abs(share[label] - 0.2 * count) <= 4 for label, count in Counter(labels).items())
    chance.shuffle(rows)
    assert drawn(rows, 0.2, seed) == chosen and drawn(rows, 0.2, seed + 1) != chosen


def test_a_label_with_one_text_stays_in_train():
    rows = rows_of([f"text {place}" for place in range(20)] + ["alone", "Alone."], ["joy"] * 20 + ["fear"] * 2)
    for seed in range(30):
        assert not drawn(rows, 0.4, seed) & {"d:train:20", "d:train:21"}


def test_one_text_alone_is_not_parted():
    assert drawn(rows_of(["Same", "same!", "SAME"]), 0.5, 1) == set()


def test_texts_without_words_are_told_apart():
    rows = rows_of(["😂", "!!!", "😢"] * 10)
    chosen = drawn(rows, 0.3, 1)
    assert len({row["text"] for row in rows if row["uid"] in chosen}) == 1 and len(chosen) == 10


def test_every_row_a_label_of_its_own_still_draws_some():
    rows = rows_of([f"text {place}" for place in range(10)], [f"{place}.0" for place in range(10)])
    assert len(drawn(rows, 0.3, 1)) == 3
