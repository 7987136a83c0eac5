"""The label parser reads what models write, and nothing else."""

import pytest
from moult.inference.structured import parse_label

EMOTIONS = ["neutral", "surprise", "fear", "sadness", "joy", "anger", "disgust"]
INTENTS = ["agree", "ask for help", "inform", "joke", "therapist_input"]
ACTS = ["statement-opinion", "statement-non-opinion", "others", "other"]


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("joy", EMOTIONS, ("joy", "ok")),
        ("emotion: joy", EMOTIONS, ("joy", "ok")),
        ('emotion: "joy".', EMOTIONS, ("joy", "ok")),
        ("emotion: ‘joy’", EMOTIONS, ("joy", "ok")),
        ("emotion: {joy}", EMOTIONS, ("joy", "ok")),
        ("{joy}", EMOTIONS, ("joy", "ok")),
        ("{ 'emotion': 'joy' }", EMOTIONS, ("joy", "ok")),
        ("emotion: [joy]", EMOTIONS, ("joy", "ok")),
        ("“joy”", EMOTIONS, ("joy", "ok")),
        ("**Joy**", EMOTIONS, ("joy", "ok")),
        ("EMOTION: JOY", EMOTIONS, ("joy", "ok")),
        (" \n\t", EMOTIONS, (None, "unknown")),
        ("joy, anger, joy", EMOTIONS, (None, "multi")),
        ("[JOY]", EMOTIONS, ("joy", "ok")),
        ("joy, joy and joy", EMOTIONS, ("joy", "ok")),
        ("joy or anger", EMOTIONS, (None, "multi")),
        ("joyful", EMOTIONS, (None, "unknown")),
        ("", EMOTIONS, (None, "unknown")),
        ("agreement", INTENTS, (None, "unknown")),
        ("disagree", INTENTS, (None, "unknown")),
        ("ask_for_help", INTENTS, ("ask for help", "ok")),
        ("Ask  for\nhelp", INTENTS, ("ask for help", "ok")),
        ("therapist input", INTENTS, ("therapist_input", "ok")),
        ("statement-non-opinion", ACTS, ("statement-non-opinion", "ok")),
        ("statement-opinion", ACTS, ("statement-opinion", "ok")),
        ("others", ACTS, ("others", "ok")),
        ("情感是positive的", ["positive", "negative"], ("positive", "ok")),
        ("情感：ｐｏｓｉｔｉｖｅ", ["positive", "negative"], ("positive", "ok")),
        ("情感是积极的", ["积极", "消极"], ("积极", "ok")),
        ("说话者的情感：neutral。", ["neutral", "positive", "negative"], ("neutral", "ok")),
        ("不是positive，是negative", ["positive", "negative"], (None, "multi")),
        ("不知道", ["positive", "negative"], (None, "unknown")),
        ("недоволен", ["доволен", "зол"], (None, "unknown")),
        ("Он ДОВОЛЕН.", ["доволен", "зол"], ("доволен", "ok")),
        ("Ответ: неприятный.", ["приятный", "скучный"], (None, "unknown")),
        ("réactif", ["actif", "passif"], (None, "unknown")),
        ("tre\u0300s positif", ["s", "positif"], ("positif", "ok")),
        ("cafe\u0301", ["café", "cafe"], ("café", "ok")),
        ("el año: no", ["o", "no"], ("no", "ok")),
        ("الشعور: سعيد، نعم", ["سعيد", "حزين"], ("سعيد", "ok")),
        ("سعيدة", ["سعيد", "حزين"], (None, "unknown")),
        ("ฉันเศร้ามาก", ["เศร้า", "ดีใจ"], ("เศร้า", "ok")),
        ("รักา", ["รัก"], (None, "unknown")),
        ("खुशी", ["खुश", "खुशी"], ("खुशी", "ok")),
        ("불만족", ["만족", "행복"], (None, "unknown")),
        ("만족입니다", ["만족", "행복"], ("만족", "ok")),
        ("1️⃣", ["1", "2"], ("1", "ok")),
        ("STRASSE", ["straße"], ("straße", "ok")),
        ("xab ab ab", ["ab ab"], ("ab ab", "ok")),
    ],
)
def test_label_is_read(text, labels, expected):
    assert parse_label(text, labels) == expected


def test_label_inside_a_longer_label_counts_only_on_its_own():
    labels = ["opinion", "no opinion"]
    assert parse_label("no opinion", labels) == ("no opinion", "ok")
    assert parse_label("no opinion, or opinion", labels) == (None, "multi")
