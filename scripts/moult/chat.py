"""Chat requests and answers, and the loop that asks for what the journal lacks."""

import logging
import time
from dataclasses import asdict, dataclass

from moult.files import digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How an answer is decoded. Temperature 0 is greedy; `top_k` 0 is off; `max_tokens` counts new tokens."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256


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
        return asdict(self)


@dataclass(frozen=True)
class LabelRequest:
    """The log-likelihood of each of several answers to the same chat."""

    messages: tuple
    labels: tuple

    def as_dict(self):
        """Return the request as plain JSON, what its key is the hash of."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What came back. `finish_reason` is stop, length, or error; with error, `error` says why and `text` is empty."""

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


def ask_all(requests, *, identity, open_answerer, journal, method="answer"):
    """Return one stored value per request (see `as_stored`), asking only for what the journal lacks.

    requests: objects with `as_dict()`. identity: plain JSON that says who answers; with the request it makes the key.
    open_answerer: called once, and only if something is missing; what it returns has `method(requests, missing)`,
    which yields lists of (index, value) as they are done. Each list is on disk before the next one is awaited.
    Failed answers are returned but not kept: a later build asks again.
    """
    keys = [digest({"request": request.as_dict(), "identity": identity}) for request in requests]
    stored = journal.known(keys)
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    missing = sorted(index for key, index in first.items() if key not in stored)
    logger.info("%d requests, %d of them answered before, %d to ask", len(keys), len(stored), len(missing))
    if not missing:
        return [stored[key] for key in keys]
    begun, done, failed = time.monotonic(), 0, {}
    for answered in getattr(open_answerer(), method)(requests, missing):
        values = [(index, as_stored(value)) for index, value in answered]
        good = [(index, value) for index, value in values if not (isinstance(value, dict) and value["error"])]
        journal.keep([(keys[index], requests[index].as_dict(), value) for index, value in good])
        stored |= {keys[index]: value for index, value in good}
        failed |= {keys[index]: value for index, value in values if (index, value) not in good}
        done += len(values)
        seconds = time.monotonic() - begun
        left = seconds / done * (len(missing) - done)
        logger.info("answer %d of %d, %.0f s, about %.0f s left", done, len(missing), seconds, left)
    stored |= failed
    return [stored[key] for key in keys]


def as_stored(value):
    """Return an answer as plain JSON; label log-likelihoods are lists already."""
    return asdict(value) if isinstance(value, Answer) else value
