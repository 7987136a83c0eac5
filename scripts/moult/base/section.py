"""The base class of config sections, which refuses unknown keys, and types of what becomes a word or part of a path."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from moult.base.paths import written_out
from moult.base.spelling import PACKAGE, RELEASE, spelt

# A name is a wildcard, a path and a target.
NAME = spelt(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", "letters, digits, `_`, `.` and `-`, the first one a letter or a digit")
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
Sha256 = Annotated[str, Field(pattern=spelt(r"^[0-9a-f]{64}$", "64 hex digits in lower case"))]
Revision = Annotated[
    str, Field(pattern=spelt(r"^[0-9a-f]{40}$", "the 40 hex digits of a commit; null, and `make pin` looks it up"))
]
Variable = Annotated[
    str,
    Field(
        pattern=spelt(
            r"^[A-Z][A-Z0-9_]*$", "the name of an environment variable in capitals, e.g. MY_KEY, not the key"
        ),
        description="Name of an environment variable.",
    ),
]
# Owner and name of a repository, and a place in it: parts of paths and of addresses.
HUB = spelt(
    r"^[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*$", "owner/name, in letters, digits, `_`, `.` and `-`"
)
_PART = r"[^/\\\x00-\x1f\x7f*?\[\]~.-][^/\\\x00-\x1f\x7f*?\[\]]*"
INSIDE = spelt(
    rf"^{_PART}(/{_PART})*/?$",
    "a path in the repository, e.g. data/train.tsv, without `..`, `*`, and `/` or `-` before it",
)
Package = Annotated[str, Field(pattern=PACKAGE, max_length=100)]
Release = Annotated[str, Field(pattern=RELEASE, max_length=100)]
Hub = Annotated[str, Field(pattern=HUB, max_length=200)]
Inside = Annotated[str, Field(pattern=INSIDE, max_length=500)]
Address = Annotated[
    str,
    Field(
        pattern=spelt(r"^https?://[^\s\x00-\x1f\x7f]+$", "an address that begins with https:// or http://"),
        max_length=2000,
    ),
]
# One line of text that people read.
LINE = spelt(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$", "one line, without control characters")
Line = Annotated[str, Field(pattern=LINE, max_length=1000)]


def _place(path):
    if not path or "\0" in path or "\n" in path:
        raise ValueError("is no path; write one, e.g. data/train.tsv")
    return written_out(path)


# Relative to the working directory; `~` and variables of the environment are written out.
LocalPath = Annotated[str, AfterValidator(_place)]
DType = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def exactly_one(section: BaseModel, *fields: str) -> None:
    """Raise unless exactly one of the fields of a section is set."""
    given = [field for field in fields if getattr(section, field) is not None]
    if len(given) != 1:
        raise ValueError(f"write exactly one of {', '.join(fields)} (here: {', '.join(given) or 'none'})")
