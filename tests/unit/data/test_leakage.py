"""Rows that leak are those of the plain definition: every pair of rows compared."""

import os
import random
import unicodedata

import pytest
from moult.data import duplicates
from moult.data.duplicates import Texts, closest
from moult.data.leakage import normalised

CASES = 4000 if os.environ.get("MOULT_SOAK") else 5


def compared(earlier, later, near):
    """Return what `closest` yields, of texts with all their 5-grams, each pair multiplied."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectors = HashingVectorizer(analyzer="char_wb", ngram_range=(5, 5), alternate_sign=False)
    whole = vectors.transform(earlier).T.tocsc()
    scores = (vectors.transform(later) @ whole).tocsr()
    for place in range(len(later)):
        own = scores[place]
        if own.nnz and round(min(1.0, own.data.max()), 4) >= near:
            yield place, int(own.indices[own.data.argmax()]), float(own.data.max())


def tables(chance):
    """Return (earlier, later) texts, many of them the same, turned round, doubled, or changed in a word."""
    letters = chance.choice(["ab", "abcdefgh", "abcdefghijklmnopqrstuvwxyz", "абвгд积极"])
    words = ["".join(chance.choices(letters, k=chance.randint(1, 9))) for _ in range(chance.choice([3, 20, 200]))]
    weights = [1 / (place + 1) for place in range(len(words))]
    base = [chance.choices(words, weights, k=chance.randint(0, chance.choice([3, 12, 40]))) for _ in range(30)]

    def text():
        found = list(chance.choice(base))
        if found and chance.random() < 0.4:
            found[chance.randrange(len(found))] = chance.choice(words)
        if chance.random() < 0.3:
            chance.shuffle(found)
        return normalised(" ".join(found * chance.choice([1, 1, 1, 2])))

    return [[text() for _ in range(chance.randint(1, 80))] for _ in range(2)]


@pytest.mark.parametrize("bounds", [{}, {"LOOKUPS": 40, "PAIRS": 7, "PRODUCT": 3}], ids=["whole", "in small blocks"])
def test_the_closest_texts_are_those_of_all_pairs(monkeypatch, bounds):
    for name, value in bounds.items():
        monkeypatch.setattr(duplicates, name, value)
    chance, found = random.Random(5), 0
    for _ in range(CASES):
        earlier, later = tables(chance)
        near = chance.choice([0.9, 0.9, 0.8, 0.5, 0.99, 1.0, 0.1])
        right = list(compared(earlier, later, near))
        told = [one for one in closest(Texts(earlier), Texts(later), near) if round(min(1.0, one[2]), 4) >= near]
        assert told == right
        found += len(right)
    assert found > 5 * CASES


def test_nothing_is_close_to_no_text():
    assert not list(closest(Texts([]), Texts(["a"]), 0.9))
    assert not list(closest(Texts(["", "a b"]), Texts(["", ""]), 0.9))


def test_vowel_signs_tell_words_apart():
    assert normalised("सुख!") != normalised("सूख") and normalised("กิ") != normalised("กี")
    assert normalised("Café, olé") == normalised(unicodedata.normalize("NFD", "café olé")) == "café olé"


def test_texts_that_are_like_one_before_them_are_those_of_all_pairs():
    chance, found = random.Random(6), 0
    for _ in range(CASES):
        texts = list(dict.fromkeys(filter(None, tables(chance)[0])))
        near = chance.choice([0.9, 0.8, 0.5])
        right = [
            (place, best, value)
            for place in range(1, len(texts))
            for _, best, value in compared(texts[:place], texts[place : place + 1], near)
        ]
        same = Texts(texts)
        told = [one for one in closest(same, same, near) if round(min(1.0, one[2]), 4) >= near]
        assert [one[0] for one in told] == [one[0] for one in right]
        assert [one[2] for one in told] == pytest.approx([one[2] for one in right])
        found += len(right)
    assert found > 2 * CASES
