"""Remote endpoints: OpenAI-compatible APIs that answer chat requests, asked as fast as they allow and paid once."""

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moult.base.errors import UserError
from moult.base.outside import TooMuch, Unreadable, decoded, one_line, parse_json
from moult.base.secrets import key_of, redacted, redacted_in
from moult.inference.journal import Journal
from moult.inference.remote.connection import Body, bearer, client_options
from moult.inference.remote.dialect import Dialect
from moult.inference.remote.errors import UNKNOWN, problem_in, problem_of
from moult.inference.remote.rate_limit import Limits, retry_after
from moult.inference.remote.wire import answer_of, failure, guarded, unreadable
from moult.inference.requests import Answer, ChatRequest, request_key
from moult.inference.spending import Budget, cost_of

# Seconds. Before the n-th further try of a request: a random time up to FIRST_WAIT * 2^(n-1), at most LONGEST_WAIT.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# A server that wants us to wait longer than this is asked again by the next run.
LONGEST_PAUSE = 600.0
CONNECT_TIMEOUT = 3.0
# So long is a host tried that has never answered; so long is waited for what is under way when a run is given up.
CONNECT_PATIENCE, DRAIN = 1.5, 3.0
# So many requests in a row without an answer mean that the endpoint, not the request, is at fault.
MOST_FAILURES = 50
# So many refusals (403, 404) before any answer mean the same; after an answer a refusal is the row's own.
REFUSALS = 5
# So many readings of one reply that end their runs make it a reject.
MOST_READS = 2
# So many paid replies in a row that are unusable for one reason end the run.
USELESS = 20
logger = logging.getLogger(__name__)


class Transient(Exception):
    """A failure that another try may mend; `wait` is the seconds that the server asks for. `paid`: the Answer that
    counts what it may have cost nevertheless."""

    def __init__(self, reason, wait=0.0, pauses_all=False, lost=False, paid=None):
        super().__init__(reason)
        self.wait, self.pauses_all, self.lost, self.paid = wait, pauses_all, lost, paid


class Respelt(Exception):
    """The endpoint takes the same request in another spelling."""


class EndpointError(UserError):
    """A failure that every request to the endpoint would meet: a wrong key, url or model, no quota, no server."""


class Useless(UserError):
    """Paid replies that are of no use, one after another, for one reason."""


class Streak:
    """Counts paid replies in a row that are unusable for one reason."""

    def __init__(self) -> None:
        self.kind: str | None = None
        self.count = 0

    def add(self, answer: Answer) -> bool:
        """Count an Answer; return whether USELESS of one kind are reached."""
        reason = answer.error or (None if answer.text else "the answer is empty")
        # What stands in a reason beside its kind differs from row to row.
        kind = reason and re.split(r"[:(,]| at ", reason)[0]
        self.count = 0 if kind is None else self.count + 1 if kind == self.kind else 1
        self.kind = kind
        return self.count >= USELESS

    def sentence(self, answer: Answer) -> str:
        """Return why the run ends, `answer` being the last of the streak."""
        reason = answer.error or "the answer is empty"
        return (
            f"{self.count} paid replies in a row were unusable, the last: {reason!r}; they are in the journal with "
            "their reasons and as they came. Look whether model, prompt and settings of the endpoint fit each other; "
            "to go on with the other rows as it is, run again"
        )


class RemoteEndpoint:
    """An OpenAI-compatible API; `concurrency` requests are in flight at a time.

    settings: an endpoint's recipe and client (see `recipes`). budget: `check()` is called before each HTTP request and
    raises when nothing is left, `add(answer)` after each reply that reports tokens; None where nothing is counted.
    journal, identity: where each reply is kept as it came, before it is interpreted, and who answers, for its key; what
    a run that was ended has left there is not asked again.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        budget: Budget | None = None,
        journal: Journal | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.budget, self.price = settings, budget, settings.get("price")
        self.journal, self.identity = journal, identity or {}
        self.name = f"endpoint {settings['name']} ({settings['url']})"
        key = key_of(settings["key"], f"endpoint {settings['name']}")
        self.options, self.proxy = client_options(settings)
        self.options["headers"] |= {"Content-Type": "application/json"} | bearer(key)
        self.random, self.dialect = random.Random(0), Dialect(settings)

    def answer(self, requests: Sequence[ChatRequest], missing: Sequence[int]) -> Iterator[list[tuple[int, Answer]]]:
        """Yield lists of (index, Answer) as they arrive. No slot asks again before its last answer was taken.

        Raises EndpointError, and what the budget raises, after it has yielded what was under way and still arrived.
        """
        self.slots, self.in_flight, self.failure = set(), set(), None
        self.reached, self.answered, self.unanswered, self.refused = False, False, 0, None
        self.refusals, self.streak, self.told = 0, Streak(), False
        found = self._left_over(requests, missing)
        self.loop = asyncio.new_event_loop()
        self.waiting, self.arrived = [index for index in missing if index not in found][::-1], []
        try:
            if found:
                yield list(found.items())
            self.loop.run_until_complete(self._open(requests))
            while self.slots:
                self.loop.run_forever()
                if self.arrived:
                    arrived, self.arrived = self.arrived, []
                    yield arrived
            if self.failure:
                raise self.failure
            if self.refused and not self.answered:
                raise self.refused
        finally:
            if self.budget:
                self.budget.settle()
            self.loop.run_until_complete(self._close())
            self.loop.close()

    def dollars(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return what so many tokens cost, None without a price."""
        return cost_of(self.price, prompt_tokens, completion_tokens) if self.price else None

    def _left_over(self, requests, missing):
        """Return index → Answer of the replies that came to a run which was ended before it had interpreted them.

        A reply that has ended its reader twice is a reject.
        """
        replies, found = self.journal.left_over() if self.journal else {}, {}
        for index in missing if replies else ():
            request = requests[index]
            reply, tries = replies.get(key := request_key(request, self.identity), (None, 0))
            if reply is not None and tries >= MOST_READS:
                text = redacted(decoded(reply), self.settings["key"])
                found[index] = unreadable(text, request, f"reading the reply has ended {tries + 1} runs")
            elif reply is not None:
                try:
                    found[index] = self._read(200, {}, reply, request, self.dialect.body(request))
                except (Transient, Respelt, UserError):
                    self.journal.forget(key)
        if found:
            logger.info("%d replies came to a run that was ended, and are taken from the journal", len(found))
        return found

    async def _open(self, requests):
        import httpx2

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs a line per request
        base = httpx2.URL(self.settings["url"])
        self.target = base.copy_with(path=f"{base.path.rstrip('/')}/chat/completions")
        self.begun = time.monotonic()
        self.limits = Limits(self.settings.get("requests_per_minute"), self.settings.get("tokens_per_minute"))
        for _ in range(min(self.settings["concurrency"], len(self.waiting))):
            slot = self.loop.create_task(self._slot(requests))
            self.slots.add(slot)
            slot.add_done_callback(self._closed)

    async def _close(self):
        for slot in self.slots:
            slot.remove_done_callback(self._closed)
        self._cancel(self.slots)
        await asyncio.gather(*self.slots, return_exceptions=True)
        await self.loop.shutdown_asyncgens()

    async def _slot(self, requests):
        import httpx2

        # A client for each slot: the work of a shared pool grows with its connections, for each request.
        timeout = httpx2.Timeout(None, connect=CONNECT_TIMEOUT)
        async with httpx2.AsyncClient(**self.options, timeout=timeout) as client:
            while self.waiting:
                index = self.waiting.pop()
                answer = await self._ask(client, requests[index])
                self.arrived.append((index, answer))
                self._watch(answer)
                # The loop ends its round and hands over what arrived; after the sleep it has been started again.
                self.loop.stop()
                await asyncio.sleep(0)

    def _closed(self, slot):
        self.slots.discard(slot)
        if not slot.cancelled() and slot.exception():
            self._give_up(slot.exception())
        self.loop.stop()

    def _give_up(self, failure):
        """Ask no more; take what still arrives of what is under way. Answers that the budget has paid for are worth
        any wait; where the endpoint is at fault, there is little to wait for."""
        if self.failure:
            return
        self.failure = failure
        self.waiting.clear()
        self._cancel(self.slots - self.in_flight)
        parting = DRAIN if isinstance(failure, EndpointError) else self.settings["timeout"]
        self.loop.call_later(parting, self._cancel, self.in_flight)

    def _cancel(self, slots):
        for slot in slots:
            slot.cancel()

    def _error(self, problem):
        return EndpointError(f"{self.name}: {problem}; what was answered is in the journal, the next run continues.")

    async def _ask(self, client, request):
        """Return the Answer to a request, which is an error after `retries` further tries."""
        tries = 0
        while True:
            body = self.dialect.body(request)
            try:
                return self._noted(await self._try(client, request, body))
            except Respelt:
                continue
            except Transient as error:
                unreached = error.lost and not self.reached
                if unreached and time.monotonic() - self.begun > CONNECT_PATIENCE:
                    by = f" by the proxy of {self.proxy.variable}" if self.proxy else ""
                    raise self._error(f"cannot be reached{by} ({error}); check url and network") from None
                tries += not unreached
                if tries > self.settings["retries"] or self.failure:
                    return self._noted(Answer("", "error", error=f"{error}; tries: {tries}"[:300]), in_vain=True)
                wait = error.wait + self.random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** max(0, tries - 1)))
                if error.pauses_all:
                    self.limits.pause(error.wait or wait)
            await asyncio.sleep(wait)

    def _noted(self, answer, in_vain=False):
        """Return the answer, or stop the run where the endpoint has failed too often in a row. What it will not take
        (HTTP 400) is the fault of the row, once it has taken another."""
        if answer.prompt_tokens or not answer.error:
            self.answered, self.unanswered = True, 0
        elif in_vain or not self.answered:
            self.unanswered += 1
            if self.unanswered >= MOST_FAILURES:
                raise self._error(f"{self.unanswered} requests in a row failed, the last with {answer.error!r}")
        return answer

    def _watch(self, answer):
        """Stop the run where replies are paid for and of no use, one after another, and say once whose counts of
        tokens are assumed. The answer has been handed over before."""
        if answer.assumed and not self.told:
            self.told = True
            logger.warning(
                "%s: a reply reports no counts of tokens that can be true; such replies are counted, and charged to "
                "the budget, at the most that they can have cost",
                self.name,
            )
        if answer.prompt_tokens and self.streak.add(answer) and self.waiting:
            raise Useless(f"{self.name}: {self.streak.sentence(answer)}.")

    async def _try(self, client, request, body):
        """Send a request once; return its Answer; raise Transient or Respelt, or UserError where a try is of no use."""
        import httpx2

        data = json.dumps(body).encode()
        # About four characters per token, and every token that the answer may have: corrected when the answer is there.
        reserved = len(data) // 4 + request.sampling.max_tokens
        await self.limits.turn(reserved)
        if self.budget:
            self.budget.check()
        slot, timeout = asyncio.current_task(), self.settings["timeout"]
        self.in_flight.add(slot)
        try:
            async with asyncio.timeout(timeout):
                status, headers, content = await self._exchange(client, data)
        except TimeoutError:
            raise Transient(f"no answer within {timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, ValueError) as error:
            reason = redacted(str(error), self.settings["key"]) or type(error).__name__
            raise Transient(f"no connection: {one_line(reason)}", lost=True) from None
        finally:
            self.in_flight.discard(slot)
        self.reached = True
        keeps = self.journal and isinstance(content, bytes) and 200 <= status < 300
        if keeps:
            self.journal.arrive(request_key(request, self.identity), content)
        try:
            answer = self._read(status, headers, content, request, body)
        except (Transient, Respelt, UserError) as again:
            if keeps:
                self.journal.forget(request_key(request, self.identity))
            if not isinstance(again, Transient):
                raise
            if again.paid:
                if self.budget:
                    self.budget.add(again.paid)
                self._watch(again.paid)
            raise
        if answer.prompt_tokens or answer.completion_tokens:
            if not answer.assumed:
                self.limits.tokens.take(answer.prompt_tokens + answer.completion_tokens - reserved)
            if self.budget:
                self.budget.add(answer)
        elif keeps:
            self.journal.forget(request_key(request, self.identity))
        return answer

    async def _exchange(self, client, data):
        """Return (status, headers, bytes) of the reply to a body; Unreadable in place of bytes that are too many."""
        parts = []
        async with client.stream("POST", self.target, content=data) as response:
            try:
                body = Body(response.headers.get("content-encoding", ""), parts.append)
                async for part in response.aiter_raw():
                    body.add(part)
            except Unreadable as error:
                return response.status_code, response.headers, error
            return response.status_code, response.headers, b"".join(parts)

    def _read(self, status, headers, content, request, body):
        """Return the Answer that an HTTP response is; see `_try` for what is raised. content: bytes, or Unreadable."""
        text = "" if isinstance(content, Unreadable) else redacted(decoded(content), self.settings["key"])

        def read():
            return self._judged(status, headers, content, text, request, body)

        return guarded(read, request, text, passing=(Transient, Respelt, UserError))

    def _judged(self, status, headers, content, text, request, body):
        """See `_read`; text: the content as text, with the key hidden. What was paid for is never asked again.

        Some servers send the key back in their error messages: whatever is no answer is read with the key redacted.
        """
        key, well = self.settings["key"], 200 <= status < 300
        try:
            if isinstance(content, Unreadable):
                raise content
            reply = parse_json(content)
        except Unreadable as error:
            if well and (error is content or isinstance(error, TooMuch)):
                return unreadable(text, request, f"the reply is {error}")
            if well and text.startswith(("data:", "event:", ": ")):
                return unreadable(text, request, "the reply is a stream of events, which was not asked for")
            if well:
                reason = f"a reply that is not JSON: {one_line(text)!r}"[:300]
                # A cut JSON may have been paid for.
                paid = unreadable(text, request, reason) if text.lstrip().startswith(("{", "[")) else None
                raise Transient(reason, retry_after(headers), paid=paid) from None
            reply = text
        if well and not problem_in(reply):
            answer = answer_of(reply, request)
            return answer_of(redacted_in(reply, key), request) if answer.error else answer
        reply = redacted_in(reply, key)
        return self._failed(status, headers, reply, problem_in(reply) if well else problem_of(reply), request, body)

    def _failed(self, status, headers, reply, problem, request, body):
        """Return the Answer to a request whose reply (any JSON) is an error; see `_try` for what is raised."""
        meant = problem.meant if status < 300 else status
        reason = f"HTTP {status}{f' with error {meant}' if meant != status else ''}"
        reason = f"{reason}{f' ({problem.code})' if problem.code else ''}: {problem.message}"[:300]
        answer = failure(reply, request, reason)
        if answer.prompt_tokens or answer.completion_tokens:
            return answer
        if meant == 402 or problem.no_quota:
            raise self._error(f"the account has no quota left ({reason})")
        if meant in (401, 403, 404) or 300 <= meant < 400:
            said = "a redirect, which is not followed" if meant < 400 else problem.message[:200] or "without a reason"
            refused = self._error(f"refused ({meant}): {said}; check key, url and model")
            self.refusals += 1
            if meant not in (403, 404) or (not self.answered and self.refusals >= REFUSALS):
                raise refused
            # The row's own, unless no other is answered either.
            self.refused = refused
            return answer
        # An error within a 200 seldom says that it is a 400.
        if name := self.dialect.refused(400 if meant == UNKNOWN and status < 300 else meant, problem, body):
            if self.dialect.is_settled(name) or (not self.answered and self.dialect.respell(name, body)):
                raise Respelt
            if not self.answered and (remedy := self.dialect.remedy(name, body)):
                raise self._error(f"{remedy} ({reason})")
        if meant not in (408, 409, 425, 429) and meant < 500:
            return answer
        wait = retry_after(headers) or problem.wait
        if wait > LONGEST_PAUSE:
            raise self._error(f"asks to wait {wait:.0f} s ({reason}); run again then")
        raise Transient(reason, wait, meant == 429)
