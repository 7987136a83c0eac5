"""Equal spellings are equal, words are words, and a word ends where its script says so."""

import random
import re
import unicodedata

import pytest
from moult.base.text import begins_word, count_words, ends_word, folded, has_spellings, marks


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Fröhlich", unicodedata.normalize("NFD", "FRÖHLICH")),
        ("straße", "STRASSE"),
        ("kızgın", "KIZGIN"),
        ("iyi", "İYİ"),
        ("χαρούμενος", "ΧΑΡΟΎΜΕΝΟΣ"),
        ("злой", unicodedata.normalize("NFD", "ЗЛОЙ")),
        ("기쁨", unicodedata.normalize("NFD", "기쁨")),
        ("joy", "ｊｏｙ"),
        ("خوشحال", "خوش\u200cحال"),
        ("سعيد", "\u200fسعيد"),
        ("hope", "ho\u00adpe"),
    ],
)
def test_spellings_of_a_word_are_equal_when_folded(one, other):
    assert one != other and folded(one) == folded(other)
    assert folded(folded(one)) == folded(one)


def test_letters_that_differ_stay_apart():
    words = ["सुख", "सूख", "กิ", "กี", "é", "e", "и", "й", "سعيد", "سعيدة", "か", "が"]
    assert len({folded(word) for word in words}) == len(words)


def test_only_labels_that_have_other_spellings_are_said_to_have_some():
    assert not any(map(has_spellings, ["joy", "T-shirt", "积极", "доволен", "よい", "good day"]))
    assert all(map(has_spellings, ["злой", "straße", "kızgın", "né", "기쁨"]))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" it's a well-known fact - really ", 6),
        ("Привет, мир!", 2),
        ("这是，很好。", 4),
        ("今天 天气 good!", 5),
        ("コーヒー", 4),
        ("สวัสดี", 4),
        ("खुशी है", 2),
        ("😂", 1),
    ],
)
def test_words_are_counted_in_every_script(text, count):
    assert count_words(text) == count


def test_words_between_blanks_are_counted_as_ever():
    chance = random.Random(1)
    letters = "ab é\t.-'я\n"
    for text in ("".join(chance.choices(letters, k=chance.randint(0, 12))) for _ in range(2000)):
        assert count_words(text) == len(text.split())


def test_ascii_words_end_where_a_letter_or_digit_does_not_follow():
    chance = random.Random(2)
    for text in ("".join(chance.choices("ab1 _+.", k=chance.randint(1, 9))) for _ in range(2000)):
        for at in range(len(text)):
            assert begins_word(text, at) == (re.search("[a-z0-9]$", text[:at]) is None)
            assert ends_word(text, at) == (at == 0 or re.match("[a-z0-9]", text[at:]) is None)


def test_no_word_ends_inside_a_letter_with_its_marks():
    for text in ("é à", "खुशी", "กำลังดี", "ខ្មែរ", "မြန်မာ", "שָׁלוֹם", "tiếng"):
        decomposed = unicodedata.normalize("NFD", text)
        for at in range(1, len(decomposed)):
            if unicodedata.category(decomposed[at])[0] == "M":
                assert not begins_word(decomposed, at) and not ends_word(decomposed, at)


def test_marks_are_those_of_unicode():
    mark = re.compile(f"[{marks()}]")
    codes = (*range(0x5000), *range(0xA000, 0xAC00), *range(0xFB00, 0x1F000, 3), *range(0xE0000, 0xE0200))
    assert all((unicodedata.category(chr(code))[0] == "M") == bool(mark.match(chr(code))) for code in codes)
