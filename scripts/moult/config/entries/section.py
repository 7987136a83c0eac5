"""What all entries of a config share."""

from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from moult.base.errors import nearest
from moult.data.prompts import template_names

SPLITS = ("train", "dev", "test")
Split = Literal["train", "dev", "test"]
# A name is a wildcard, a path and a target.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="Name of an environment variable.")]
DType = Literal["float32", "bfloat16", "float16"]


@cache
def _shipped_prompt(name):
    if name not in template_names():
        raise ValueError(f"prompt {name!r} is not in resources/prompts/{nearest(name, template_names())}")
    return name


Prompt = Annotated[str, BeforeValidator(_shipped_prompt)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def exactly_one(section, *fields):
    """Raise unless exactly one of the fields of a section is set."""
    given = [field for field in fields if getattr(section, field) is not None]
    if len(given) != 1:
        raise ValueError(f"write exactly one of {', '.join(fields)} (here: {', '.join(given) or 'none'})")


class Decoding(Section):
    """How answers are decoded. Temperature 0 is greedy."""

    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off.")
    max_tokens: int = Field(256, ge=1)
