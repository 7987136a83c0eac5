"""Chat requests and answers, the journal that keeps every answer, and the loop that asks for what it lacks."""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from moult.errors import UserError
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


class Journal:
    """Every answer for ever, one SQLite file per job: key → request and answer. One writer, no WAL (shared disks)."""

    def __init__(self, path):
        import sqlite3

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, timeout=5)
        try:
            self.connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT)"
            )
            self.connection.commit()
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{path}: cannot be written ({error}); is another run writing to it? Wait, then run again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: is not a journal ({error}); move it away and run again.") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def known(self, keys):
        """Return the answers that are there, as key → stored value."""
        found = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            query = f"SELECT key, answer FROM answers WHERE key IN ({','.join('?' * len(part))})"
            found |= {key: json.loads(answer) for key, answer in self.connection.execute(query, part)}
        return found

    def keep(self, entries):
        """Store (key, request, answer) triples of plain JSON; they are on disk when this returns."""
        with self.connection:
            self.connection.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?)",
                [
                    (key, json.dumps(request, ensure_ascii=False), json.dumps(answer))
                    for key, request, answer in entries
                ],
            )


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


class RemoteEndpoint:
    """An OpenAI-compatible API; `concurrency` requests are in flight at a time."""

    def __init__(self, settings):
        self.settings = settings

    def answer(self, requests, missing):
        """Yield lists of (index, Answer) as they arrive. A wrong key or an unreachable server is a UserError."""
        import asyncio

        client = self._client()
        waiting, pending = list(missing)[::-1], {}

        async def step():
            while waiting and len(pending) < self.settings["concurrency"]:
                index = waiting.pop()
                pending[asyncio.create_task(self._ask(client, requests[index]))] = index
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            return [(pending.pop(task), task.result()) for task in done]

        async def close():
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, client.close(), return_exceptions=True)

        with asyncio.Runner() as runner:
            try:
                while waiting or pending:
                    yield runner.run(step())
            finally:
                runner.run(close())

    def _client(self):
        import os

        import openai

        variable = self.settings["key"]
        if variable and not os.environ.get(variable):
            raise UserError(
                f"endpoint {self.settings['name']}: the variable {variable} is not set; export it and run again."
            )
        return openai.AsyncOpenAI(
            base_url=self.settings["url"],
            api_key=os.environ[variable] if variable else "none",
            max_retries=self.settings["retries"],
            timeout=self.settings["timeout"],
        )

    async def _ask(self, client, request):
        import openai

        name = f"endpoint {self.settings['name']} ({self.settings['url']})"
        kept = "what was answered is in the journal, the next run continues"
        try:
            reply = await client.chat.completions.create(model=self.settings["model"], **_openai_request(request))
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(f"{name}: refused ({error.status_code}); check key, url and model; {kept}.") from None
        except openai.RateLimitError as error:
            if error.code == "insufficient_quota":
                raise UserError(f"{name}: the account has no quota left; {kept}.") from None
            return Answer("", "error", error=f"HTTP {error.status_code} after {self.settings['retries']} retries")
        except openai.APITimeoutError:
            return Answer("", "error", error=f"no answer within {self.settings['timeout']} s")
        except openai.APIConnectionError as error:
            raise UserError(f"{name}: cannot be reached ({error.__cause__ or error}); {kept}.") from None
        except openai.APIStatusError as error:
            return Answer("", "error", error=f"HTTP {error.status_code}: {error.message}"[:300])
        return _answer_of(reply, request)


def _openai_request(request):
    """Return the request as keyword arguments of the chat completions call."""
    sampling = request.sampling
    arguments = {
        "messages": list(request.messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": request.seed,
    }
    if sampling.top_k:
        arguments["extra_body"] = {"top_k": sampling.top_k}
    schema = request.schema
    if request.choices:
        enum = {"type": "string", "enum": list(request.choices)}
        schema = {
            "type": "object",
            "properties": {"choice": enum},
            "required": ["choice"],
            "additionalProperties": False,
        }
    if schema:
        arguments["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    return arguments


def _answer_of(reply, request):
    if not reply.choices:
        return Answer("", "error", error="the reply has no choices")
    choice, usage = reply.choices[0], reply.usage
    text = (choice.message.content or "").strip()
    counts = {
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "completion_tokens": usage.completion_tokens if usage else 0,
    }
    if getattr(choice.message, "refusal", None):
        return Answer("", "error", error=f"refused: {choice.message.refusal}"[:300], **counts)
    if request.choices and choice.finish_reason != "length":
        try:
            text = json.loads(text)["choice"]
        except (ValueError, KeyError, TypeError):
            return Answer("", "error", error="the reply is not one of the choices", **counts)
    return Answer(text, "length" if choice.finish_reason == "length" else "stop", **counts)


def usage_of(values, settings):
    """Return calls, tokens and cost of stored answers; cost is null where the price is unknown, 0 where we serve."""
    totals = {name: sum(value[name] for value in values) for name in ("prompt_tokens", "completion_tokens")}
    price = settings.get("price")
    cost = None if settings.get("url") else 0.0
    if price:
        cost = totals["prompt_tokens"] * price["input"] + totals["completion_tokens"] * price["output"]
        cost = round(cost / 1e6, 6)
    return {
        "endpoint": settings["name"],
        "model": settings.get("model") or settings.get("serve"),
        "calls": len(values),
        "failed": sum(value["finish_reason"] == "error" for value in values),
        **totals,
        "cost_usd": cost,
    }
