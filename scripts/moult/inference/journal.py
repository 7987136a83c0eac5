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

if TYPE_CHECKING:
    import sqlite3


# Seconds after which what was kept is brought to the disk itself.
SYNC_EVERY = 1.0
# What SQLite locks of a file while it writes to it (its file format: PENDING_BYTE + 2).
LOCKED_BYTE = 0x40000002
logger = logging.getLogger(__name__)
TABLES = (
    # digest: of the other three. Rows of before have none, and are taken as they are.
    "answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT, digest TEXT)",
    # What the Batch API was sent, and which batch each unanswered request is in: in one at most (see remote/batch.py).
    "batches (tag TEXT PRIMARY KEY, experiment TEXT, file TEXT, batch TEXT, dollars REAL)",
    "in_batch (key TEXT PRIMARY KEY, tag TEXT)",
)


class Journal:
    """Every answer for ever, one SQLite file per job: key → request and answer. One writer.

    With a write-ahead log, keeping an answer costs a write and no wait for the disk. An answer survives a kill of the
    process once `keep` has returned, and a power failure a second later. With the exclusive lock the log needs no
    shared memory, so that shared disks serve; when the journal is closed, it is one plain file again.
    """

    def __init__(self, path: str | Path) -> None:
        import sqlite3

        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, timeout=5)
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
            raise UserError(
                f"{path}: cannot be written ({error}); is another run writing to it? Wait, then run again."
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        self.synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave one plain file, without a log beside it."""
        import sqlite3

        try:
            self.connection.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        finally:
            self.connection.close()

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

    def keep(self, entries: Iterable[tuple[str, Any, Any]]) -> None:
        """Store (key, request, answer) triples of plain JSON; a kill after this returns cannot lose them."""
        rows = [(key, json.dumps(request, ensure_ascii=False), json.dumps(answer)) for key, request, answer in entries]
        columns = "(key, request, answer, digest)"
        with self.writing() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO answers {columns} VALUES (?, ?, ?, ?)", [(*row, digest(row)) for row in rows]
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


def _whole(key, request, answer, sealed):
    """Return the columns of a row, given as bytes, as text; ValueError where they disagree with their digest."""
    row = tuple(column.decode() for column in (key, request, answer))
    if sealed is not None and sealed.decode() != digest(row):
        raise ValueError("another digest")
    return row


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
