"""Reasons are counted by kind."""

from moult.base.reasons import in_words, kinds


def test_what_differs_from_row_to_row_is_no_kind_of_its_own():
    reasons = ["has 2 fields, the header has 3", "has 5 fields, the header has 3", "empty text"]
    reasons += [f"label {label!r} is not in the label set" for label in ("a", "b", "b", "c 1", "d", "e")]
    assert kinds(reasons) == {
        "label 'b', 'a', 'c 1' or 2 others is not in the label set": 6,
        "has 2 to 5 fields, the header has 3": 2,
        "empty text": 1,
    }
    assert kinds(["label 'a' is no", "label 'b' is no"]) == {"label 'a' or 'b' is no": 2}
    assert kinds(["is not UTF-8 (byte 0xe9)", "holds half a character (U+D83D)"]).keys() == {
        "is not UTF-8 (byte 0xe9)",
        "holds half a character (U+D83D)",
    }


def test_a_line_has_the_most_frequent_reasons_with_their_counts():
    reasons = [letter for place, letter in enumerate("abcdefgh") for _ in range(place + 1)]
    assert in_words(reasons) == "8 h; 7 g; 6 f; 5 e; 4 d; 6 for 3 other reasons"
