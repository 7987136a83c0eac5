"""The base class of config sections, which refuses unknown keys, and types of names, checksums and variables."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from moult.base.paths import written_out

# A name is a wildcard, a path and a target.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="Name of an environment variable.")]
# Relative to the working directory; `~` and variables of the environment are written out.
LocalPath = Annotated[str, AfterValidator(written_out)]
DType = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def exactly_one(section: BaseModel, *fields: str) -> None:
    """Raise unless exactly one of the fields of a section is set."""
    given = [field for field in fields if getattr(section, field) is not None]
    if len(given) != 1:
        raise ValueError(f"write exactly one of {', '.join(fields)} (here: {', '.join(given) or 'none'})")
