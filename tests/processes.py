"""Processes that are waited for and killed."""

import os
import signal
import time


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def kill_group(process):
    """Kill the scheduler and every job it started, at once and without a word."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_scheduler(process):
    """Kill the scheduler alone: its job must not train on beside the next one."""
    process.kill()
    process.wait()
