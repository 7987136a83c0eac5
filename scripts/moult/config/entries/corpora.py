"""Endpoints, the corpora that they write, and rounds of them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moult.base.section import Name, Section, Variable, exactly_one
from moult.data.fields import Decoding, Prompt, Split
from moult.inference.remote.connection import flaw_of_url, is_loopback

# Rows of a round, unless the config says otherwise.
INTERVAL = 2570


class Price(Section):
    """What a remote endpoint charges, in US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Endpoint(Section):
    """Who answers a chat request: a remote OpenAI-compatible API, or a model of this build."""

    name: Name
    serve: str | None = Field(None, description="A model of this build, loaded inside the job that asks.")
    url: str | None = Field(None, pattern=r"^https?://", description="Base URL, e.g. https://api.openai.com/v1")
    model: str | None = Field(None, description="The model's name at the remote API.")
    key: Variable | None = None
    concurrency: int = Field(8, ge=1)
    timeout: float = Field(120, gt=0, description="Seconds for a whole request.")
    retries: int = Field(5, ge=0, description="After connection errors, timeouts, 429 and 5xx.")
    requests_per_minute: int | None = Field(None, ge=1, description="Of one job; null: no limit.")
    tokens_per_minute: int | None = Field(None, ge=1, description="Of one job, prompts and answers; null: no limit.")
    price: Price | None = None
    structured: Literal["response_format", "function"] = Field(
        "response_format", description="How a JSON schema is asked for; function: by a call that the model must make."
    )
    max_tokens_as: (
        Literal["max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict"] | None
    ) = Field(
        None,
        description="The API's name of max_tokens; null: max_tokens, or max_completion_tokens where that is refused.",
    )
    insecure: bool = Field(False, description="Send the key over http:// to another machine, where all can read it.")
    mode: Literal["chat", "batch"] = Field("chat", description="batch: the Batch API, cheaper, within 24 hours.")
    poll: float = Field(60, gt=0, description="Longest wait between two looks at a batch, in seconds.")

    @model_validator(mode="after")
    def local_or_remote(self):
        exactly_one(self, "serve", "url")
        if self.serve and self.mode == "batch":
            raise ValueError("mode: batch belongs to a remote endpoint; a served model always answers in batches")
        if self.url and not self.model:
            raise ValueError("a remote endpoint needs `model`: the name that the API knows it by")
        if self.serve and (self.model or self.key or self.price):
            raise ValueError("model, key and price belong to a remote endpoint; `serve` needs none of them")
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


class Generated(Section):
    """A corpus: rows of a dataset or of another corpus, each with text that an endpoint generates."""

    @property
    def asked(self):
        """Name of the corpus whose questions are asked; None where they are those of a dataset."""
        return getattr(self, "guidelines", None) or getattr(self, "corpus", None)


class Guidelines(Generated):
    """METEOR stage 1a: the model under training writes guidelines for solving each question."""

    kind: Literal["guidelines"]
    name: Name
    dataset: str
    splits: list[Split] = ["train", "dev"]
    endpoint: str
    cut: Literal["keep", "reject"] = Field("keep", description="What becomes of a guideline that reached max_tokens.")
    prompt: Prompt = "meteor/guideline"
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.95, top_k=50, max_tokens=512)


class Distilled(Generated):
    """METEOR stage 1b: a stronger endpoint answers each question, following its guideline where there is one."""

    kind: Literal["distilled"]
    name: Name
    guidelines: str | None = Field(None, description="A corpus of guidelines; its questions are asked.")
    dataset: str | None = Field(None, description="Ask the questions of a dataset, without guidelines.")
    splits: list[Split] = ["train", "dev"]
    endpoint: str
    cut: Literal["keep", "reject"] = Field("reject", description="What becomes of an answer that reached max_tokens.")
    prompt: Prompt = "meteor/distill"
    decoding: Decoding = Decoding(temperature=0.7, max_tokens=1024)

    @model_validator(mode="after")
    def one_source(self):
        exactly_one(self, "guidelines", "dataset")
        return self


class Round(Section):
    """Which of several rounds a corpus or a model is of; `rounds` writes it."""

    of: Name
    number: int = Field(ge=1)
    count: int = Field(ge=1, description="Rounds that there are, as far as the config knows.")
    interval: int = Field(ge=1, description="Rows of a round.")


class Refining(Section):
    """How answers are judged and revised, whether of one corpus or round by round."""

    max_iterations: int = Field(3, ge=1, description="Answers to a question at the most.")
    cut: Literal["keep", "reject"] = Field("reject", description="Whether an answer that reached max_tokens is judged.")
    prompt: Prompt = "meteor/answer"
    revise_prompt: Prompt = "meteor/revise"
    judge_prompt: Prompt = "meteor/judge"
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.9, max_tokens=512)
    judge_decoding: Decoding = Decoding(temperature=0.0, max_tokens=512)


class Refined(Generated, Refining):
    """METEOR stage 2: a model answers, a judge says what is wrong, the model revises; only accepted answers stay."""

    kind: Literal["refined"]
    name: Name
    dataset: str | None = Field(None, description="Ask the questions of a dataset.")
    corpus: str | None = Field(None, description="Ask the questions of a corpus.")
    splits: list[Split] = ["train", "dev"]
    slice: tuple[Annotated[int, Field(ge=0)], int | None] | None = Field(
        None, description="[start, stop]: only these of its rows, by position; stop null is to the end."
    )
    endpoint: str = Field(description="Who answers and revises.")
    judge: str = Field(description="The endpoint that judges.")
    round: Round | None = None

    @model_validator(mode="after")
    def one_source(self):
        exactly_one(self, "dataset", "corpus")
        if self.slice and self.slice[1] is not None and self.slice[1] <= self.slice[0]:
            raise ValueError(f"slice: {list(self.slice)} has no row; write [start, stop] with start < stop")
        return self


class Costly(Section):
    """How the chosen answer of a pair is decoded, with more computing than the rejected one."""

    method: Literal["beam", "consistency"] = Field("beam", description="consistency: the sample closest to the others.")
    beams: int = Field(10, ge=2, description="Of beam search.")
    length_penalty: float = Field(1.0, description="Of beam search: log-likelihood / tokens ** length_penalty.")
    samples: int = Field(8, ge=2, description="Of consistency, and how each of them is drawn:")
    temperature: float = Field(0.7, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off.")

    @model_validator(mode="after")
    def settings_fit_method(self):
        of = {"beam": {"beams", "length_penalty"}, "consistency": {"samples", "temperature", "top_p", "top_k"}}
        strange = sorted(self.model_fields_set - of[self.method] - {"method"})
        if strange:
            known = ", ".join(sorted(of[self.method]))
            raise ValueError(f"{strange[0]} is no setting of method {self.method}; it has {known}")
        return self


class Gate(Section):
    """Which pairs are worth learning from; both answers must have ended by themselves."""

    min_characters: int = Field(20, ge=1, description="Of the chosen answer.")
    max_repetition: float = Field(0.2, ge=0, le=1, description="Share of the chosen answer's word 4-grams said before.")
    max_length_ratio: float = Field(2.0, ge=1, description="Of the longer answer to the shorter, in characters.")
    max_similarity: float = Field(0.95, gt=0, le=1, description="chrF of the two answers, 0 to 1.")


class Contrasts(Generated):
    """METEOR stage 3: preference pairs that a model makes itself, costly decoding against cheap."""

    kind: Literal["contrasts"]
    name: Name
    dataset: str | None = Field(None, description="Ask the questions of a dataset,")
    corpus: str | None = Field(None, description="or those of a corpus.")
    splits: list[Split] = ["train", "dev"]
    endpoint: str
    prompt: Prompt | None = Field(None, description="Default: the one that the questions' dataset trains with.")
    decoding: Decoding = Field(Decoding(max_tokens=512), description="Of the rejected answer; max_tokens is of both.")
    chosen: Costly = Costly()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def one_source(self):
        exactly_one(self, "dataset", "corpus")
        return self


CORPORA = {"guidelines": Guidelines, "distilled": Distilled, "refined": Refined, "contrasts": Contrasts}
Corpus = Annotated[Guidelines | Distilled | Refined | Contrasts, Field(discriminator="kind")]


class Rounds(Refining):
    """METEOR's iterative training, round by round: each writes a refined corpus and the model trained on it."""

    name: Name = Field(description="Its corpora and models are <name>-r1, <name>-r2 and so on.")
    base: str = Field(description="The model that answers in the first round, and is trained from.")
    dataset: str = Field(description="Its train rows are asked, `interval` of them in each round.")
    rows: int = Field(ge=1, description="Train rows of the dataset; the number of rounds follows.")
    interval: int = Field(INTERVAL, ge=1, description="Rows of a round; the last one takes what is left.")
    judge: str = Field(description="The endpoint that judges.")
    finetune: dict = Field({}, description="Settings of each round's training, as under `models`; by LoRA.")

    @model_validator(mode="after")
    def adapters_only(self):
        if given := [key for key in ("base", "data") if key in self.finetune]:
            raise ValueError(f"finetune: {given[0]} follows from the round; leave it out")
        if self.finetune.get("method", "lora") != "lora":
            raise ValueError("finetune: rounds keep an adapter each; leave out `method`")
        return self
