"""Endpoints, the corpora that they write, and rounds of them."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from moult.base.section import Address, Line, Name, Section, Variable, exactly_one
from moult.corpora.kinds import KINDS
from moult.corpora.refined import Refining
from moult.inference.remote.connection import flaw_of_url, is_loopback

# Rows of a round, unless the config says otherwise.
INTERVAL = 2570


class Price(Section):
    """What a remote endpoint charges, in US dollars per million tokens."""

    input: float = Field(ge=0, le=1_000_000, description="US dollars per million tokens of prompts.")
    output: float = Field(ge=0, le=1_000_000, description="US dollars per million tokens of answers.")


class Endpoint(Section):
    """Who answers a chat request: a remote OpenAI-compatible API, or a model of this build."""

    name: Name = Field(
        description=(
            "Name of the endpoint, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It "
            "is part of paths."
        )
    )
    serve: str | None = Field(None, description="Model of this build that answers; the job that asks loads it.")
    url: Address | None = Field(
        None,
        description="Base URL of a remote OpenAI-compatible API, e.g. https://api.openai.com/v1",
    )
    model: Line | None = Field(None, description="Name of the model at the remote API.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None,
        description=(
            "How long a reasoning model thinks before it answers; many take a temperature only where it is `none`; "
            "null: as the API does by itself."
        ),
    )
    key: Variable | None = Field(None, description="Environment variable with the API key; null: no key is sent.")
    concurrency: int = Field(
        8, ge=1, le=10_000, description="Requests of one job that are in flight at a time, at a remote API."
    )
    timeout: float = Field(
        120, gt=0, le=86_400, description="Seconds after which a request counts as failed and is tried again."
    )
    retries: int = Field(
        5, ge=0, le=1000, description="Further tries of a request after a connection error, a timeout, HTTP 429 or 5xx."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Rate limit of one job in requests per minute; null: no limit."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Rate limit of one job in tokens per minute, prompts and answers together; null: no limit.",
    )
    price: Price | None = Field(
        None, description="What the remote API charges; needed where the experiment has a `budget`."
    )
    structured: Literal["response_format", "function"] = Field(
        "response_format",
        description=(
            "How a JSON schema is asked for: as `response_format`, or as the parameters of a `function` that "
            "the model must call."
        ),
    )
    max_tokens_as: (
        Literal["max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict"] | None
    ) = Field(
        None,
        description="The API's name of max_tokens; null: max_tokens, or max_completion_tokens where that is refused.",
    )
    insecure: bool = Field(False, description="Send the key over http:// to another machine, where all can read it.")
    mode: Literal["chat", "batch"] = Field(
        "chat",
        description=(
            "`chat` asks one request at a time; `batch` uses the Batch API, which is cheaper and takes up to 24 hours."
        ),
    )
    poll: float = Field(
        60, gt=0, le=86_400, description="Longest wait in seconds between two looks at a batch; for `mode: batch` only."
    )

    @model_validator(mode="after")
    def local_or_remote(self) -> Self:
        exactly_one(self, "serve", "url")
        if self.serve and self.mode == "batch":
            raise ValueError("mode: batch belongs to a remote endpoint; a served model always answers in batches")
        if self.url and not self.model:
            raise ValueError("a remote endpoint needs `model`: the name that the API knows it by")
        if self.serve and (self.model or self.key or self.price or self.reasoning_effort):
            raise ValueError(
                "model, key, price and reasoning_effort belong to a remote endpoint; `serve` needs none of them"
            )
        if self.serve and (self.requests_per_minute or self.tokens_per_minute):
            raise ValueError("limits per minute belong to a remote endpoint; `serve` needs none")
        if self.url:
            self._check_address()
        return self

    def _check_address(self):
        """Refuse a URL that cannot be asked, or that would give a secret away."""
        problem = flaw_of_url(self.url)
        if problem:
            raise ValueError(f"url: {problem}")
        if self.key and not self.insecure and self.url.startswith("http://") and not is_loopback(self.url):
            raise ValueError(
                "url: a key sent over http:// can be read by every machine on the way; write https://, or `insecure: "
                "true` where that network is trusted"
            )


CORPORA = {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in KINDS}
if TYPE_CHECKING:
    # What each kind has of its own, its users ask for where they know the kind.
    Corpus = Any
else:
    Corpus = Annotated[reduce(or_, KINDS), Field(discriminator="kind")]


class Rounds(Refining):
    """METEOR's iterative training, round by round: each writes a refined corpus and the model trained on it."""

    name: Name = Field(
        description="Name of the rounds; their corpora and models are called <name>-r1, <name>-r2 and so on."
    )
    base: str = Field(description="Model that answers in the first round and from which training starts.")
    dataset: str = Field(description="Dataset whose train rows are asked, `interval` rows per round.")
    rows: int = Field(ge=1, description="Number of train rows of the dataset, from which the number of rounds follows.")
    interval: int = Field(INTERVAL, ge=1, description="Rows per round; the last round takes what is left.")
    judge: str = Field(description="Endpoint that judges the answers.")
    finetune: dict = Field(
        {},
        description=(
            "Settings of each round's training, as under `models`; base and data follow from the round, the "
            "method is LoRA."
        ),
    )

    @model_validator(mode="after")
    def adapters_only(self) -> Self:
        if given := [key for key in ("base", "data") if key in self.finetune]:
            raise ValueError(f"finetune: {given[0]} follows from the round; leave it out")
        if self.finetune.get("method", "lora") != "lora":
            raise ValueError("finetune: rounds keep an adapter each; leave out `method`")
        return self
