"""Text as Unicode has it: equal spellings, words, and where a word ends, in whatever script."""

import re
import unicodedata
from functools import cache

# Scripts that put no blanks between words: (first, last) of their blocks.
_CONTINUOUS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F)),
    *((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FA), (0x30FC, 0x312F), (0x31A0, 0x31BF)),
    *((0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0xA4CF), (0xA980, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF)),
    *((0xFF66, 0xFF9F), (0x20000, 0x3FFFF)),
)
# Letters that begin, and such as end, the syllable of the letter beside them, so that no word is cut there.
_LEADING = set("เแโใไເແໂໃໄ")
_TRAILING = set("ะาำๅະາຳーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ")
# What is not seen and changes no word; a blank without width is a blank.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
# Canonical combining class of the sign that ties the letter before it to the one behind it.
_VIRAMA = 9


def nfc(text: str) -> str:
    """Return a text with its letters composed, so that texts that look the same are the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Return a text as it is compared where neither case nor spelling matters: caseless, compatible, composed.

    Unicode's NFKC and full case folding; beyond them i with and without dot are one letter, whose capitals differ from
    language to language, what is not seen is left out, and a blank without width is a blank.
    """
    if text.isascii():
        return text.lower()
    text = _UNSEEN.sub("", text).replace("\u200b", " ")
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return text.replace("i\u0307", "i").replace("ı", "i")


def has_spellings(label: str) -> bool:
    """Return whether a label has spellings that are equal to it when folded, and not when merely lower-cased."""
    capitals = label.upper()
    lowered = folded(label) == label.lower() and folded(capitals) == capitals.lower()
    return not lowered or unicodedata.normalize("NFD", label) != label


def begins_word(text: str, at: int) -> bool:
    """Return whether a word may begin at `text[at]`: no letter, digit or mark of the same word stands before it.

    In scripts without blanks between words it may begin with any syllable.
    """
    if at == 0 or not _in_word(text[at - 1]):
        return at == len(text) or not _is_mark(text[at])
    return at == len(text) or _parted(text[at - 1], text[at])


def ends_word(text: str, at: int) -> bool:
    """Return whether a word may end before `text[at]`; as `begins_word`, but Korean sets its particles right behind."""
    if at in (0, len(text)) or not _in_word(text[at]):
        return True
    return all("\uac00" <= one <= "\ud7a3" for one in text[at - 1 : at + 1]) or _parted(text[at - 1], text[at])


def _parted(before, behind):
    """Return whether two characters in words may belong to two words."""
    if _is_mark(behind) or before in _LEADING or behind in _TRAILING or unicodedata.combining(before) == _VIRAMA:
        return False
    return _is_continuous(before) or _is_continuous(behind)


def _in_word(one):
    return one.isalnum() or _is_mark(one)


def _is_mark(one):
    """Whether a character belongs to the letter before it: an accent or a vowel sign, no enclosing keycap."""
    return unicodedata.category(one) in ("Mn", "Mc")


def _is_continuous(one):
    return any(first <= ord(one) <= last for first, last in _CONTINUOUS)


@cache
def _words():
    """Return the pattern of a word in a text that has scripts without blanks: one letter of theirs, or what stands
    between blanks and them."""
    letters = [
        chr(code)
        for first, last in _CONTINUOUS
        if last < 0x3400 or 0xA4CF < last < 0xF900
        for code in range(first, last + 1)
        if unicodedata.category(chr(code))[0] in "LN"
    ]
    whole = "".join(f"{chr(first)}-{chr(last)}" for first, last in _CONTINUOUS)
    ideographs = "\u3400-\u4dbf\u4e00-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    return re.compile(rf"[{''.join(letters)}{ideographs}]|[^\W{whole}][^\s{whole}]*"), re.compile(f"[{whole}]")


def count_words(text: str) -> int:
    """Return the number of words: of what stands between blanks; where a script has none, a letter is a word."""
    if not text.isascii():
        word, continuous = _words()
        if continuous.search(text):
            return len(word.findall(text))
    return len(text.split())


@cache
def marks() -> str:
    """Return all marks (accents, vowel signs) as ranges for a class of a regular expression."""
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
