"""Who answers: endpoints and served models behind one interface, and the loop that asks for what the journal lacks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from moult.base.files import digest, read_json
from moult.base.rows import StoredAnswer, Usage
from moult.base.stage import Job
from moult.data.videos.frames import Frames
from moult.inference.journal import Journal
from moult.inference.remote.batch import BatchEndpoint
from moult.inference.remote.endpoint import RemoteEndpoint
from moult.inference.requests import (
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    LabelRequest,
    Request,
    author,
    request_key,
)
from moult.inference.siblings import adopt
from moult.inference.spending import Budget, summed_usage
from moult.inference.usage import answers_in

if TYPE_CHECKING:
    from moult.inference.engines.base import Engine


logger = logging.getLogger(__name__)
PROGRESS_SECONDS = 10


def ask_all(
    requests: Sequence[Request],
    *,
    identity: Mapping[str, Any],
    open_answerer: Callable[[], Any],
    journal: Journal,
    method: str = "answer",
) -> list[Any]:
    """Return one stored value per request (see `as_stored`), asking only for what the journal lacks.

    requests: objects with `as_dict()`. identity: plain JSON that says who answers; with the request it makes the key.
    open_answerer: called once, and only if something is missing; what it returns has `method(requests, missing)`, which
    yields lists of (index, value) as they are done. Each list is on disk before the next one is awaited. What failed
    and cost nothing is returned but not kept: a later run asks again. What failed and was paid for (a refusal, a
    truncated answer) is kept with its reason: asking again would pay again for the same.
    """
    keys = [request_key(request, identity) for request in requests]
    stored = answers_in(journal.known(keys), journal.path)
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    if "url" in identity and (lacking := {key: requests[index] for key, index in first.items() if key not in stored}):
        # Before anything is asked, so that an answer which is another request's stays that one's.
        journal.taken.update(map(journal.origin, stored))
        stored |= adopt(journal, lacking, identity)
        journal.taken.update(first)
    missing = sorted(index for key, index in first.items() if key not in stored)
    logger.info("%d requests, %d of them answered before, %d to ask", len(keys), len(stored), len(missing))
    if not missing:
        return [stored[key] for key in keys]
    answerer = open_answerer()
    progress = Progress(len(missing), getattr(answerer, "price", None))
    for answered in getattr(answerer, method)(requests, missing):
        values = [(index, as_stored(value)) for index, value in answered]
        final = [(keys[index], requests[index].as_dict(), value) for index, value in values if _is_final(value)]
        journal.keep(final, _payments(answerer, final))
        stored.update((keys[index], value) for index, value in values)
        progress.add([value for _, value in values])
    return [stored[key] for key in keys]


def _payments(answerer, entries):
    """Return the rows of the table `payments` for answers of a remote endpoint that are to be kept."""
    if not (dollars := getattr(answerer, "dollars", None)):
        return []
    who = answerer.settings.get("spending"), answerer.settings["model"]
    counted = ((key, value["prompt_tokens"], value["completion_tokens"]) for key, _, value in entries)
    return [(*who, key, prompt, answer, dollars(prompt, answer)) for key, prompt, answer in counted]


def as_stored(value: Any) -> Any:
    """Return an answer as plain JSON; label log-likelihoods are lists already."""
    return value.as_dict() if isinstance(value, Answer) else value


def _is_final(value):
    return not isinstance(value, dict) or not value["error"] or value["prompt_tokens"] + value["completion_tokens"] > 0


class Progress:
    """A line in the log at the first answer, each PROGRESS_SECONDS or twentieth of the way, and at the end."""

    def __init__(self, total: int, price: Mapping[str, float] | None = None) -> None:
        self.total, self.price = total, price
        self.done = self.failed = self.prompt_tokens = self.completion_tokens = 0
        self.begun = self.told_at = time.monotonic()
        self.told = 0

    def add(self, values: Sequence[Any]) -> None:
        """Count stored values, and log a line where one is due."""
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


def identity_of(endpoint: Mapping[str, Any], manifest: str | Path | None = None) -> dict[str, Any]:
    """Return who answers, as plain JSON: a remote model by its address; a model of this build by the hash of its
    weights, engine and dtype, not by its name. manifest: of the model that `endpoint` serves."""
    if "url" in endpoint:
        return {name: endpoint[name] for name in ("url", "model", "reasoning_effort") if name in endpoint}
    from moult.inference.engines import base
    from moult.inference.since import has_other_tokens

    manifest = Path(cast(Path, manifest))
    folder = manifest.with_name(manifest.name.removesuffix(".manifest.json"))
    version = base.VERSION + has_other_tokens(folder, asked=True)
    compute = {key: endpoint["compute"][key] for key in ("engine", "dtype", "bits") if key in endpoint["compute"]}
    return {"content": read_json(manifest)["content"], **compute, "version": version}


class EnginePool:
    """What the askers of one job share: the job's journal, and at most one loaded engine.

    Equal weights are loaded once, whichever asker needs them first. Before other weights are loaded, the engine that
    is there is closed: two models are never in memory together.
    """

    def __init__(self, journal: Path) -> None:
        """journal: its path; the file is opened when something is asked."""
        self.path = journal
        self.key: Any = None
        self.engine: Any = None

    @cached_property
    def journal(self) -> Journal:
        """The open Journal."""
        return Journal(self.path)

    def load(self, key: Any, opener: Callable[[], Engine]) -> Engine:
        """Return the engine that is known by `key`: the one that is there, or else the one that `opener()` loads."""
        if self.key != key:
            if self.engine:
                self.engine.close()
            self.key = self.engine = None
            self.engine, self.key = opener(), key
        return self.engine

    def close(self) -> None:
        """Close the journal and the engine."""
        if opened := vars(self).pop("journal", None):
            opened.close()
        if self.engine:
            self.engine.close()
        self.key = self.engine = None


class Asker:
    """Who answers the requests of a job: a remote endpoint, or a model of this build that the job loads itself.

    A model is loaded, a remote endpoint is opened, only when the journal lacks an answer; a model stays for the next
    call. Every answer is on disk before the next one is awaited. Use it as a context manager: leaving the block closes
    the pool, unless another asker owns it.
    """

    def __init__(
        self,
        endpoint: dict[str, Any],
        pool: EnginePool | Path,
        client: dict[str, Any] | None = None,
        model: str | Path | None = None,
        manifest: str | Path | None = None,
        frames: Frames | None = None,
    ) -> None:
        """endpoint: {name, url, model} of a remote one, {name, serve, compute} of a model of this build.

        pool: the path of the job's journal, or the `pool` of another asker of the same job. client: how a remote
        endpoint is dealt with (see `recipes.client_of`). model, manifest: folder and manifest of a model of this build.
        frames: `Frames` with the videos that requests show.
        """
        self.endpoint, self.client = endpoint, client or {}
        self.model, self.manifest, self.frames = model, manifest, frames
        self.shares = isinstance(pool, EnginePool)
        self.pool = pool if isinstance(pool, EnginePool) else EnginePool(pool)
        self.values = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.shares:
            self.pool.close()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Who answers; see `identity_of`."""
        return identity_of(self.endpoint, self.manifest)

    @property
    def author(self) -> str:
        """Name of the model that answers."""
        return author(self.endpoint)

    def ask(self, requests: Sequence[ChatRequest], several: bool = False) -> list[StoredAnswer]:
        """Return one stored value per ChatRequest: text, finish_reason, prompt_tokens, completion_tokens, error.

        several: whether there are several requests to each chat, which a model of this build then reads once.
        """
        values = self._ask(requests, "answer", several)
        self.values += values
        return values

    def label_logprobs(self, requests: Sequence[LabelRequest]) -> list[list[float] | StoredAnswer]:
        """Return per LabelRequest a list of one log-likelihood (nats) per label, or a stored value with an error."""
        return self._ask(requests, "label_logprobs")

    def continuations(self, requests: Sequence[ContinuationRequest]) -> list[list[float]]:
        """Return per request [log-likelihood in nats, 1 if greedy decoding would write the continuation, else 0]."""
        return self._ask(requests, "continuations")

    def completions(self, requests: Sequence[CompletionRequest]) -> list[StoredAnswer]:
        """Return one stored value per CompletionRequest, as `ask` does."""
        return self._ask(requests, "completions")

    def usage(self) -> Usage:
        """Return calls, tokens and US dollars of what `ask` has returned so far; see `summed_usage`."""
        return summed_usage(self.values, self.endpoint | self.client)

    def _ask(self, requests, method, several=False):
        if not requests:
            return []
        asked = {"identity": self.identity, "journal": self.pool.journal}
        return ask_all(requests, method=method, open_answerer=lambda: self._open(several), **asked)

    def _open(self, several=False):
        """Return the loaded engine or the opened remote endpoint. A remote endpoint is opened per call, because it
        reads what the job has spent so far from a file that another asker may have written to."""
        if "url" in self.endpoint:
            return self._remote()
        from moult.inference.engines import loading

        compute = {key: value for key, value in self.endpoint["compute"].items() if key != "tokens"}
        key = (digest([self.identity, compute, *[several] * several]), self.frames)
        settings = compute | {"frames": self.frames, "several": several}
        return self.pool.load(key, lambda: loading.load_engine(Path(self.model), **settings))

    def _remote(self):
        settings, journal = self.endpoint | self.client, self.pool.journal
        budget = Budget.of(self.client, journal)
        if self.client.get("mode") == "batch":
            return BatchEndpoint(settings, budget, journal, self.identity)
        if underway := journal.connection.execute("SELECT COUNT(*) FROM in_batch").fetchone()[0]:
            logger.warning("%d requests are in batches: in mode chat they are asked, and paid, once more", underway)
        return RemoteEndpoint(settings, budget, journal, self.identity)


def asker_of(
    running: Job, inputs: Any, part: str = "endpoint", pool: EnginePool | None = None, frames: Frames | None = None
) -> Asker:
    """Return the Asker of one part of a job: `endpoint`, `judge`, or `model` (the model that the recipe is about).

    running: the Job; its client is that of the part, or has one per part. inputs: the job's inputs by name, among them
    served (of `endpoint`), judge or model, each with its manifest, where it is a model of this build. pool: of another
    asker of this job. frames: see `Asker`.
    """
    recipe, client = running.recipe, running.client or {}
    endpoint, weights = recipe[part], "served" if part == "endpoint" else part
    if part == "model":
        endpoint = {"name": recipe["model"], "serve": recipe["model"], "compute": recipe["compute"]}
    served = inputs.get(weights), inputs.get(f"{weights}_manifest")
    return Asker(endpoint, pool or running.journal, client.get(part, client), *served, frames)


def flaw_of(value: StoredAnswer, truncated: str) -> str | None:
    """Return why a stored answer cannot be used, or None; one that reached max_tokens where `truncated` is "reject"."""
    if value["finish_reason"] == "error":
        return f"error: {value['error']}"
    if not value["text"]:
        return "empty answer"
    if value["finish_reason"] == "length" and truncated == "reject":
        return "cut: reached max_tokens"
    return None
