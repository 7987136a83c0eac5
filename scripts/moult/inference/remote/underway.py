"""What the journal knows of batches that are under way."""

import secrets
from collections.abc import Iterable, Sequence


class Underway:
    """What the journal knows of batches: one row a batch, and for each unanswered request the batch that it is in."""

    def __init__(self, journal, experiment):
        self.journal, self.experiment = journal, experiment

    def intend(self, keys: Sequence[str], dollars: float) -> str:
        """Note that a batch of these requests is about to be submitted, for at most so many dollars; return its tag."""
        tag = secrets.token_hex(16)
        with self.journal.writing(sync=True) as connection:
            row = (tag, self.experiment, None, None, dollars)
            connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", row)
            connection.executemany("INSERT INTO in_batch VALUES (?, ?)", [(key, tag) for key in keys])
        return tag

    def note(self, tag: str, **columns: str | float | None) -> None:
        """Note a fact about a batch: its `file` or `batch` id, or the `dollars` that it has cost."""
        with self.journal.writing(sync=True) as connection:
            for column, value in columns.items():
                connection.execute(f"UPDATE batches SET {column} = ? WHERE tag = ?", (value, tag))

    def drop(self, tag: str) -> None:
        """Forget a batch that never was, or that did nothing: its requests are free again."""
        with self.journal.writing() as connection:
            connection.execute("DELETE FROM in_batch WHERE tag = ?", (tag,))
            connection.execute("DELETE FROM batches WHERE tag = ?", (tag,))

    def release(self, keys: Iterable[str]) -> None:
        """Note that these requests are answered, or may be asked again."""
        with self.journal.writing() as connection:
            connection.executemany("DELETE FROM in_batch WHERE key = ?", [(key,) for key in keys])

    def of(self, keys: Iterable[str]) -> dict[str, str]:
        """Return key → tag for those of the requests that are in a batch."""
        found = dict(self.journal.connection.execute("SELECT key, tag FROM in_batch"))
        return {key: found[key] for key in keys if key in found}

    def keys(self, tag: str) -> set[str]:
        """Return the requests of a batch that are not answered yet."""
        return {key for (key,) in self.journal.connection.execute("SELECT key FROM in_batch WHERE tag = ?", (tag,))}

    def batch_id(self, tag: str) -> str | None:
        """Return the API's id of a batch, None where it was killed before it could be noted."""
        return self.journal.connection.execute("SELECT batch FROM batches WHERE tag = ?", (tag,)).fetchone()[0]

    def promised(self, tag: str) -> float:
        """Return the dollars that a batch has cost, or may cost at most."""
        return self.journal.connection.execute("SELECT dollars FROM batches WHERE tag = ?", (tag,)).fetchone()[0] or 0.0

    def dollars(self) -> float:
        """Return what the experiment's batches of this job have cost, or may cost at most."""
        query = "SELECT TOTAL(dollars) FROM batches WHERE experiment IS ?"
        return self.journal.connection.execute(query, (self.experiment,)).fetchone()[0]
