"""Text that goes out acts on nobody: neither a sentence, nor a log, nor what is printed in a job."""

import subprocess
import sys
import unicodedata

import pytest
from moult.base.errors import UserError
from moult.base.legible import REPLACEMENT, legible, on_one_line
from moult.base.paths import CODE

ACTING = [
    "\x1b[31m",
    "\x1b]8;;http://example.org\x07",
    "\x1b]0;title\x1b\\",
    "\x1b(0",
    "\x9b2J",
    "\x1bc",
    "\0",
    "\x07",
    "\x7f",
]
ACTING += ["\x7f", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028", "\ud83d", "\ufffe", "\uffff", "\U000e0041", "\x85"]


@pytest.mark.parametrize("acting", ACTING, ids=ascii)
def test_what_would_act_is_replaced(acting):
    assert legible(f"a{acting}b") == f"a{REPLACEMENT}b"
    assert str(UserError(f"a{acting}b")) == f"a{REPLACEMENT}b"


def test_no_control_character_and_no_sign_of_direction_is_left_of_all_that_there_are():
    kept = legible("".join(map(chr, range(sys.maxunicode + 1))))
    left = {letter for letter in kept if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")}
    assert left == {"\t", "\n"}
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not directions & {unicodedata.bidirectional(letter) for letter in kept}
    kept.encode("utf-8")


def test_text_of_any_language_stays():
    for text in (
        "Plain, with 50% {x} $y$.\n\ttab",
        "недоволен",
        "不开心",
        "שלום",
        "مرحبا",
        "नमस्ते",
        "👩‍👩‍👧",
        "e\u0301",
    ):
        assert legible(text) == text
    assert legible("a\r\nb\rc") == "a\nb\nc" and on_one_line(" a\r\n\tb ") == "a b"


PROGRAM = r"""
import logging, sys
from moult.jobs.job import _log_to
_log_to("x.log", [])
logging.info("told %s", "\x1b[31m\u202e")
print("printed \x1b[2J\ud83d")
print("warned \0", file=sys.stderr)
"""


def test_a_log_can_be_shown_on_a_terminal(tmp_path):
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env={"PYTHONPATH": str(CODE)}, check=True)
    text = (tmp_path / "x.log").read_bytes().decode("utf-8")
    assert legible(text) == text and all(word in text for word in ("told", "printed", "warned"))
