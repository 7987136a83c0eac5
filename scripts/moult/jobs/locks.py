"""One writer per artefact: jobs end with their scheduler and wait for each other; stale locks are cleared."""

import base64
import contextlib
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from moult.base.errors import UserError
from moult.jobs.leases import BEAT, LAPSE, Lease, Presence
from moult.jobs.manifest import check_manifest

logger = logging.getLogger(__name__)


# What it means that somebody else is at work where the lock was granted.
ODD = "the disk grants every lock to whoever asks, so that its leases alone keep two processes apart: "


@contextlib.contextmanager
def only_writer(path: str | Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; first wait for a process that holds it, and `tell` of it.

    The lock ends with the process, however the process ends. Two machines see each other's locks where the shared disk
    passes flock on (NFS 4, Lustre with `-o flock`). The lease beside it (`Lease`) stands in where a disk knows no
    locks, and finds out one that grants them all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as handle:
        odd = ODD
        try:
            _lock(handle, tell)
        except OSError:
            odd = ""
        lease = Lease(f"{path}.lease")
        lease.wait(tell, odd=odd)
        try:
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            yield
        finally:
            lease.give_up()


def _opened(path):
    try:
        return open(path, "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: is no file to lock ({error.strerror}); remove it, then run again.") from None


def _lock(handle, tell):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        tell(f"waiting for {handle.read() or 'another process'}, which is at work on the same; stop it, or be patient")
        fcntl.flock(handle, fcntl.LOCK_EX)


def die_with_scheduler() -> None:
    """Let this process be killed as soon as the Snakemake process that started it is gone.

    A scheduler that is killed outright cannot stop its jobs: they would write on, into a build that the next one
    has begun again. Needs Linux; elsewhere `only_writer` makes the next job wait for the orphan.
    """
    scheduler = _scheduler()
    if scheduler is None:
        return
    try:
        watched = os.pidfd_open(scheduler)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch():
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _scheduler():
    """Return the process id of the nearest ancestor that is Snakemake, None if there is none to be seen."""
    process = os.getppid()
    while process > 1 and hasattr(os, "pidfd_open"):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            # After the name, which stands in brackets and may hold anything: state, then the parent.
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return None
        if any(word == b"snakemake" or word.endswith(b"/snakemake") for word in words):
            return process
        process = parent
    return None


class Alive:
    """The mark of a scheduler that is alive in a folder, until it is closed; `alone`: no other one was there first."""

    def __init__(self, home: Path, tell: Callable[[str], None]) -> None:
        self.presence = Presence(home / "alive")
        self.file = open(home / "alive.lock", "a")  # noqa: SIM115 - it is held until this process ends
        granted = True
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            granted = False
        except OSError:
            # This disk knows no locks.
            pass
        self.alone = granted and self._is_first(tell)
        with contextlib.suppress(OSError):
            fcntl.flock(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _is_first(self, tell):
        end, told = time.monotonic() + LAPSE + BEAT, False
        while others := self.presence.others():
            if any(other.runs for other in others) or time.monotonic() > end:
                return False
            if not told:
                told = True
                tell(
                    f"waiting for {LAPSE:.0f} s to see whether {', '.join(map(str, others))} is at work in this folder"
                )
            time.sleep(1)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Be no longer there."""
        self.presence.give_up()
        self.file.close()


def clear_stale_locks(home: str | Path, tell: Callable[[str], None] = logger.warning) -> Alive:
    """Remove Snakemake's locks from `home` (`.snakemake`) if no scheduler is alive there, and return the mark of this
    one.

    Snakemake's own locks outlive a scheduler that was killed, and would keep its successor from going on. A scheduler
    is seen by its lock, and by its lease where the disk grants every lock. One that another machine saw less than LAPSE
    seconds ago is waited for.
    """
    home = Path(home)
    home.mkdir(exist_ok=True)
    alive = Alive(home, tell)
    if alive.alone:
        shutil.rmtree(home / "locks", ignore_errors=True)
        forget_finished(home / "incomplete")
    return alive


def forget_finished(markers: Path) -> None:
    """Remove Snakemake's marks of incomplete files from artefacts that have a whole manifest.

    On a cluster a job outlives its scheduler, and nobody is there to say that it finished: the next one would make
    again what is made. A manifest is written last, and Snakemake removes the old one before a job begins.
    """
    marked = {}
    for marker in markers.rglob("*"):
        if marker.is_file():
            # Long names are cut into folders, whose names begin with @.
            code = "".join(part.removeprefix("@") for part in marker.relative_to(markers).parts)
            with contextlib.suppress(ValueError):
                marked[base64.urlsafe_b64decode(code).decode()] = marker
    for path in marked:
        if path.endswith(".manifest.json") and Path(path).exists():
            try:
                files = check_manifest(path)["files"]
            except UserError:
                continue
            home = Path(path).parent
            made = {(home / name).as_posix() for name in files}
            for other, marker in marked.items():
                if other == path or other in made or any(name.startswith(other + "/") for name in made):
                    marker.unlink(missing_ok=True)
