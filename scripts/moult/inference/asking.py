"""Who answers: endpoints and served models behind one interface, and the loop that asks for what the journal lacks."""

import logging
import time
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json
from moult.inference.journal import Journal
from moult.inference.remote.batch import BatchEndpoint
from moult.inference.remote.endpoint import RemoteEndpoint
from moult.inference.requests import Answer, request_key
from moult.inference.spending import Budget

logger = logging.getLogger(__name__)
PROGRESS_SECONDS = 10


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
    return value.as_dict() if isinstance(value, Answer) else value


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


def served_identity(model_manifest, compute, version):
    """Return who answers when a model of this build does: its weights' hash, engine and dtype; not its name."""
    return {
        "content": read_json(model_manifest)["content"],
        "engine": compute["engine"],
        "dtype": compute["dtype"],
        "version": version,
    }


def identity_of(endpoint, model_manifest):
    """Return who answers, as plain JSON: a remote model by its address, a model of this build by its weights."""
    if "url" in endpoint:
        return {"url": endpoint["url"], "model": endpoint["model"]}
    from moult.inference.engines import base

    return served_identity(model_manifest, endpoint["compute"], base.VERSION)


def open_endpoint(endpoint, client, model, model_manifest, journal):
    """Return (identity, opener) of an endpoint's recipe: `opener()` loads the model or opens the client.

    journal: the open Journal; its name is what the job's spending is counted under, and it knows of batches under way.
    """
    identity = identity_of(endpoint, model_manifest)
    if "url" in endpoint:
        settings = endpoint | client
        budget = Budget.of(client, journal.path)
        if client.get("mode") == "batch":
            return identity, lambda: BatchEndpoint(settings, budget, journal, identity)
        if underway := journal.connection.execute("SELECT COUNT(*) FROM in_batch").fetchone()[0]:
            logger.warning("%d requests are in batches: in mode chat they are asked, and paid, once more", underway)
        return identity, lambda: RemoteEndpoint(settings, budget)
    from moult.inference.engines import loading

    return identity, lambda: loading.load_engine(Path(model), **endpoint["compute"])


def ask(endpoint, requests, client, journal, model=None, model_manifest=None):
    """Return a stored answer per request of an endpoint's recipe; what the journal has is not asked again."""
    if not requests:
        raise UserError("the corpus has no rows to ask about: the stage before it rejected all of them.")
    with Journal(journal) as answers:
        identity, opener = open_endpoint(endpoint, client, model, model_manifest, answers)
        return ask_all(requests, identity=identity, open_answerer=opener, journal=answers)


def author(endpoint):
    """Return the name of the model that an endpoint's recipe asks."""
    return endpoint.get("model") or endpoint["serve"]


def flaw_of(value, cut):
    """Return why a stored answer is none, or None; one that reached max_tokens where `cut` is "reject"."""
    if value["finish_reason"] == "error":
        return f"error: {value['error']}"
    if not value["text"]:
        return "empty answer"
    if value["finish_reason"] == "length" and cut == "reject":
        return "cut: reached max_tokens"
    return None
