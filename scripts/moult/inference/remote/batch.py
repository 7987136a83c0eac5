"""The Batch API: requests go up as a file, answers come down as a file within a day, at half the price.

Batches under way are in the journal, so that a run that was killed at any moment finds them again. The order ensures
it: the journal notes a tag and the requests under it, then the file is uploaded, then the batch is created with the tag
in its metadata, then its id is noted. A tag without an id is looked for at the API.
"""

import contextlib
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moult.base.errors import UserError
from moult.base.outside import Unreadable, parse_json
from moult.base.secrets import redacted_in
from moult.inference.journal import Journal
from moult.inference.remote.api import Api, Lost, Refusal
from moult.inference.remote.connection import MAX_REPLY
from moult.inference.remote.dialect import Dialect
from moult.inference.remote.endpoint import Streak
from moult.inference.remote.errors import problem_in, problem_of
from moult.inference.remote.underway import Underway
from moult.inference.remote.wire import answer_of, failure, guarded, raw_of
from moult.inference.requests import Answer, ChatRequest, request_key
from moult.inference.spending import Budget
from moult.inference.usage import reported_tokens, worst_case

# Limits of the API for one batch; a line is never cut, so that the file stays under its 200 MB.
MAX_ROWS = 50_000
MAX_BYTES = 190_000_000
TAG = "moult"
ENDED = ("completed", "failed", "expired", "cancelled")
QUEUE_FULL = "token_limit_exceeded"
UNANSWERED = ("batch_expired", "batch_cancelled")
NO_JSON = "that are no JSON object with a custom_id"
# Stands for a request that is not known any more.
NOTHING = {"messages": [], "sampling": {"max_tokens": 0}}
logger = logging.getLogger(__name__)


class BatchEndpoint:
    """An OpenAI-compatible API that is asked by batches; the same answers as `RemoteEndpoint`, under the same keys."""

    def __init__(
        self, settings: Mapping[str, Any], budget: Budget, journal: Journal, identity: Mapping[str, Any]
    ) -> None:
        self.settings, self.budget, self.identity = settings, budget, identity
        self.price = settings["price"]
        self.underway = Underway(journal, settings.get("spending"))
        self.name = f"endpoint {settings['name']} ({settings['url']})"
        self.max_rows, self.queue_full, self.respelt = MAX_ROWS, False, False
        self.dialect, self.streak = Dialect(settings), Streak()
        # How the requests of each batch of this run were spelt.
        self.spelt, self.told = {}, False

    def answer(self, requests: Sequence[ChatRequest], missing: Sequence[int]) -> Iterator[list[tuple[int, Answer]]]:
        """Yield lists of (index, Answer), a batch at a time. UserError where the API refuses to go on; no answer is
        lost by it.

        Requests that a batch left unanswered (it expired, or was cancelled) go into the next one.
        """
        indices = {request_key(requests[index], self.identity): index for index in missing}
        self.wanted = {key: requests[index] for key, index in indices.items()}
        with Api(self.settings) as self.api:
            self._adopt()
            while self.wanted:
                self._submit()
                if not self._tags():
                    continue
                tag, batch = self._wait()
                self.queue_full = False
                if batch.status == "failed" and not batch.output_file:
                    self._refused(tag, batch)
                    continue
                answers = self._read(tag, batch)
                if found := [(indices[key], answer) for key, answer in answers.items() if answer]:
                    yield found
                self.underway.release(answers)
                self.wanted = {key: request for key, request in self.wanted.items() if not answers.get(key)}
                self._watch(answers.values())

    def dollars(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return 0: an answer is paid for with its batch."""
        return 0.0

    def _tags(self):
        """Return the tags of the batches that hold what is wanted."""
        return sorted(set(self.underway.of(self.wanted).values()))

    def _watch(self, answers):
        """Submit no more where replies are paid for and of no use, one after another."""
        paid = [answer for answer in answers if answer and answer.prompt_tokens]
        if any(answer.assumed for answer in paid) and not self.told:
            self.told = True
            logger.warning("%s: replies without counts of tokens are charged at the most they can have cost", self.name)
        useless = [answer for answer in paid if self.streak.add(answer)]
        if useless and useless[-1] is paid[-1] and self.wanted:
            raise UserError(f"{self.name}: {self.streak.sentence(useless[-1])}.")

    @contextlib.contextmanager
    def _sentences(self):
        """Turn what the API or the network says into a UserError."""
        kept = "nothing is lost: batches under way go on and are found again, run again to collect them"
        try:
            yield
        except Refusal as error:
            status, message = error.status, error.problem.message
            if error.problem.no_quota:
                raise UserError(f"{self.name}: the account has no quota left; {kept}.") from None
            if status in (401, 403, 404):
                raise UserError(
                    f"{self.name}: refused ({status}: {message}); check key, url and model; {kept}."
                ) from None
            if status < 400:
                message = "a redirect, which is not followed; check the url"
            raise UserError(f"{self.name}: HTTP {status}: {message}; {kept}.") from None
        except Lost as error:
            by = f" by the proxy of {self.api.proxy.variable}" if self.api.proxy else ""
            raise UserError(f"{self.name}: cannot be reached{by} ({error}); {kept}.") from None

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
            return next((batch for batch in self.api.batches() if batch.metadata.get(TAG) == tag), None)

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
                    self.spelt[tag] = self.dialect.as_now()
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
        body = self.dialect.body(request)
        entry = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"

    def _create(self, tag, data):
        """Upload the input file and create its batch."""
        rows, retries = data.count(b"\n"), self.settings["retries"]
        with self._sentences():
            file = self.api.upload(f"{TAG}-{tag}.jsonl", data)
        self.underway.note(tag, file=file)
        for attempt in range(retries + 1):
            try:
                batch = self.api.create(file, {TAG: tag})
            except (Refusal, Lost) as error:
                if isinstance(error, Refusal) and error.problem.code == QUEUE_FULL:
                    self._hold(tag, rows, error.problem.message)
                    return
                batch = self._created_after_all(tag, error, last=attempt == retries)
            if batch:
                self.underway.note(tag, batch=batch.id)
                logger.info("batch %s: %d requests submitted", batch.id, rows)
                return
            time.sleep(min(8.0, 0.5 * 2**attempt))

    def _created_after_all(self, tag, error, last):
        """Return the batch that a failed call created nevertheless; None to try again; else raise a UserError."""
        doubtful = isinstance(error, Lost) or error.status >= 500
        if doubtful and (batch := self._find(tag)):
            return batch
        # An uploaded file may take a moment to be seen by the rest of the API.
        unseen = isinstance(error, Refusal) and error.problem.param == "file_id"
        if not last and (error.passes or unseen):
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
        pause, failures, told = self.settings["poll"] / 10, 0, {}
        while True:
            for tag in self._tags():
                name = self.underway.batch_id(tag)
                try:
                    batch = self.api.look(name)
                except (Refusal, Lost) as error:
                    failures += 1
                    if failures > self.settings["retries"] or not error.passes:
                        with self._sentences():
                            raise
                    logger.info("batch %s: no word of it, looking again (%s)", name, error)
                    continue
                failures = 0
                if told.get(tag) != (batch.status, batch.counts):
                    told[tag] = batch.status, batch.counts
                    logger.info("batch %s is %s%s", name, batch.status, batch.counts)
                if batch.status in ENDED:
                    return tag, batch
            time.sleep(pause)
            pause = min(self.settings["poll"], pause * 1.5)

    def _refused(self, tag, batch):
        """Say why a batch was refused as a whole; UserError unless it was too much at a time, or can be spelt in
        another way."""
        problems = [(error.get("line"), problem_of(redacted_in(error, self.settings["key"]))) for error in batch.errors]
        told = "; ".join(f"line {line}: {one.message}" if line else one.message for line, one in problems[:3])
        if any(one.code == QUEUE_FULL for _, one in problems):
            self._hold(tag, len(self.underway.keys(tag)), told)
            return
        keys = self.underway.keys(tag) & self.wanted.keys()
        respelt = [self._respelt(400, one, self.wanted[key], tag) for key in sorted(keys)[:1] for _, one in problems]
        self.underway.drop(tag)
        self._count()
        if not any(respelt):
            raise UserError(
                f"{self.name}: batch {batch.id} was refused: {told or 'without a reason'}; put that right and run "
                "again, what was answered is in the journal."
            )

    def _respelt(self, status, problem, request, tag):
        """Whether a request that was refused is spelt in another way from now on."""
        body = self.spelt.get(tag, Dialect(self.settings)).body(request)
        name = self.dialect.refused(status, problem, body)
        respelt = bool(name) and (self.dialect.is_settled(name) or self.dialect.respell(name, body))
        self.respelt |= respelt
        return respelt

    def _read(self, tag, batch):
        """Return key → Answer of the wanted requests of a batch, None for one that may go into the next batch; note
        what it cost."""
        keys, answers, dollars, odd = self.underway.keys(tag), {}, 0.0, Counter()
        least, self.respelt = 0.0, False
        for entry in self._lines(batch, odd):
            key, body = entry["custom_id"], _object(entry.get("response")).get("body")
            if key not in keys:
                odd["for a request that it is not asked"] += 1
            elif answers.get(key):
                odd["for a request that has an answer already"] += 1
            elif key in self.wanted:
                answers[key] = answer = self._answer_to(self.wanted[key], entry, tag)
                if answer:
                    dollars += self.budget.cost(answer.prompt_tokens, answer.completion_tokens)
                continue
            counts, assumed = reported_tokens(body, NOTHING, paid="choices" in _object(body))
            if assumed:
                # Without the request nobody knows what the line may have cost: what was promised stands for all.
                least = self.underway.promised(tag)
            else:
                dollars += self.budget.cost(**counts)
        dollars += self._unread(keys & self.wanted.keys() - answers.keys(), odd[NO_JSON])
        self.underway.note(tag, dollars=max(dollars, least))
        self._count()
        for what, count in odd.items():
            if count:
                logger.warning("batch %s: %d lines %s; ignored", batch.id, count, what)
        reason = None
        if batch.status == "completed":
            reason = "the batch has no readable line for it"
        elif not any(answers.values()):
            reason = f"the batch ended as {batch.status} before it was answered"
        for key in keys & self.wanted.keys():
            if key not in answers or (reason and not self.respelt and not answers[key]):
                answers[key] = reason and Answer("", "error", error=reason)
        answered = sum(answer is not None for answer in answers.values())
        logger.info(
            "batch %s: %d lines taken, %d requests go into the next", batch.id, answered, len(answers) - answered
        )
        return answers

    def _unread(self, keys, lines):
        """Return the most that so many unreadable lines may have cost, each being one of these requests'."""
        costs = [self.budget.cost(**worst_case(self.wanted[key].as_dict())) for key in keys]
        return sum(sorted(costs)[-lines:]) if lines else 0.0

    def _lines(self, batch, odd):
        """Yield the JSON objects of the output file and of the error file; count in `odd` what is none."""
        for name in filter(None, (batch.output_file, batch.error_file)):
            with tempfile.TemporaryFile() as file:
                with self._sentences():
                    self.api.download(name, file)
                file.seek(0)
                while line := file.readline(MAX_REPLY):
                    whole = line.endswith(b"\n") or len(line) < MAX_REPLY
                    while not line.endswith(b"\n") and (rest := file.readline(MAX_REPLY)):
                        line, whole = rest, False
                    entry = _entry(line) if whole else None
                    if entry:
                        yield entry
                    elif line.strip():
                        odd[NO_JSON] += 1

    def _answer_to(self, request, entry, tag):
        """Return the Answer to a request in a line of an output or error file, None where the request may go into the
        next batch: it was not put to the model, or is spelt in another way from now on."""
        raw = raw_of(redacted_in(entry, self.settings["key"])) or ""
        return guarded(lambda: self._judged(request, entry, tag), request, raw)

    def _judged(self, request, entry, tag):
        response, key = _object(entry.get("response")), self.settings["key"]
        body, status = response.get("body"), response.get("status_code")
        if entry.get("error"):
            problem = problem_of(redacted_in(entry, key))
            if problem.code in UNANSWERED:
                return None
            return failure(redacted_in(body, key), request, f"{problem.code}: {problem.message}")
        well = status == 200
        if well and not problem_in(body):
            answer = answer_of(body, request)
            return answer_of(redacted_in(body, key), request) if answer.error else answer
        body = redacted_in(body, key)
        problem = problem_in(body) if well else problem_of(body)
        if self._respelt(problem.meant if well else status, problem, request, tag):
            return None
        status = f"{status}{f' with error {problem.meant}' if well else ''}"
        return failure(body, request, f"HTTP {status}: {problem.message}")


def _entry(line):
    """Return the JSON object of a line, None where it is none that names a request."""
    try:
        entry = parse_json(line)
    except Unreadable:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("custom_id"), str) else None


def _object(value):
    return value if isinstance(value, dict) else {}
