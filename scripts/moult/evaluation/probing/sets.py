"""Probing sets as Holmes keeps them on disk: `<name>/samples.csv`, and `<name>/config-none.yaml` that says what it is.

Cells that hold Python literals are parsed, never run. Whatever is wrong with a set is one sentence that names file, row
and remedy.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from moult.base.errors import UserError
from moult.base.outside import one_line
from moult.base.section import NAME
from moult.base.yaml_files import read_yaml
from moult.data.readers import read_csv
from moult.evaluation.leaderboard import MEANS
from moult.evaluation.probing.published import place_of
from moult.evaluation.probing.units import Unit, slots_of

SAMPLES, SETTINGS = "samples.csv", "config-none.yaml"
SPLITS = ("train", "dev", "test")
# probe_task_type → whether whole sentences are read, not tokens of them.
TYPES = {
    "SENTENCE": True,
    "SENTENCE_TOKENS": False,
    "SENTENCE_SPANS": False,
    "SENTENCE_PAIR_BI": True,
    "SENTENCE_PAIR_CROSS": True,
    "SENTENCE_PAIR_TOKENS_BI": False,
    "SENTENCE_PAIR_TOKENS_CROSS": False,
}
# Characters of a cell that holds a literal: a thousand sentences have a fifth of it.
MOST_LITERAL = 500_000


@dataclass(frozen=True)
class Row:
    """A row of a probing set: what is encoded, a unit per part of the representation, and what is to be read off it.

    label: a class, 0 to labels − 1, or a number in a regression. words: the texts of its inputs, without their places,
    by which rows are seen in train or not.
    """

    id: str
    split: str
    slots: tuple[Unit, ...]
    label: float
    words: tuple[str, ...]


@dataclass(frozen=True)
class ProbeSet:
    """A probing set: name, probe type (see TYPES), number of labels (1: a regression), rows by id, and its place.

    subfield, phenomenon: linguistic ones, as the set says or the published leaderboard does; empty where neither does.
    """

    name: str
    type: str
    labels: int
    rows: tuple[Row, ...]
    subfield: str
    phenomenon: str

    @property
    def regression(self) -> bool:
        return self.labels == 1

    def of(self, split: str) -> list[Row]:
        """Return the rows of a split."""
        return [row for row in self.rows if row.split == split]

    def cut(self, limit: int) -> "ProbeSet":
        """Return the set with at most so many rows per split, the first ones."""
        return replace(self, rows=tuple(row for split in SPLITS for row in self.of(split)[:limit]))

    @property
    def probe_type(self) -> str:
        """The leaderboard's word for it."""
        inputs = "pair " * (len(self.rows[0].slots) > 1 or "PAIR" in self.type)
        return f"{'sentence' if TYPES[self.type] else 'token(s)'} {inputs}classification"


def sets_below(folder: str | Path) -> list[Path]:
    """Return the folders of probing sets at and below a folder, by name."""
    return sorted(path.parent for path in Path(folder).rglob(SAMPLES))


def names_below(folders: Iterable[str | Path]) -> dict[str, Path]:
    """Return name → folder of all probing sets of these folders; UserError where there is none, or a name twice."""
    found: dict[str, Path] = {}
    for folder in folders:
        below = sets_below(folder)
        if not below:
            raise UserError(
                f"{folder}: no folder in it has a {SAMPLES}; name the folder of a probing set, or of several."
            )
        for path in below:
            if not re.match(NAME, path.name) or path.name.lower() in MEANS:
                told = "letters, digits, `_`, `.` and `-`, and not as tables call their means"
                raise UserError(f"{path}: a folder of a probing set is named in {told}; rename it.")
            if path.name in found:
                raise UserError(f"{path} and {found[path.name]} have the same name; rename one of the folders.")
            found[path.name] = path
    return found


def files_below(folder: str | Path) -> list[str]:
    """Return the files of a folder that its probing sets are read from, relative to it."""
    used = [path / name for path in sets_below(folder) for name in (SAMPLES, SETTINGS)]
    return [path.relative_to(folder).as_posix() for path in used]


def read_set(folder: str | Path) -> ProbeSet:
    """Return the probing set of a folder.

    Raises:
        UserError: a file is missing or damaged, a cell holds no literal, a span is outside its sentence, a split has no
            row, a label of dev or test was never seen in train, or a regression has two classes.
    """
    folder = Path(folder)
    table = folder / SAMPLES
    kind, labels, settings = _settings(folder / SETTINGS)
    rows = [_row(f"{table}, line {line}", row, kind, labels) for line, row in _table(table)]
    rows = [row for _, row in sorted(enumerate(rows), key=lambda pair: (_as_number(pair[1].id), pair[0]))]
    _check(table, rows, labels)
    subfield, phenomenon = place_of(folder.name)
    subfield, phenomenon = (
        one_line(settings.get(key) or known).strip()
        for key, known in (("linguistic_subfield", subfield), ("linguistic_phenomena", phenomenon))
    )
    return ProbeSet(folder.name, kind, labels, tuple(rows), subfield, phenomenon)


def _settings(path):
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: holds no keys; write `probe_task_type` and `num_labels`.")
    kind, labels = settings.get("probe_task_type"), settings.get("num_labels")
    if kind not in TYPES:
        raise UserError(f"{path}, probe_task_type: {one_line(kind)} is no type of probe; there is {', '.join(TYPES)}.")
    if not isinstance(labels, int) or isinstance(labels, bool) or labels < 1:
        raise UserError(f"{path}, num_labels: write the number of classes, or 1 for a regression.")
    return kind, labels, settings


def _table(path):
    if not path.exists():
        raise UserError(f"{path}: does not exist; correct the path.")
    rows = []
    for line, row, reason in read_csv(path):
        if reason:
            raise UserError(f"{path}, line {line}: {reason}; mend the row.")
        if not rows:
            _check_columns(path, row)
        rows.append((line, row))
    if not rows:
        raise UserError(f"{path}: has no rows; a probing set needs some of train, dev and test.")
    return rows


def _check_columns(path, row):
    missing = [name for name in ("inputs", "label") if name not in row]
    missing += [] if "set-0" in row or "set" in row else ["set-0"]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]!r}; the columns are {one_line(', '.join(row))}.")


def _row(place, row, kind, labels):
    split = row["set-0"] if "set-0" in row else row["set"]
    if split not in SPLITS:
        raise UserError(f"{place}: the split {one_line(split)!r} is none of train, dev, test; correct it.")
    inputs = _literal(place, "inputs", row["inputs"])
    context = _literal(place, "context", row["context"]) if row.get("context", "").strip() not in ("", "nan") else []
    if not isinstance(inputs, tuple | list) or not inputs:
        raise UserError(f"{place}: inputs are no tuple of texts; write e.g. ('A sentence.',).")
    if not isinstance(context, tuple | list) or not all(isinstance(one, str) for one in context):
        raise UserError(f"{place}: context is no list of sentences; write e.g. ['A sentence.'].")
    slots, words = slots_of(place, kind, inputs, context)
    return Row(row.get("id") or "", split, slots, _label(place, row["label"], labels), words)


def _literal(place, column, cell):
    """Return the value of a Python literal. It is parsed into constants, tuples and lists; code is refused."""
    if len(cell) > MOST_LITERAL:
        raise UserError(f"{place}: {column} has {len(cell):,} characters; no sentence is so long, correct the row.")
    try:
        return ast.literal_eval(cell.strip())
    # A few thousand brackets in a row are a RecursionError or a MemoryError.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        told = f"{column} holds no literal of Python, but {one_line(cell, 80)!r}"
        raise UserError(f"{place}: {told}; code is never run, so write the tuple itself.") from None


def _label(place, cell, labels):
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UserError(f"{place}: the label {one_line(cell)!r} is no number; correct it.")
    if labels > 1 and not (value.is_integer() and 0 <= value < labels):
        raise UserError(
            f"{place}: the label {one_line(cell)} is no class from 0 to {labels - 1} (num_labels: {labels})."
        )
    return value


def _as_number(text):
    """Return what rows are sorted by: the number that an id is, or else its text."""
    return (0, float(text), "") if text.replace(".", "", 1).isdigit() else (1, 0.0, text)


def _check(path, rows, labels):
    seen = {split: [row.label for row in rows if row.split == split] for split in SPLITS}
    for split in SPLITS:
        if not seen[split]:
            raise UserError(
                f"{path}: has no row of {split}; a probe is trained on train, stopped by dev, measured on test."
            )
    widths = {len(row.slots) for row in rows}
    if len(widths) > 1:
        least, most = min(widths), max(widths)
        raise UserError(f"{path}: some rows have {least} inputs, others {most}; a probe reads equally many of each.")
    if labels == 1:
        if len(set(seen["train"])) == 2 and len({row.label for row in rows}) == 2:
            raise UserError(f"{path}: is a regression (num_labels: 1) with two classes; write `num_labels: 2`.")
        return
    for split in ("dev", "test"):
        for label in sorted(set(seen[split]) - set(seen["train"])):
            told = f"the label {label:g} of {split} never stands in train"
            raise UserError(f"{path}: {told}, so no probe can learn it; add rows of it, or leave those out.")
