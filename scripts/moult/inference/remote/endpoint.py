"""Remote endpoints: OpenAI-compatible APIs that answer chat requests, asked as fast as they allow and paid once."""

import asyncio
import json
import logging
import random
import time

from moult.base.errors import UserError
from moult.base.secrets import key_of, redacted
from moult.inference.remote.rate_limit import Limits, retry_after
from moult.inference.remote.wire import NO_QUOTA, answer_of, chat_body, error_of, reported_tokens
from moult.inference.requests import Answer

# Seconds. Before the n-th further try of a request: a random time up to FIRST_WAIT * 2^(n-1), at most LONGEST_WAIT.
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
# A server that wants us to wait longer than this is asked again by the next run.
LONGEST_PAUSE = 600.0
CONNECT_TIMEOUT = 3.0
# So long is a host tried that has never answered; so long is waited for what is under way when a run is given up.
CONNECT_PATIENCE, DRAIN = 1.5, 3.0
# So many requests in a row without an answer mean that the endpoint, not the request, is at fault.
MOST_FAILURES = 50


class Transient(Exception):
    """A failure that another try may mend; `wait` is the seconds that the server asks for."""

    def __init__(self, reason, wait=0.0, pauses_all=False, lost=False):
        super().__init__(reason)
        self.wait, self.pauses_all, self.lost = wait, pauses_all, lost


class EndpointError(UserError):
    """A failure that every request to the endpoint would meet: a wrong key, url or model, no quota, no server."""


class RemoteEndpoint:
    """An OpenAI-compatible API; `concurrency` requests are in flight at a time.

    settings: an endpoint's recipe and client (see `recipes`). budget: `check()` is called before each HTTP request and
    raises when nothing is left, `add(answer)` after each reply that reports tokens; None where nothing is counted.
    """

    def __init__(self, settings, budget=None):
        self.settings, self.budget, self.price = settings, budget, settings.get("price")
        self.name = f"endpoint {settings['name']} ({settings['url']})"
        key = key_of(settings["key"], f"endpoint {settings['name']}")
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.random = random.Random(0)

    def answer(self, requests, missing):
        """Yield lists of (index, Answer) as they arrive. No slot asks again before its last answer was taken.

        Raises EndpointError, and what the budget raises, after it has yielded what was under way and still arrived.
        """
        self.loop = asyncio.new_event_loop()
        self.waiting, self.arrived = list(missing)[::-1], []
        self.slots, self.in_flight, self.failure = set(), set(), None
        self.reached, self.answered, self.unanswered = False, False, 0
        try:
            self.loop.run_until_complete(self._open(requests))
            while self.slots:
                self.loop.run_forever()
                if self.arrived:
                    arrived, self.arrived = self.arrived, []
                    yield arrived
            if self.failure:
                raise self.failure
        finally:
            self.loop.run_until_complete(self._close())
            self.loop.close()

    async def _open(self, requests):
        import httpx2

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs a line per request
        self.target = httpx2.URL(f"{self.settings['url'].rstrip('/')}/chat/completions")
        self.begun = time.monotonic()
        self.limits = Limits(self.settings.get("requests_per_minute"), self.settings.get("tokens_per_minute"))
        certificates = httpx2.create_ssl_context()
        for _ in range(min(self.settings["concurrency"], len(self.waiting))):
            slot = self.loop.create_task(self._slot(requests, certificates))
            self.slots.add(slot)
            slot.add_done_callback(self._closed)

    async def _close(self):
        for slot in self.slots:
            slot.remove_done_callback(self._closed)
        self._cancel(self.slots)
        await asyncio.gather(*self.slots, return_exceptions=True)
        await self.loop.shutdown_asyncgens()

    async def _slot(self, requests, certificates):
        import httpx2

        # A client for each slot: the work of a shared pool grows with its connections, for each request.
        timeout = httpx2.Timeout(None, connect=CONNECT_TIMEOUT)
        async with httpx2.AsyncClient(headers=self.headers, timeout=timeout, verify=certificates) as client:
            while self.waiting:
                index = self.waiting.pop()
                answer = await self._ask(client, requests[index])
                self.arrived.append((index, answer))
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
        body = json.dumps(chat_body(request, self.settings)).encode()
        tries = 0
        while True:
            try:
                return self._noted(await self._try(client, request, body))
            except Transient as error:
                unreached = error.lost and not self.reached
                if unreached and time.monotonic() - self.begun > CONNECT_PATIENCE:
                    raise self._error(f"cannot be reached ({error}); check url and network") from None
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

    async def _try(self, client, request, body):
        """Send a request once; return its Answer, raise Transient, or UserError where trying is of no use."""
        import httpx2

        # About four characters per token, and every token that the answer may have: corrected when the answer is there.
        reserved = len(body) // 4 + request.sampling.max_tokens
        await self.limits.turn(reserved)
        if self.budget:
            self.budget.check()
        slot, timeout = asyncio.current_task(), self.settings["timeout"]
        self.in_flight.add(slot)
        try:
            async with asyncio.timeout(timeout):
                response = await client.post(self.target, content=body)
        except TimeoutError:
            raise Transient(f"no answer within {timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Transient(f"no connection: {error or type(error).__name__}", lost=True) from None
        finally:
            self.in_flight.discard(slot)
        self.reached = True
        answer = self._judged(response, request)
        if answer.prompt_tokens or answer.completion_tokens:
            self.limits.tokens.take(answer.prompt_tokens + answer.completion_tokens - reserved)
            if self.budget:
                self.budget.add(answer)
        return answer

    def _judged(self, response, request):
        """Return the Answer that an HTTP response is. One that reports tokens was paid for: it is never asked again."""
        status = response.status_code
        # Some servers send the key back in their error messages.
        content = redacted(response.content, self.settings["key"])
        try:
            reply = json.loads(content)
        except ValueError:
            reply = content.decode(errors="replace")
        if status == 200 and not isinstance(reply, str):
            return answer_of(reply, request)
        code, message = error_of(reply)
        reason = f"HTTP {status}{f' ({code})' if code else ''}: {message}"[:300]
        counts = reported_tokens(reply)
        if any(counts.values()):
            return Answer("", "error", error=reason, **counts)
        if status == 402 or code in NO_QUOTA:
            raise self._error(f"the account has no quota left ({reason})")
        if status in (401, 403, 404) or 300 <= status < 400:
            raise self._error(f"refused ({status}): {message[:200]}; check key, url and model")
        if status not in (200, 408, 409, 425, 429) and status < 500:
            return Answer("", "error", error=reason)
        wait = retry_after(response.headers)
        if wait > LONGEST_PAUSE:
            raise self._error(f"asks to wait {wait:.0f} s ({reason}); run again then")
        raise Transient(
            reason if status != 200 else f"a reply that is not JSON: {message!r}"[:300], wait, status == 429
        )
