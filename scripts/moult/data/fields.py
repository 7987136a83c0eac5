"""Types of the config that speak of data: splits, prompts, how answers are decoded."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from moult.base.errors import UserError, nearest
from moult.base.section import Section
from moult.data.prompts import load_template, template_names
from moult.data.rubrics import rubric_names

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def _known_prompt(name):
    if name not in template_names():
        raise ValueError(f"prompt {name!r} is not in resources/prompts/ or prompts/{nearest(name, template_names())}")
    try:
        load_template(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    return name


Prompt = Annotated[str, BeforeValidator(_known_prompt)]


def _known_rubric(name):
    if isinstance(name, str) and name not in rubric_names():
        near = nearest(name, rubric_names())
        raise ValueError(f"{name!r} is not in resources/judge/criteria/ or judge/criteria/{near}")
    return name


Rubric = Annotated[str, BeforeValidator(_known_rubric)]
# In which form a judge replies.
Form = Literal["json", "line", "bracket"]


def check_dimensions(field: str, prompt: str | None, right: str) -> None:
    """Raise a ValueError where a template does not show a judge the dimensions of a rubric; right: one that does."""
    if prompt and "dimensions" not in load_template(prompt).get("user", ""):
        raise ValueError(f"{field}: {prompt!r} shows no `dimensions` of a rubric; write {right}, or leave it out")


class Decoding(Section):
    """How answers are decoded. Temperature 0 is greedy."""

    temperature: float = Field(0.0, ge=0, le=100, description="Sampling temperature; 0: greedy decoding.")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "Nucleus: tokens are drawn from the likeliest ones whose probabilities sum to `top_p`; 1: from all."
        ),
    )
    top_k: int = Field(0, ge=0, description="Tokens are drawn from so many of the likeliest ones; 0: no such limit.")
    max_tokens: int = Field(256, ge=1, le=10_000_000, description="Largest length of an answer, in tokens.")
