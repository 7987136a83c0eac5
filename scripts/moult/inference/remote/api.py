"""The Batch API's calls over HTTP: files up and down, batches made and looked at, each reply bounded and checked."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote

from moult.base.outside import TooMuch, Unreadable, decoded, one_line, parse_json
from moult.base.secrets import key_of, redacted, redacted_in
from moult.inference.remote.connection import Body, bearer, client_options
from moult.inference.remote.errors import Problem, problem_of
from moult.inference.remote.rate_limit import retry_after

# Bytes of an output file.
MAX_FILE = 4_000_000_000
# Pages of the list of batches, of 100 each.
MAX_PAGES = 100
# Bytes per second that a reply has to bring, after the timeout of its endpoint.
SLOWEST = 1000
logger = logging.getLogger(__name__)


class Refusal(Exception):
    """A reply that is an error. `status` is HTTP's, `problem` what it says."""

    def __init__(self, status: int, problem: Problem, wait: float = 0.0):
        super().__init__(f"HTTP {status}: {problem.message}")
        self.status, self.problem, self.wait = status, problem, wait

    @property
    def passes(self) -> bool:
        """Whether another try may be answered."""
        return (self.status in (408, 409, 425, 429) or self.status >= 500) and not self.problem.no_quota


class Lost(Exception):
    """No reply, or none that is one: it is not known whether the call did its work."""

    passes, wait = True, 0.0


@dataclass(frozen=True)
class Batch:
    """A batch as the API shows it."""

    id: str
    status: str
    output_file: str | None
    error_file: str | None
    metadata: dict
    counts: str
    errors: list

    @classmethod
    def of(cls, reply: object) -> "Batch":
        """Return the batch that a reply shows; Lost where it shows none."""
        if not isinstance(reply, dict) or not _is_name(reply.get("id")) or not isinstance(reply.get("status"), str):
            raise Lost("a reply that shows no batch")
        output, errors_in = (
            reply[name] if _is_name(reply.get(name)) else None for name in ("output_file_id", "error_file_id")
        )
        metadata, counts, errors = (reply.get(name) for name in ("metadata", "request_counts", "errors"))
        errors = errors.get("data") if isinstance(errors, dict) else None
        told = ""
        if isinstance(counts, dict):
            done, failed, total = (one_line(counts.get(name), 20) for name in ("completed", "failed", "total"))
            told = f": {done} answered, {failed} failed of {total}"
        return cls(
            reply["id"],
            one_line(reply["status"], 40),
            output,
            errors_in,
            metadata if isinstance(metadata, dict) else {},
            told,
            [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else [],
        )


class Api:
    """The calls of one endpoint's Batch API. Each is tried again `retries` times where another try may be answered.

    Each raises Refusal or Lost.
    """

    def __init__(self, settings):
        import httpx2

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs a line per request
        options, self.proxy = client_options(settings)
        self.settings = settings
        options["headers"] |= bearer(key_of(settings["key"], f"endpoint {settings['name']}"))
        self.client = httpx2.Client(**options, timeout=settings["timeout"])
        self.base = httpx2.URL(settings["url"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def upload(self, name: str, data: bytes) -> str:
        """Upload an input file; return its id."""
        reply = self._call("POST", "files", files={"file": (name, data)}, data={"purpose": "batch"})
        if not isinstance(reply, dict) or not _is_name(reply.get("id")):
            raise Lost("a reply that shows no file")
        return reply["id"]

    def create(self, file: str, metadata: dict) -> Batch:
        """Create a batch, in one try: a second could create a second batch, where only the reply was lost."""
        body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return Batch.of(self._call("POST", "batches", retries=0, json=body | {"metadata": metadata}))

    def look(self, name: str) -> Batch:
        """Return a batch as it is now."""
        return Batch.of(self._call("GET", f"batches/{quote(name, safe='')}"))

    def batches(self) -> Iterator[Batch]:
        """Yield all batches of the account, the newest first."""
        after = {}
        for _ in range(MAX_PAGES):
            page = self._call("GET", "batches", params={"limit": 100} | after)
            entries = page.get("data") if isinstance(page, dict) else None
            for entry in entries if isinstance(entries, list) else ():
                try:
                    last = Batch.of(entry)
                except Lost:
                    continue
                yield last
                after = {"after": last.id}
            if not entries or not page.get("has_more"):
                return

    def download(self, name: str, file: IO[bytes]) -> None:
        """Write the content of a file into an open one."""
        self._call("GET", f"files/{quote(name, safe='')}/content", into=file)

    def _call(self, method, path, retries=None, into=None, **content):
        retries, attempt = self.settings["retries"] if retries is None else retries, 0
        while True:
            try:
                return self._try(method, path, into, content)
            except (Refusal, Lost) as error:
                if attempt == retries or not error.passes:
                    raise
                logger.info("%s %s: %s; trying again", method, path, error)
                time.sleep(max(min(error.wait, 60.0), min(8.0, 0.5 * 2**attempt)))
                attempt += 1

    def _try(self, method, path, into, content):
        import httpx2

        key, parts = self.settings["key"], []
        url = self.base.copy_with(path=f"{self.base.path.rstrip('/')}/{path}")
        begun = time.monotonic()
        if into:
            into.seek(0)
            into.truncate()
        try:
            with self.client.stream(method, url, **content) as response:
                good, limit = 200 <= response.status_code < 300, {"limit": MAX_FILE} if into else {}
                write = into.write if into and good else parts.append
                body = Body(response.headers.get("content-encoding", ""), write, **(limit if good else {}))
                for part in response.iter_raw():
                    body.add(part)
                    if time.monotonic() - begun > self.settings["timeout"] + body.size / SLOWEST:
                        raise Lost(f"no whole reply within {time.monotonic() - begun:.0f} s")
            if good and into:
                return None
            data = b"".join(parts)
            if good:
                return parse_json(data)
        except TooMuch as error:
            raise Refusal(413, Problem(None, None, f"a reply {error}")) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError) as error:
            raise Lost(one_line(redacted(str(error), key)) or type(error).__name__) from None
        try:
            problem = problem_of(redacted_in(parse_json(data), key))
        except Unreadable:
            problem = problem_of(redacted(decoded(data), key))
        raise Refusal(response.status_code, problem, retry_after(response.headers) or problem.wait)


def _is_name(value):
    return isinstance(value, str) and 0 < len(value) < 300 and value.isprintable()
