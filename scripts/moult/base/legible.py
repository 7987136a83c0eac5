"""Text that goes out, to a terminal, a log, a page or a picture: nothing in it acts on whoever shows it."""

import re

REPLACEMENT = "\ufffd"
# Escape sequences of terminals; then control characters but tabs and line ends, halves of characters, what turns the
# direction of writing, line separators that only some know, invisible tags, and what no XML file may hold.
_ACTS = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|[ -/]*[0-Z\\^-~])|\x9b[0-?]*[ -/]*[@-~]"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufff9-\ufffb]"
    "|[\ufffe\uffff\U000e0000-\U000e007f]"
)


def legible(text: str) -> str:
    """Return a text with U+FFFD for every character or sequence that would act rather than be read.

    Tabs and line ends stay, each of these a line feed.
    """
    if text.isascii() and text.isprintable():
        return text
    return _ACTS.sub(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n"))


def on_one_line(text: object) -> str:
    """Return a name as one line, for a picture or a message: blanks of any sort are single ones."""
    return " ".join(legible(str(text)).split())
