"""How fast an endpoint may be asked: requests and tokens per minute, and the pauses that it asks for."""

import email.utils
import math
import time
from collections.abc import Mapping


class Bucket:
    """A token bucket: `per_minute` flow in evenly, a second's worth (at least one) can be saved up. None: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self.rate = per_minute / 60 if per_minute else math.inf
        self.size = self.level = max(1.0, self.rate)
        self.filled = time.monotonic()

    def wait(self, amount: float) -> float:
        """Return the seconds until `amount` may be taken; more than the bucket holds may be taken from a full one."""
        if self.rate == math.inf:
            return 0.0
        now = time.monotonic()
        self.level = min(self.size, self.level + (now - self.filled) * self.rate)
        self.filled = now
        return max(0.0, (min(amount, self.size) - self.level) / self.rate)

    def take(self, amount: float) -> None:
        """Take `amount`; a negative one gives back. What is owed makes the next ones wait longer."""
        self.level -= amount


class Limits:
    """The gate that every request of an endpoint passes, in the order in which they came."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        import asyncio

        self.requests, self.tokens = Bucket(requests_per_minute), Bucket(tokens_per_minute)
        self.paused_until, self.gate = 0.0, asyncio.Lock()

    async def turn(self, tokens: float) -> None:
        """Return when one more request of about so many tokens may be sent."""
        import asyncio

        async with self.gate:
            while wait := max(self.paused_until - time.monotonic(), self.requests.wait(1), self.tokens.wait(tokens), 0):
                await asyncio.sleep(wait)
            self.requests.take(1)
            self.tokens.take(tokens)

    def pause(self, seconds: float) -> None:
        """Let no request pass for so many seconds from now."""
        self.paused_until = max(self.paused_until, time.monotonic() + seconds)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a reply asks to wait, 0 where it does not say: `retry-after-ms`, or Retry-After in
    seconds or as a date (RFC 9110, section 10.2.3)."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, date.timestamp() - time.time())
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0.0
