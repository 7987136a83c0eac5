"""Types of the config that speak of data: splits, prompts, how answers are decoded."""

from functools import cache
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from moult.base.errors import nearest
from moult.base.section import Section
from moult.data.prompts import template_names

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@cache
def _shipped_prompt(name):
    if name not in template_names():
        raise ValueError(f"prompt {name!r} is not in resources/prompts/{nearest(name, template_names())}")
    return name


Prompt = Annotated[str, BeforeValidator(_shipped_prompt)]


class Decoding(Section):
    """How answers are decoded. Temperature 0 is greedy."""

    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off.")
    max_tokens: int = Field(256, ge=1)
