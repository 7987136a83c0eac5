"""Chat requests and answers, and the loop that asks for what the journal lacks."""

import logging
import time
from dataclasses import dataclass

from moult.files import digest

logger = logging.getLogger(__name__)
PROGRESS_SECONDS = 10


@dataclass(frozen=True)
class Sampling:
    """How an answer is decoded. Temperature 0 is greedy; `top_k` 0 is off; `max_tokens` counts new tokens.

    With several `beams` it is beam search: the answer with the greatest log-likelihood / tokens ** `length_penalty`
    that so many parallel hypotheses find. Nothing is drawn then, and nothing is enforced.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    beams: int = 1
    length_penalty: float = 1.0

    def as_dict(self):
        """Return the settings as plain JSON; those of beam search where there is one, so that old keys stay."""
        of_search = () if self.beams > 1 else ("beams", "length_penalty")
        return {key: value for key, value in vars(self).items() if key not in of_search}


@dataclass(frozen=True)
class ChatRequest:
    """One question to a chat model. At most one of `schema` (a JSON schema) and `choices` (the answer is one of
    these strings) is set; both are enforced while decoding. `seed` is the row's own."""

    messages: tuple
    sampling: Sampling = Sampling()
    seed: int = 0
    schema: dict | None = None
    choices: tuple | None = None

    def as_dict(self):
        """Return the request as plain JSON, what its key is the hash of."""
        return {
            "messages": self.messages,
            "sampling": self.sampling.as_dict(),
            "seed": self.seed,
            "schema": self.schema,
            "choices": self.choices,
        }


@dataclass(frozen=True)
class LabelRequest:
    """The log-likelihood of each of several answers to the same chat."""

    messages: tuple
    labels: tuple

    def as_dict(self):
        """Return the request as plain JSON, what its key is the hash of."""
        return {"messages": self.messages, "labels": self.labels}


@dataclass(frozen=True)
class Answer:
    """What came back. `finish_reason` is stop, length, or error; with error, `error` says why and `text` is empty."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


def request_key(request, identity):
    """Return what an answer is kept under: the hash of the request and of who answers."""
    return digest({"request": request.as_dict(), "identity": identity})


def ask_all(requests, *, identity, open_answerer, journal, method="answer"):
    """Return one stored value per request (see `as_stored`), asking only for what the journal lacks.

    requests: objects with `as_dict()`. identity: plain JSON that says who answers; with the request it makes the key.
    open_answerer: called once, and only if something is missing; what it returns has `method(requests, missing)`,
    which yields lists of (index, value) as they are done. Each list is on disk before the next one is awaited.
    What failed and cost nothing is returned but not kept: a later run asks again. What failed and was paid for (a
    refusal, a cut answer) is kept with its reason: asking again would pay again for the same.
    """
    keys = [request_key(request, identity) for request in requests]
    stored = journal.known(keys)
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    missing = sorted(index for key, index in first.items() if key not in stored)
    logger.info("%d requests, %d of them answered before, %d to ask", len(keys), len(stored), len(missing))
    if not missing:
        return [stored[key] for key in keys]
    answerer = open_answerer()
    progress = Progress(len(missing), getattr(answerer, "price", None))
    for answered in getattr(answerer, method)(requests, missing):
        values = [(index, as_stored(value)) for index, value in answered]
        journal.keep([(keys[index], requests[index].as_dict(), value) for index, value in values if _is_final(value)])
        stored.update((keys[index], value) for index, value in values)
        progress.add([value for _, value in values])
    return [stored[key] for key in keys]


def as_stored(value):
    """Return an answer as plain JSON; label log-likelihoods are lists already."""
    return dict(vars(value)) if isinstance(value, Answer) else value


def _is_final(value):
    return not isinstance(value, dict) or not value["error"] or value["prompt_tokens"] + value["completion_tokens"] > 0


class Progress:
    """A line in the log at the first answer, each PROGRESS_SECONDS or twentieth of the way, and at the end."""

    def __init__(self, total, price=None):
        self.total, self.price = total, price
        self.done = self.failed = self.prompt_tokens = self.completion_tokens = 0
        self.begun = self.told_at = time.monotonic()
        self.told = 0

    def add(self, values):
        """Count stored values, and tell where it is time to."""
        self.done += len(values)
        for value in values:
            if isinstance(value, dict):
                self.failed += bool(value["error"])
                self.prompt_tokens += value["prompt_tokens"]
                self.completion_tokens += value["completion_tokens"]
        now = time.monotonic()
        near = self.done - self.told < self.total / 20 and now - self.told_at < PROGRESS_SECONDS
        if near and self.told and self.done < self.total:
            return
        self.told, self.told_at = self.done, now
        rate = self.done / max(now - self.begun, 1e-9)
        logger.info(
            "%d of %d answered, %.1f a second, %d failed%s, about %.0f s left",
            *(self.done, self.total, rate, self.failed, self._cost(), (self.total - self.done) / rate),
        )

    def _cost(self):
        if not self.price:
            return ""
        cost = self.prompt_tokens * self.price["input"] + self.completion_tokens * self.price["output"]
        return f", ${cost / 1e6:.4f} so far"
