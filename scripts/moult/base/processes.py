"""Which process something belongs to, and whether that process still runs."""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Self


class Process(NamedTuple):
    """A process as one that starts later can know it again, though its number may be another's by then.

    host: name of the machine, 32 letters at most. place: 8 hex digits for the start of the machine and the container
    in which numbers of processes hold. number: of the process there. start: clock ticks from the start of the machine
    to that of the process; 0 where the system does not tell.
    """

    host: str
    number: int
    place: str
    start: int

    @classmethod
    def own(cls) -> Self:
        """Return this process."""
        return cls(socket.gethostname()[:32], os.getpid(), _place(), _state_and_start(os.getpid())[1])

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the process whose `str` is `text`, or None where it is none's."""
        found = re.fullmatch(r"(.*)-(\d+)-([0-9a-f]{8})-(\d+)", text, re.DOTALL)
        return cls(found[1], int(found[2]), found[3], int(found[4])) if found else None

    def __str__(self) -> str:
        return f"{self.host}-{self.number}-{self.place}-{self.start}"

    def runs(self) -> bool | None:
        """Return whether the process runs; None where that cannot be seen: on another machine, in another container, or
        before the machine was started anew."""
        if (self.host, self.place) != (socket.gethostname()[:32], _place()):
            return None
        state, start = _state_and_start(self.number)
        if state:
            return state not in "ZX" and start == self.start
        # Linux may hide the processes of other users.
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


@cache
def _place():
    """Return 8 hex digits for this start of this machine and the numbering of processes that this one sees."""
    told = []
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            told.append(read())
        except OSError:
            told.append("")
    return sha256("".join(told).encode()).hexdigest()[:8]


def _state_and_start(number):
    """Return (state as a letter, clock ticks from the machine's start) of a process; ("", 0) where it is not seen."""
    try:
        # After the name, which stands in brackets and may hold anything: the fields from the third on.
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])


def machine_start() -> float:
    """Return when this machine was started, in seconds since 1970; 0 where the system does not tell."""
    try:
        return float(re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)[1])  # type: ignore[index]
    except (OSError, TypeError):
        return 0.0
