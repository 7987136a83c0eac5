"""Token buckets, and the waits that servers ask for; how the client keeps to them is in test_endpoint.py."""

import email.utils
import time

import pytest
from moult.inference.remote.rate_limit import Bucket, retry_after


def test_the_forms_of_retry_after():
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after-ms": "40", "retry-after": "9"}) == 0.04
    assert 58 < retry_after({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)}) <= 60
    for value in ("-1", "nan", "inf", "soon", "", email.utils.formatdate(time.time() - 60)):
        assert retry_after({"retry-after": value}) == 0
    assert retry_after({}) == 0


def test_tokens_are_reserved_and_then_corrected(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bucket = Bucket(600)
    assert bucket.wait(10) == 0
    bucket.take(10)
    assert bucket.wait(5) == pytest.approx(0.5)
    now[0] = 0.5
    assert bucket.wait(5) == pytest.approx(0)
    bucket.take(25)  # it cost more than was thought
    assert bucket.wait(1) == pytest.approx(2.1)
    bucket.take(-30)  # and less
    assert bucket.wait(10) == pytest.approx(0)
    # More than the bucket holds may go when it is full; the next ones wait for it.
    now[0] = 100
    assert bucket.wait(1000) == 0
    bucket.take(1000)
    assert bucket.wait(1) == pytest.approx(99.1)
    assert Bucket(None).wait(10**9) == 0
