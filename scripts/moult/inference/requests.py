"""Chat requests, answers, and the keys under which the journal keeps answers."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from moult.base.files import derive_seed, digest
from moult.base.rows import Recipe
from moult.data.prompts import render

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How an answer is decoded. Temperature 0 is greedy; `top_k` 0 is off; `max_tokens` counts new tokens.

    With several `beams` it is beam search: the answer with the greatest log-likelihood / tokens ** `length_penalty`
    that so many parallel hypotheses find. Nothing is drawn then, and nothing is enforced. `repetition_penalty` divides
    the scores of tokens that stand in prompt or answer (Keskar et al. 2019, arXiv 1909.05858); 1 is off.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    beams: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON; beam search and a penalty where there is one, so that old keys stay."""
        unset = [] if self.beams > 1 else ["beams", "length_penalty"]
        unset += ["repetition_penalty"] if self.repetition_penalty == 1 else []
        return {key: value for key, value in vars(self).items() if key not in unset}


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model. At most one of `schema` (a JSON schema) and `choices` (the answer is one of
    these strings) is set; both are enforced while decoding. `seed` is the row's own. top_logprobs: of how many of the
    likeliest first tokens of the answer a remote endpoint is to tell the log-probability; 0: of none."""

    messages: tuple
    sampling: Sampling = Sampling()
    seed: int = 0
    schema: dict | None = None
    choices: tuple | None = None
    top_logprobs: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON, what its key is the hash of; top_logprobs where they are asked for."""
        return {
            "messages": self.messages,
            "sampling": self.sampling.as_dict(),
            "seed": self.seed,
            "schema": self.schema,
            "choices": self.choices,
        } | ({"top_logprobs": self.top_logprobs} if self.top_logprobs else {})


@dataclass(frozen=True)
class LabelRequest:
    """The log-likelihood of each of several answers to the same chat."""

    messages: tuple
    labels: tuple

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON, what its key is the hash of."""
        return {"messages": self.messages, "labels": self.labels}


@dataclass(frozen=True)
class RewardRequest:
    """An answer to be scored: the chat up to it, and the answer as its last message."""

    messages: tuple

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON, what its key is the hash of."""
        return {"messages": self.messages, "asked": "reward"}


@lru_cache(maxsize=1024)
def _digest(context):
    """Return the digest of tokens: a journal that held the context of each choice would be many times the samples."""
    return digest(context)


@dataclass(frozen=True)
class ContinuationRequest:
    """The log-likelihood of tokens behind others, and whether greedy decoding would write them. Both are token ids."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON, what its key is the hash of."""
        return {"context": _digest(self.context), "continuation": self.continuation, "asked": "continuation"}


@dataclass(frozen=True)
class CompletionRequest:
    """What a model writes behind tokens, given by their ids. It ends behind the first of the strings `until`, too."""

    context: tuple[int, ...]
    until: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    seed: int = 0
    # Nothing is shown, and nothing enforced.
    messages: ClassVar = ()
    schema: ClassVar = None
    choices: ClassVar = None

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON, what its key is the hash of."""
        settings = {"until": self.until, "sampling": self.sampling.as_dict(), "seed": self.seed}
        return {"context": _digest(self.context), **settings, "asked": "completion"}


Request = ChatRequest | LabelRequest | RewardRequest | ContinuationRequest | CompletionRequest


@dataclass(frozen=True)
class Answer:
    """What came back. `finish_reason` is stop, length, or error; with error, `error` says why and `text` is empty.

    `assumed`: the counts of tokens are the worst case, because the reply reported none that can be true. `raw`: the
    reply as it came, where it is no usable answer but was paid for. `logprobs`: token → log-probability (nats) of the
    likeliest first tokens, where they were asked for.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    assumed: bool = False
    raw: str | None = None
    logprobs: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain JSON, what the journal keeps; `assumed`, `raw`, `logprobs` only where they are
        set."""
        return {key: value for key, value in vars(self).items() if value or key not in ("assumed", "raw", "logprobs")}


def request_key(request: Request, identity: Mapping[str, Any]) -> str:
    """Return the journal's key of an answer: the hash of the request and of who answers."""
    return digest({"request": request.as_dict(), "identity": identity})


def author(endpoint: Mapping[str, Any]) -> str:
    """Return the name of the model that an endpoint's recipe asks."""
    return endpoint.get("model") or endpoint["serve"]


def corpus_requests(recipe: Recipe, rows: Iterable[Any]) -> list[ChatRequest]:
    """Return the requests of a corpus, one per row, each with a seed of its own."""
    sampling, requests = Sampling(**recipe["decoding"]), []
    for row in rows:
        messages = tuple(render(recipe["prompt"], **({"guideline": ""} | row)))
        requests.append(ChatRequest(messages, sampling, seed=derive_seed(recipe["seed"], list(messages))))
    return requests
