"""Leases: files that say who holds something. They hold where a disk grants every lock to whoever asks."""

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from moult.base.errors import UserError
from moult.base.processes import Process

# Seconds between two signs of life of a holder, and after which one that gave none is taken for dead where its process
# cannot be seen: on another machine.
BEAT = 3.0
LAPSE = 30.0
# Seconds for a holder that ends to be gone, before anybody is told that there is one.
GRACE = 1.0
logger = logging.getLogger(__name__)


class Holder(NamedTuple):
    """Who holds a lease: its text, whether the process is seen to run (None: it cannot be seen from here), and whether
    it may be alive."""

    text: str
    runs: bool | None
    alive: bool

    def __str__(self) -> str:
        process = _process_in(self.text)
        return f"process {process.number} on {process.host}" if process else "another process"


class Lease:
    """A file that one process alone can make, in which it names itself, and whose time it renews until it gives it up.

    It is made by a link, which is exclusive on every shared disk. The lease of a process that is dead is taken over:
    at once where that can be seen (`Process.runs`), else when it was not renewed for LAPSE seconds by the disk's own
    clock, so that the clocks of two machines may differ.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        token = uuid.uuid4().hex
        self.text = f"{Process.own()}\n{token}\n"
        self.aside = self.path.with_name(f".{self.path.name}.{token}")
        self.ended = threading.Event()

    def take(self) -> Holder | None:
        """Take the lease and return None, or return who has it."""
        try:
            self.aside.write_text(self.text, encoding="utf-8")
            now = self.aside.stat().st_mtime
            while not self._link():
                if holder := holder_of(self.path, now):
                    if holder.alive:
                        return holder
                    self._remove(holder)
        finally:
            self.aside.unlink(missing_ok=True)
        threading.Thread(target=self._renew, daemon=True).start()
        return None

    def wait(self, tell: Callable[[str], None], patience: float = float("inf"), odd: str = "") -> None:
        """Take the lease as soon as it is free, and `tell` for whom this waits; `odd`: what it means that there is
        somebody. UserError after `patience` seconds."""
        begun, told = time.monotonic(), set()
        while holder := self.take():
            waited = time.monotonic() - begun
            if waited > patience:
                raise UserError(f"{self.path}: {holder} has it still after {waited:.0f} s; end that, then run again.")
            certain = holder.runs or waited > LAPSE + GRACE
            words = (
                f"{odd if certain else ''}waiting for {holder}, which is at work on the same; stop it, or be patient"
            )
            if waited > GRACE and words not in told:
                tell(words)
                told.add(words)
            time.sleep(0.1 if waited < 10 else 1)

    def give_up(self) -> None:
        """Remove the file, if it is this process's still."""
        self.ended.set()
        with contextlib.suppress(OSError):
            if self.path.read_text(encoding="utf-8") == self.text:
                self.path.unlink()

    def _link(self):
        try:
            os.link(self.aside, self.path)
        except FileExistsError:
            # A network disk may have done it, and then lost the answer.
            return os.stat(self.aside).st_nlink == 2
        except OSError:
            # This disk has no links.
            try:
                with open(self.path, "x", encoding="utf-8") as handle:
                    handle.write(self.text)
            except FileExistsError:
                return False
        return True

    def _remove(self, dead):
        """Remove a dead holder's lease. Should it be another's by now, as somebody was faster, it is put back."""
        lapsed = self.aside.with_suffix(".lapsed")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, lapsed)
            if lapsed.read_text(encoding="utf-8", errors="replace") != dead.text:
                with contextlib.suppress(FileExistsError):
                    os.link(lapsed, self.path)
            lapsed.unlink()

    def _renew(self):
        while not self.ended.wait(BEAT):
            # A disk that is away for a while is no reason to stop.
            with contextlib.suppress(OSError):
                if self.path.read_text(encoding="utf-8") == self.text:
                    os.utime(self.path)
                elif (holder := holder_of(self.path, time.time())) and not self.ended.is_set():
                    logger.critical(
                        "%s: %s took this process for dead, as it gave no sign of life for %.0f s, and does its work; "
                        "this process ends, so that one of them writes",
                        *(self.path, holder, LAPSE),
                    )
                    os._exit(1)


def holder_of(path: Path, now: float) -> Holder | None:
    """Return who holds the lease `path`, None where there is none; now: by the clock of its disk."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            text, renewed = handle.read(), os.fstat(handle.fileno()).st_mtime
    except FileNotFoundError:
        return None
    # An empty one is being written.
    process = _process_in(text)
    runs = process.runs() if process else None
    return Holder(text, runs, now - renewed < LAPSE if runs is None else runs)


def _process_in(text):
    return Process.parse(text.partition("\n")[0])


class Presence(Lease):
    """A lease of this process's own in a folder, by which others see that it is there, and it sees them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / uuid.uuid4().hex)
        self.take()

    def others(self) -> list[Holder]:
        """Return who else may be alive here. What dead ones left is removed."""
        os.utime(self.path)
        now, found = self.path.stat().st_mtime, []
        for path in set(self.path.parent.glob("[0-9a-f]*")) - {self.path}:
            if holder := holder_of(path, now):
                found += [holder] if holder.alive else []
                if not holder.alive:
                    path.unlink(missing_ok=True)
        return found
