"""The journal: every answer of every model, kept for ever."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from moult.base.errors import UserError
from moult.base.failures import is_disk_full
from moult.base.files import digest
from moult.base.outside import Unreadable, parse_json
from moult.inference.usage import mended
from moult.jobs.leases import Lease, holder_of

if TYPE_CHECKING:
    import sqlite3


# Seconds after which what was kept is brought to the disk itself.
SYNC_EVERY = 1.0
# Seconds to wait for another process that has the journal open.
PATIENCE = 600
# What SQLite locks of a file while it writes to it (its file format: PENDING_BYTE + 2).
LOCKED_BYTE = 0x40000002
# The folder of all journals, in the working directory.
JOURNALS = Path("journal")
logger = logging.getLogger(__name__)
TABLES = (
    # digest: of the other three. Rows of before have none, and are taken as they are.
    "answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT, digest TEXT)",
    # What the Batch API was sent, and which batch each unanswered request is in: in one at most (see remote/batch.py).
    "batches (tag TEXT PRIMARY KEY, experiment TEXT, file TEXT, batch TEXT, dollars REAL)",
    "in_batch (key TEXT PRIMARY KEY, tag TEXT)",
    # What each answer cost when it came, those of batches 0 (see batches); without a key: what came and was lost.
    "payments (experiment TEXT, model TEXT, key TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, dollars REAL)",
    # Answers that were paid for under another key, here or in another journal: key → that key.
    "copies (key TEXT PRIMARY KEY, origin TEXT)",
    # Replies that have come and are not interpreted yet, and how often that was begun.
    "arrived (key TEXT PRIMARY KEY, reply BLOB, tries INTEGER)",
)


class Journal:
    """Every answer for ever, one SQLite file per job: key → request and answer. One writer.

    With a write-ahead log, keeping an answer costs a write and no wait for the disk. An answer survives a kill of the
    process once `keep` has returned, and a power failure a second later. With the exclusive lock the log needs no
    shared memory, so that shared disks serve; when the journal is closed, it is one plain file again.
    """

    def __init__(self, path: str | Path, only_reads: bool = False) -> None:
        """only_reads: look into a journal that nobody writes to, and lock out no writer but while a query runs.

        Raises:
            UserError: somebody else writes to it, or it is no journal.
            BlockingIOError: in place of that, where it is only read.
        """
        import sqlite3

        self.path, self.only_reads = Path(path), only_reads
        # Keys of answers that this job has taken, under whatever key they were paid for.
        self.taken: set[str] = set()
        if only_reads:
            self._look()
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lease = Lease(f"{path}.lease")
        self.lease.wait(logger.warning, PATIENCE)
        self.connection = sqlite3.connect(path, timeout=5)
        self.connection.text_factory = _text
        try:
            self.connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")
            for table in TABLES:
                self.connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            if "digest" not in [row[1] for row in self.connection.execute("PRAGMA table_info(answers)")]:
                self.connection.execute("ALTER TABLE answers ADD COLUMN digest TEXT")
            self.connection.commit()
        except sqlite3.OperationalError as error:
            self._give_up()
            raise UserError(
                f"{path}: cannot be written ({error}); is another run writing to it? Wait, then run again."
            ) from error
        except sqlite3.DatabaseError as error:
            self._give_up()
            raise self._damaged(error) from error
        self.synced = time.monotonic()

    def _look(self):
        import sqlite3

        try:
            self.connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
            self.connection.text_factory = _text
            self.connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            raise BlockingIOError(f"{self.path}: {error}") from None

    def is_of_today(self) -> bool:
        """Whether all tables have the columns that this code knows; opening a journal to write brings that about."""
        for table in TABLES:
            name, _, columns = table.partition(" ")
            there = [column for _, column, *_ in self.connection.execute(f"PRAGMA table_info({name})")]
            if there != [column.split()[0] for column in columns.strip("()").split(", ")]:
                return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave one plain file, without a log beside it."""
        import sqlite3

        if self.only_reads:
            self.connection.close()
            return
        try:
            self.connection.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        finally:
            self._give_up()

    def _give_up(self):
        self.connection.close()
        self.lease.give_up()

    def known(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the answers that are there, as key → stored value: cleaned of what older code kept as it came.

        A row that disagrees with its digest is as good as none: it is told, and asked for again.
        """
        found, unreadable = {}, 0
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            for row in self._select(f"WHERE key IN ({','.join('?' * len(part))})", part):
                try:
                    key, request, answer = _whole(*row)
                    found[key] = mended(parse_json(answer), functools.partial(json.loads, request))
                except (Unreadable, TypeError, ValueError, AttributeError):
                    unreadable += 1
        if unreadable:
            logger.warning("%s: %d stored answers are damaged; they are asked for again", self.path, unreadable)
        return found

    def rows(self) -> Iterator[tuple[str, bool]]:
        """Yield for each row its key, and whether it agrees with its digest."""
        for row in self._select():
            try:
                yield _whole(*row)[0], True
            except (ValueError, AttributeError):
                yield str(row[0], errors="replace") if row[0] else "", False

    def _select(self, condition="", values=()):
        """Yield key, request, answer, digest of rows as bytes, which a damaged text is too."""
        import sqlite3

        columns = ", ".join(f"CAST({name} AS BLOB)" for name in ("key", "request", "answer", "digest"))
        try:
            yield from self.connection.execute(f"SELECT {columns} FROM answers {condition}", values)
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error):
        return UserError(f"{self.path}: is not a journal, or is damaged ({error}); restore a copy or move it away.")

    def keep(
        self,
        entries: Iterable[tuple[str, Any, Any]],
        payments: Iterable[tuple] = (),
        copies: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Store (key, request, answer) triples of plain JSON; a kill after this returns cannot lose them.

        payments, copies: rows of these tables that belong to them.
        """
        rows = [(key, json.dumps(request, ensure_ascii=False), json.dumps(answer)) for key, request, answer in entries]
        columns = "(key, request, answer, digest)"
        with self.writing() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO answers {columns} VALUES (?, ?, ?, ?)", [(*row, digest(row)) for row in rows]
            )
            connection.executemany("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?)", payments)
            connection.executemany("INSERT OR REPLACE INTO copies VALUES (?, ?)", copies)
            connection.executemany("DELETE FROM arrived WHERE key = ?", [(key,) for key, *_ in rows])

    def arrive(self, key: str, reply: bytes) -> None:
        """Store a reply as it came, before anybody looks into it: whatever that leads to, it is not paid again."""
        with self.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO arrived VALUES (?, ?, 0)", (key, reply))

    def forget(self, key: str) -> None:
        """Forget a reply that was for nothing."""
        with self.writing() as connection:
            connection.execute("DELETE FROM arrived WHERE key = ?", (key,))

    def left_over(self) -> dict[str, tuple[bytes, int]]:
        """Return key → (reply, tries) of what a run that was ended has not interpreted; the next try is counted."""
        with self.writing() as connection:
            found = {key: (bytes(reply), tries) for key, reply, tries in connection.execute("SELECT * FROM arrived")}
            connection.execute("UPDATE arrived SET tries = tries + 1")
        return found

    def origin(self, key: str) -> str:
        """Return the key under which the answer to a key was paid for."""
        found = self.connection.execute("SELECT origin FROM copies WHERE key = ?", (key,)).fetchone()
        return found[0] if found else key

    def spent(self, experiment: str | None) -> tuple[float, float]:
        """Return the dollars that an experiment has paid for chat requests, and paid or promised for batches."""
        total = "SELECT TOTAL(dollars) FROM {} WHERE experiment IS ?"
        return tuple(
            self.connection.execute(total.format(table), (experiment,)).fetchone()[0]
            for table in ("payments", "batches")
        )

    @contextlib.contextmanager
    def writing(self, sync: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield the connection for one transaction; with `sync` it is on the disk itself when the block ends."""
        import sqlite3

        try:
            with self.connection:
                yield self.connection
            if sync or time.monotonic() - self.synced > SYNC_EVERY:
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self.synced = time.monotonic()
        except sqlite3.OperationalError as error:
            if is_disk_full(error):
                raise
            raise UserError(
                f"{self.path}: cannot be written ({error}); what was kept before is safe: mend that and run again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error


def _text(content):
    """Read a text that may be damaged; what counts is compared with its digest, as bytes."""
    return content.decode("utf-8", "replace")


def _whole(key, request, answer, sealed):
    """Return the columns of a row, given as bytes, as text; ValueError where they disagree with their digest."""
    row = tuple(column.decode() for column in (key, request, answer))
    if sealed is not None and sealed.decode() != digest(row):
        raise ValueError("another digest")
    return row


def root_of(path: Path) -> Path:
    """Return the folder of all journals that a journal is one of."""
    return path.parent if path.is_absolute() else Path(path.parts[0])


def journals(root: str | Path, but: Path | None = None) -> Iterator[Path]:
    """Yield the paths of all journals below a folder, in order, but for one."""
    yield from (path for path in sorted(Path(root).rglob("*.sqlite")) if path != but)


def passing() -> contextlib.AbstractContextManager:
    """Go past a journal that somebody writes to, or that is none."""
    import sqlite3

    return contextlib.suppress(BlockingIOError, FileNotFoundError, sqlite3.DatabaseError, UserError)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Journal]:
    """Yield a Journal to be read; nothing is changed, neither in it nor beside it.

    BlockingIOError while its writer holds it, or where it cannot be read.
    """
    if (holder := holder_of(Path(f"{path}.lease"), time.time())) and holder.alive:
        raise BlockingIOError(f"{path}: {holder} has it")
    with contextlib.ExitStack() as stack:
        # What a killed build left in the log, and what older code wrote, can be read in a copy only.
        journal = None if Path(f"{path}-wal").exists() else stack.enter_context(Journal(path, only_reads=True))
        yield journal if journal and journal.is_of_today() else stack.enter_context(copy_of(path))


@contextlib.contextmanager
def copy_of(path: str | Path) -> Iterator[Journal]:
    """Yield a Journal on a copy of the file, so that looking changes nothing, not even beside it.

    BlockingIOError while a build holds the journal, FileNotFoundError where there is none.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        with open(path, "rb") as held:
            fcntl.lockf(held, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, LOCKED_BYTE)
            shutil.copy(path, folder)
            with contextlib.suppress(FileNotFoundError):
                # What a killed build left in the log counts too.
                shutil.copy(f"{path}-wal", folder)
        with Journal(Path(folder, path.name)) as journal:
            yield journal
