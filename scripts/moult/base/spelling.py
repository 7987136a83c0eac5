"""How texts are spelt that become a word of a command or a part of a path: patterns, each with its words."""

import re

# Pattern of a text → what it takes, in words.
SPELT: dict[str, str] = {}


def spelt(pattern: str, words: str) -> str:
    """Return a pattern, and remember in which words a text that does not fit it is told."""
    SPELT[pattern] = words
    return pattern


def fits(pattern: str, text: str) -> bool:
    """Whether a whole text fits a pattern."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


# Words of pip's command line: no option, no address, no file.
PACKAGE = spelt(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", "a package's name: letters, digits, `_`, `.` and `-`")
RELEASE = spelt(r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$", "a version such as 1.2.0")
