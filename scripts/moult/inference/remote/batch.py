"""The Batch API: requests go up as a file, answers come down as a file within a day, at half the price.

Batches under way are in the journal, so that a run that was killed at any moment finds them again. The order ensures
it: the journal notes a tag and the requests under it, then the file is uploaded, then the batch is created with the tag
in its metadata, then its id is noted. A tag without an id is looked for at the API.
"""

import contextlib
import json
import logging
import secrets
import time
from collections import Counter

from moult.base.errors import UserError
from moult.base.secrets import key_of, redacted
from moult.inference.remote.wire import NO_QUOTA, answer_of, chat_body, error_of, reported_tokens
from moult.inference.requests import Answer, request_key

# Limits of the API for one batch; a line is never cut, so that the file stays under its 200 MB.
MAX_ROWS = 50_000
MAX_BYTES = 190_000_000
TAG = "moult"
ENDED = ("completed", "failed", "expired", "cancelled")
QUEUE_FULL = "token_limit_exceeded"
UNANSWERED = ("batch_expired", "batch_cancelled")
logger = logging.getLogger(__name__)


class Underway:
    """The batches in the journal: one row per batch, and for each unanswered request the batch that it is in."""

    def __init__(self, journal, experiment):
        self.journal, self.experiment = journal, experiment

    def intend(self, keys, dollars):
        """Note that a batch of these requests is about to be submitted, for at most so many dollars; return its tag."""
        tag = secrets.token_hex(16)
        with self.journal.writing(sync=True) as connection:
            row = (tag, self.experiment, None, None, dollars)
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", row)
            connection.executemany("INSERT INTO in_batch VALUES (?, ?)", [(key, tag) for key in keys])
        return tag

    def note(self, tag, **columns):
        """Note a fact about a batch: its `file` or `batch` id, or the `dollars` that it has cost."""
        with self.journal.writing(sync=True) as connection:
            for column, value in columns.items():
                connection.execute(f"UPDATE batches SET {column} = ? WHERE tag = ?", (value, tag))

    def drop(self, tag):
        """Forget a batch that never was, or that did nothing: its requests are free again."""
        with self.journal.writing() as connection:
            connection.execute("DELETE FROM in_batch WHERE tag = ?", (tag,))
            connection.execute("DELETE FROM batches WHERE tag = ?", (tag,))

    def release(self, keys):
        """Note that these requests are answered, or may be asked again."""
        with self.journal.writing() as connection:
            connection.executemany("DELETE FROM in_batch WHERE key = ?", [(key,) for key in keys])

    def of(self, keys):
        """Return key → tag for those of the requests that are in a batch."""
        found = dict(self.journal.connection.execute("SELECT key, tag FROM in_batch"))
        return {key: found[key] for key in keys if key in found}

    def keys(self, tag):
        """Return the requests of a batch that are not answered yet."""
        return {key for (key,) in self.journal.connection.execute("SELECT key FROM in_batch WHERE tag = ?", (tag,))}

    def batch_id(self, tag):
        """Return the API's id of a batch, None where it was killed before it could be noted."""
        return self.journal.connection.execute("SELECT batch FROM batches WHERE tag = ?", (tag,)).fetchone()[0]

    def dollars(self):
        """Return what the experiment's batches of this job have cost, or may cost at most."""
        query = "SELECT TOTAL(dollars) FROM batches WHERE experiment IS ?"
        return self.journal.connection.execute(query, (self.experiment,)).fetchone()[0]


class BatchEndpoint:
    """An OpenAI-compatible API that is asked by batches; the same answers as `RemoteEndpoint`, under the same keys."""

    def __init__(self, settings, budget, journal, identity):
        self.settings, self.budget, self.identity = settings, budget, identity
        self.price = settings["price"]
        self.underway = Underway(journal, settings.get("spending"))
        self.name = f"endpoint {settings['name']} ({settings['url']})"
        self.max_rows, self.queue_full = MAX_ROWS, False

    def answer(self, requests, missing):
        """Yield lists of (index, Answer), a batch at a time. UserError where the API refuses to go on; no answer is
        lost by it.

        Requests that a batch left unanswered (it expired, or was cancelled) go into the next one.
        """
        indices = {request_key(requests[index], self.identity): index for index in missing}
        self.wanted = {key: requests[index] for key, index in indices.items()}
        with self._client() as self.api:
            self._adopt()
            while self.wanted:
                self._submit()
                if not self._tags():
                    continue
                tag, batch = self._wait()
                self.queue_full = False
                if batch.status == "failed" and not batch.output_file_id:
                    self._refused(tag, batch)
                    continue
                answers = self._read(tag, batch)
                yield [(indices[key], answer) for key, answer in answers.items() if answer]
                self.underway.release(answers)
                self.wanted = {key: request for key, request in self.wanted.items() if not answers.get(key)}

    def _tags(self):
        """Return the tags of the batches that hold what is wanted."""
        return sorted(set(self.underway.of(self.wanted).values()))

    def _client(self):
        import openai

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs a line per request
        return openai.OpenAI(
            base_url=self.settings["url"],
            api_key=key_of(self.settings["key"], f"endpoint {self.settings['name']}") or "none",
            max_retries=self.settings["retries"],
            timeout=self.settings["timeout"],
        )

    @contextlib.contextmanager
    def _sentences(self):
        """Turn what the API or the network says into a UserError."""
        import openai

        kept = "nothing is lost: batches under way go on and are found again, run again to collect them"
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(
                f"{self.name}: refused ({error.status_code}: {error.message}); check key, url and model; {kept}."
            ) from None
        except openai.APIStatusError as error:
            if error.code in NO_QUOTA:
                raise UserError(f"{self.name}: the account has no quota left; {kept}.") from None
            raise UserError(f"{self.name}: HTTP {error.status_code}: {error.message}; {kept}.") from None
        except openai.APIConnectionError as error:
            raise UserError(f"{self.name}: cannot be reached ({error.__cause__ or error}); {kept}.") from None

    # ---- submitting

    def _adopt(self):
        """Find the batches that a killed run may have created without noting their ids; forget those it did not."""
        for tag in self._tags():
            if self.underway.batch_id(tag) is None:
                batch = self._find(tag)
                if batch is None:
                    # The killed run's last words may still be on their way to the API.
                    time.sleep(self.settings["poll"] / 10)
                    batch = self._find(tag)
                if batch is None:
                    self.underway.drop(tag)
                else:
                    self.underway.note(tag, batch=batch.id)
                logger.info("a run was killed while it submitted a batch: %s", batch.id if batch else "it had not yet")
        self._count()

    def _find(self, tag):
        with self._sentences():
            return next((one for one in self.api.batches.list() if (one.metadata or {}).get(TAG) == tag), None)

    def _count(self):
        self.budget.promise(self.underway.dollars())

    def _submit(self):
        """Submit what is in no batch yet, as far as the budget and the API's queue allow."""
        while not self.queue_full:
            busy = self.underway.of(self.wanted)
            waiting = {key: request for key, request in self.wanted.items() if key not in busy}
            if not waiting:
                return
            with self.budget.alone():
                lines, dollars, full = self._fitting(waiting)
                if lines:
                    tag = self.underway.intend(lines, dollars)
                    self._count()
            if full:
                left = self.budget.left()
                if not lines and not busy:
                    self.budget.check()
                    raise self.budget.exhausted(f", and the next request may cost more than the ${left:,.4f} left")
                logger.info(
                    "budget: %d of %d requests surely fit, $%.4f is left beside them; the others wait until it is "
                    "known what these cost",
                    len(lines),
                    len(waiting),
                    left,
                )
            if not lines:
                return
            self._create(tag, b"".join(lines.values()))

    def _fitting(self, requests):
        """Return as many requests as one batch surely may hold: key → line of the input file, dollars at most, and
        whether it was the budget that kept others out."""
        lines, size, dollars, left = {}, 0, 0.0, self.budget.left()
        for key, request in requests.items():
            line = self._line(key, request)
            # No tokenizer makes more tokens than there are bytes.
            worst = self.budget.cost(len(line), request.sampling.max_tokens)
            if dollars + worst > left:
                return lines, dollars, True
            if len(lines) == self.max_rows or (lines and size + len(line) > MAX_BYTES):
                break
            lines[key], size, dollars = line, size + len(line), dollars + worst
        return lines, dollars, False

    def _line(self, key, request):
        body = chat_body(request, self.settings)
        entry = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"

    def _create(self, tag, data):
        """Upload the input file and create its batch."""
        import openai

        rows, retries = data.count(b"\n"), self.settings["retries"]
        with self._sentences():
            file = self.api.files.create(file=(f"{TAG}-{tag}.jsonl", data), purpose="batch")
        self.underway.note(tag, file=file.id)
        for attempt in range(retries + 1):
            try:
                # A retry of the client's own could create a second batch, where only the reply was lost.
                batch = self.api.with_options(max_retries=0).batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={TAG: tag},
                )
            except openai.APIError as error:
                if error.code == QUEUE_FULL:
                    self._hold(tag, rows, error.message)
                    return
                batch = self._created_after_all(tag, error, last=attempt == retries)
            if batch:
                self.underway.note(tag, batch=batch.id)
                logger.info("batch %s: %d requests submitted", batch.id, rows)
                return
            time.sleep(min(8.0, 0.5 * 2**attempt))

    def _created_after_all(self, tag, error, last):
        """Return the batch that a failed call created nevertheless; None to try again; else raise a UserError."""
        import openai

        doubtful = isinstance(error, openai.APIConnectionError | openai.InternalServerError)
        if doubtful and (batch := self._find(tag)):
            return batch
        busy = isinstance(error, openai.RateLimitError) and error.code not in NO_QUOTA
        # An uploaded file may take a moment to be seen by the rest of the API.
        unseen = getattr(error, "param", None) == "file_id"
        if not last and (doubtful or busy or unseen):
            return None
        if not doubtful:
            self.underway.drop(tag)
            self._count()
        with self._sentences():
            raise error

    def _hold(self, tag, rows, message):
        """Forget a batch that the API's queue has no room for; wait for another of ours, or try a smaller one."""
        self.underway.drop(tag)
        self._count()
        logger.info("batch of %d requests: the API's queue has no room for it now (%s)", rows, message)
        self.queue_full = bool(self._tags())
        if not self.queue_full:
            self.max_rows = rows // 2
            time.sleep(self.settings["poll"])
        if not self.max_rows:
            raise UserError(f"{self.name}: the queue for batches has no room for one request ({message}); run later.")

    # ---- waiting and reading

    def _wait(self):
        """Return (tag, batch) of the first batch that has ended; look less and less often."""
        import openai

        pause, failures, told = self.settings["poll"] / 10, 0, {}
        while True:
            for tag in self._tags():
                name = self.underway.batch_id(tag)
                try:
                    batch = self.api.batches.retrieve(name)
                except openai.APIError as error:
                    failures += 1
                    passing = openai.APIConnectionError | openai.InternalServerError | openai.RateLimitError
                    if failures > self.settings["retries"] or not isinstance(error, passing):
                        with self._sentences():
                            raise
                    logger.info("batch %s: no word of it, looking again (%s)", name, error)
                    continue
                failures, counts = 0, batch.request_counts
                done = f": {counts.completed} answered, {counts.failed} failed of {counts.total}" if counts else ""
                if told.get(tag) != (batch.status, done):
                    told[tag] = batch.status, done
                    logger.info("batch %s is %s%s", name, batch.status, done)
                if batch.status in ENDED:
                    return tag, batch
            time.sleep(pause)
            pause = min(self.settings["poll"], pause * 1.5)

    def _refused(self, tag, batch):
        """Say why a batch was refused as a whole; UserError unless it was only too much at a time."""
        errors = (batch.errors and batch.errors.data) or []
        told = "; ".join(f"line {one.line}: {one.message}" if one.line else f"{one.message}" for one in errors[:3])
        if any(one.code == QUEUE_FULL for one in errors):
            self._hold(tag, len(self.underway.keys(tag)), told)
            return
        self.underway.drop(tag)
        self._count()
        raise UserError(
            f"{self.name}: batch {batch.id} was refused: {told or 'without a reason'}; put that right and run again, "
            "what was answered is in the journal."
        )

    def _read(self, tag, batch):
        """Return key → Answer of the wanted requests of a batch, None for one that may go into the next batch; note
        what it cost."""
        keys, answers, dollars, odd = self.underway.keys(tag), {}, 0.0, Counter()
        for entry in self._lines(batch, odd):
            key = entry["custom_id"]
            if key not in keys:
                odd["for a request that it is not asked"] += 1
            elif answers.get(key):
                odd["for a request that has an answer already"] += 1
            elif key in self.wanted:
                answers[key] = _answer_in(entry, self.wanted[key])
            dollars += self.budget.cost(**reported_tokens(_object(entry.get("response")).get("body")))
        self.underway.note(tag, dollars=dollars)
        self._count()
        for what, count in odd.items():
            logger.warning("batch %s: %d lines %s; ignored", batch.id, count, what)
        reason = None
        if batch.status == "completed":
            reason = "the batch has no readable line for it"
        elif not any(answers.values()):
            reason = f"the batch ended as {batch.status} before it was answered"
        for key in keys & self.wanted.keys():
            if not answers.get(key):
                answers[key] = reason and Answer("", "error", error=reason)
        answered = sum(answer is not None for answer in answers.values())
        logger.info(
            "batch %s: %d lines taken, %d requests go into the next", batch.id, answered, len(answers) - answered
        )
        return answers

    def _lines(self, batch, odd):
        """Yield the JSON objects of the output file and of the error file; count in `odd` what is none."""
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            with self._sentences():
                data = redacted(self.api.files.content(file).content, self.settings["key"])
            for line in data.split(b"\n"):
                try:
                    entry = json.loads(line)
                    if isinstance(entry["custom_id"], str):
                        yield entry
                        continue
                except (ValueError, KeyError, TypeError):
                    if not line.strip():
                        continue
                odd["that are no JSON object with a custom_id"] += 1


def _object(value):
    return value if isinstance(value, dict) else {}


def _answer_in(entry, request):
    """Return the Answer in a line of an output or error file, None where the request was not put to the model."""
    response = _object(entry.get("response"))
    if entry.get("error"):
        code, message = error_of(entry)
        return None if code in UNANSWERED else Answer("", "error", error=f"{code}: {message}"[:300])
    if response.get("status_code") == 200:
        return answer_of(response.get("body"), request)
    (_, message), counts = error_of(response.get("body")), reported_tokens(response.get("body"))
    return Answer("", "error", error=f"HTTP {response.get('status_code')}: {message}"[:300], **counts)
