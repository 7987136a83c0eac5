"""What a dataset format declares, and the base class of formats whose fields are texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from moult.base.errors import UserError, ended, nearest
from moult.base.files import digest
from moult.base.rows import Message, Recipe, Template
from moult.data.excerpts import printable
from moult.data.prompts import Example
from moult.data.readers import WITHOUT_HEADER, RawRow, read_raw
from moult.data.videos.attach import Attached

Shape = Literal["questions", "prompts", "labelled", "conversations", "pairs", "judge_items"]


class DatasetEntry(Protocol):
    """What a format asks of a dataset's entry in the config; videos: None where rows have none."""

    @property
    def columns(self) -> dict[str, str]: ...
    @property
    def tags(self) -> dict[str, str]: ...
    @property
    def videos(self) -> Any: ...


class Format:
    """A layout of raw rows. Code that works on datasets asks for what a format declares, never for its name.

    name: what the key `format` of a dataset says. shape: what one canonical row is.
    fields: what a raw row may have, by the names that `columns` maps; needed: those that it must have.
    ids: the fields that may name a row; the first one that holds something does.
    repeated: why a row is rejected whose content an earlier row of the split has; None: such a row is kept.
    answered_rows: whether all, some or none of the rows have an answer to train on.
    prompt, video_prompt: default templates for rows without and with videos; None where a row has its own prompt.
    tagged: whether the messages of its rows are spelt by `tags`, as in LLaMA-Factory.
    videos: whether rows may have videos. task, language: of the rows, where neither dataset nor labels say it.
    """

    name: str
    shape: Shape
    fields: tuple[str, ...]
    needed: tuple[str, ...] = ()
    ids: tuple[str, ...] = ("id",)
    repeated: str | None = None
    answered_rows: Literal["all", "some", "none"]
    prompt: str | None = None
    video_prompt: str | None = None
    videos: bool = False
    tagged: bool = False
    task: str
    language: str

    def check(self, entry: DatasetEntry) -> None:
        """Raise ValueError, with what to write instead, where the columns or tags of a config entry cannot be used."""
        if unknown := sorted(set(entry.columns) - set(self.fields)):
            raise ValueError(f"columns: {unknown[0]!r} is not a field of {self.name}{nearest(unknown[0], self.fields)}")

    def read(self, path: Path, recipe: Recipe) -> Iterator[tuple[int, RawRow, str | None]]:
        """Yield (number, row, reason) of one raw file, its columns under the names of the fields.

        UserError when a header lacks a needed column; where each row names its columns, that row alone is rejected.
        """
        columns = recipe["columns"]
        for number, row, reason in read_raw(path):
            if reason is None:
                absent = {field: column for field, column in columns.items() if column not in row}
                if absent and path.suffix.lower() not in WITHOUT_HEADER:
                    raise UserError(ended(f"{path.name}, row {number}: {no_column(absent, row)}"))
                row = row | {field: row[column] for field, column in columns.items() if column in row}
                if missing := next((field for field in self.needed if field not in row), None):
                    reason = f"no column {columns.get(missing, missing)!r}"
                    remedy = f"map it with `columns: {{{missing}: <your column>}}`"
                    if path.suffix.lower() not in WITHOUT_HEADER:
                        there = ", ".join(map(printable, row))
                        remedy = _other_separator(path, row) or remedy
                        raise UserError(f"{path.name}, row {number}: {reason} (there is {there}); {remedy}.")
                    reason = f"{reason}; {remedy}"
            yield number, row, reason

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return (prepared, None) or (None, why the row cannot be used).

        prepared: `text`, `meta` (plain JSON), and where the shape has them `title`, `label`, `media`. recipe: that of
        the job that prepares the dataset. category: that of the row's file.
        """
        raise NotImplementedError

    def content(self, prepared: Mapping[str, Any]) -> Any:
        """Return, as plain JSON, what makes a row the row it is: a hash of it names a row without an id."""
        return [prepared.get("title"), prepared["text"]]

    def id_of(self, row: RawRow) -> str | None:
        """Return the first id that a row has, None where it has none."""
        texts = (row.get(field) for field in self.ids)
        return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)

    def another_name(self, uid: str, prepared: Mapping[str, Any], seen: dict[str, int]) -> str | None:
        """Return another name for a row whose id an earlier row has; None where such a row is rejected.

        seen: all names so far, each with the last number that was put behind it; 1: none.
        """
        return None

    def named_by_content(self, uid: str, prepared: Mapping[str, Any], seen: dict[str, int]) -> str:
        """Return a name that no row has yet, with a hash of the content; seen: see `another_name`."""
        named = name = f"{uid}-{digest(self.content(prepared))[:12]}"
        while name in seen:
            seen[named] += 1
            name = f"{named}-{seen[named]}"
        return name

    def attach(
        self, rows: list[dict[str, Any]], folder: str | Path, recipe: Recipe, scratch: Path, wanted: int, workers: int
    ) -> Attached:
        """Return (at most `wanted` rows with `media`, [(row, facts)] of those without a usable video, facts per file,
        files of frames); see `attach_videos`. Only of formats with videos."""
        raise NotImplementedError

    def write_beside(self, folder: str | Path, recipe: Recipe, paths: Mapping[str, Sequence[Path]]) -> None:
        """Write what a dataset of this format needs beside its rows. paths: split → its raw files."""

    def examples(
        self, folder: str | Path, split: str, template: Template
    ) -> tuple[list[Example], list[tuple[str, str]]]:
        """Return (training examples, (uid, reason) of rows that are none) of a split of a prepared dataset."""
        raise UserError(f"{folder}: rows of format {self.name} have no answer to train on.")

    def pairs(
        self, folder: str | Path, split: str
    ) -> tuple[list[tuple[str, list[Message], str, str]], list[tuple[str, str]]]:
        """Return ((uid, prompt, chosen, rejected) of each pair, (uid, reason) of rows that are none) of a split."""
        raise UserError(f"{folder}: rows of format {self.name} are no preference pairs.")


def no_column(absent: Mapping[str, str], row: Iterable[str]) -> str:
    """Return that a file lacks a column that `columns` names. absent: field → column. row: the columns that it has."""
    field, column = next(iter(absent.items()))
    near = nearest(column, list(map(printable, row)))
    return f"no column {column!r}, which `columns` names as its {field}{near}"


def _other_separator(path, row):
    """Return the remedy for a table whose header is one cell, because its cells are told apart by something else."""
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    spelt = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
    found = next((mark for mark in spelt if mark != usual and len(row) == 1 and mark in next(iter(row))), None)
    if not found:
        return None
    return f"its cells are told apart by {spelt[found]}, and by {spelt[usual]} where a file is called so; export it so"


class TextFormat(Format):
    """A format whose fields are texts, without the blanks around them."""

    # Fields in which a list of texts is a text too.
    lists: tuple[str, ...] = ()

    def read(self, path: Path, recipe: Recipe) -> Iterator[tuple[int, RawRow, str | None]]:
        for number, row, reason in super().read(path, recipe):
            if reason is None:
                texts = {field: self._as_text(field, row[field]) for field in self.fields if field in row}
                nested = next((field for field, text in texts.items() if text is None), None)
                reason = f"{nested} is nested, not text" if nested else None
                row |= texts if nested is None else {}
            yield number, row, reason

    def _as_text(self, field, value):
        """Return a cell as text, or None where it is nested."""
        if field in self.lists and isinstance(value, list) and all(isinstance(one, str) for one in value):
            value = ";".join(value)
        return value.strip() if isinstance(value, str) else None
