"""Readers of raw tables: TSV, CSV, JSON and parquet, row by row, whatever stands in them (docs/hostile-data.md).

Each yields (number, row, reason) for every row of a file: `number` is the line where the row begins (in a JSON list and
in parquet the entry), `row` a dict of column → cell, `reason` None or why the row cannot be used. Nothing but UserError
is raised.

The csv module, pandas and pyarrow read what spreadsheets write, but let an opening quote that never closes swallow the
rows behind it, and drop quotes that belong to the text; strict, they stop at either. None of them says on which line a
row began. Utterances begin with quotes, so the cells are told apart here.
"""

import contextlib
import itertools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from moult.base.errors import UserError
from moult.base.signatures import PARQUET, signature_of
from moult.data.excerpts import as_json, printable

LINE_END = re.compile(r"\r\n|\n|\r")
JSON_BLANKS = " \t\n\r"
BLANKS = re.compile(f"[{JSON_BLANKS}]*")
# Each row of these names its columns.
STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
TOO_DEEP = "nested too deeply"
WITHOUT_HEADER = (".json", ".jsonl", ".ndjson")
SPELT = {None: "", True: "true", False: "false"}
logger = logging.getLogger(__name__)
RawRow = dict[str, Any]
# Number, row and reason of each row.
Rows = Iterator[tuple[int, RawRow, str | None]]


def read_raw(path: str | Path) -> Rows:
    """Yield (number, row, reason) for every row of a raw file, read as its ending says: TSV, if it says nothing."""
    readers = {".csv": read_csv, ".json": read_json_list, ".jsonl": read_json_lines, ".ndjson": read_json_lines}
    readers[".parquet"] = read_parquet
    return readers.get(Path(path).suffix.lower(), read_tsv)(path)


def _text_of(path):
    """Return a file as text, each byte that is not UTF-8 as a lone surrogate; UserError when it is no text at all."""
    raw = Path(path).read_bytes()
    start = raw[:64]
    found = signature_of(start)
    if found is None and {0} in (set(start[::2]), set(start[1::2])):
        found = "", "UTF-16 without its mark, or no text", "save it as UTF-8"
    if found:
        raise UserError(f"{path}: is {found[1]}, not a table in UTF-8; {found[2]} and run again.")
    return raw.decode("utf-8-sig", "surrogateescape")


def _not_text(cells):
    """Return why cells are no text, or None: a byte that was not UTF-8, or half a character out of JSON's `\\ud83d`."""
    try:
        "\t".join(cells).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"is not UTF-8 (byte 0x{code - 0xDC00:02x})"
        return f"holds half a character (U+{code:04X})"
    return None


# ---------------------------------------------------------------- TSV and CSV


class Record(NamedTuple):
    """One row as its quotes say: line where it begins, cells, its lines, and whether a quote in it quotes nothing."""

    line: int
    cells: list
    lines: list
    stray: bool


def read_tsv(path: str | Path) -> Rows:
    """Yield (line, row, reason) of a tab-separated file with a header."""
    return _read_table(path, "\t")


def read_csv(path: str | Path) -> Rows:
    """Yield (line, row, reason) of a comma-separated file with a header."""
    return _read_table(path, ",")


def _read_table(path, delimiter):
    records = list(_records(_text_of(path), delimiter))
    if not records:
        return
    header = [name.strip() for name in records[0].cells]
    if reason := _not_text(header):
        raise UserError(f"{path}, line {records[0].line}: the header {reason}; save the file as UTF-8 and run again.")
    if twice := _repeated(header):
        raise UserError(
            f"{path}, line {records[0].line}: the header names {printable(twice)!r} twice; "
            "rename one of the columns and run again."
        )
    for line, cells in _told_apart(records, len(header), delimiter, path):
        if len(cells) != len(header):
            named = header[: len(cells)] + [""] * (len(cells) - len(header))
            row = {
                name or f"field {index}": cell
                for index, (name, cell) in enumerate(zip(named, cells, strict=True), start=1)
            }
            yield line, row, f"has {len(cells)} fields, the header has {len(header)}"
        else:
            # A column without a name cannot be asked for; pandas writes its index so.
            row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
            yield line, row, _not_text(cells)


def _repeated(names):
    """Return the first name of columns that stands twice, None where there is none."""
    return next((name for name, count in Counter(names).items() if name and count > 1), None)


def _records(text, delimiter):
    """Yield the rows of a table as its quotes say, blank lines left out.

    A cell is quoted when a quote opens right at its start, and the next quote that is not doubled stands right before a
    delimiter or a line end. Every other quote is text. One look at each character: a search that fails ends at the
    first undoubled quote, and no later one gets past that.
    """
    cell = re.compile(rf'"((?:[^"]++|"")*+)"(?=[{delimiter}\r\n]|\Z)|([^{delimiter}\r\n]*)')
    at, line = 0, 1
    while at < len(text):
        cells, end, stray = _cells_at(text, at, cell, delimiter)
        lines = LINE_END.split(text[at:end])
        if len(cells) > 1 or lines[0].strip():
            yield Record(line, cells, lines if len(lines) > 1 else (), stray)
        line += len(lines)
        at = end + 2 if text.startswith("\r\n", end) else end + 1


def _cells_at(text, at, cell, delimiter):
    """Return (cells, where they end, whether a quote in them quotes nothing) of the row that begins at `at`."""
    cells, stray = [], False
    while True:
        found = cell.match(text, at)
        quoted, plain = found.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        stray |= quoted is None and '"' in plain
        at = found.end()
        if not text.startswith(delimiter, at):
            return cells, at, stray
        at += 1


def _told_apart(records, width, delimiter, path):
    """Yield (line, cells) of the rows behind the header; take lines apart that a pair of stray quotes put together.

    `"I never said` in one row and `I would go"` in a later one look like one quoted cell with line ends in it. What
    writes such cells puts all quotes in quotes: where the file elsewhere has quotes that quote nothing, and most of the
    lines are rows by themselves, rows they are. And where the whole has other than `width` fields, it is no row anyway:
    its lines are tried one by one as soon as one of them is a row.
    """
    mixed, doubtful = any(record.stray for record in records), []
    for line, cells, lines, _ in records[1:]:
        numbered = enumerate(lines, start=line)
        apart = [(number, alone.cells) for number, text in numbered for alone in _records(text, delimiter)]
        rows = sum(len(alone) == width for _, alone in apart)
        most = 2 * rows > len(apart)
        if (mixed and most) or (rows and len(cells) != width):
            yield from apart
        else:
            if most:
                doubtful.append(line)
            yield line, cells
    if doubtful:
        more = f" (and {len(doubtful) - 1} rows more)" if len(doubtful) > 1 else ""
        told = "%s, line %d: read as one row for its quotes, its lines look like rows%s"
        logger.warning(told, path, doubtful[0], more)


# ---------------------------------------------------------------- JSON


class Number(str):
    """A JSON number as it is spelt: text where text is wanted, and yet no string of the file."""


class _Repeating(dict):
    """A JSON object in which a key stands twice."""


def _object(pairs):
    row = dict(pairs)
    return row if len(row) == len(pairs) else _Repeating(row)


_DECODER = json.JSONDecoder(
    strict=False,
    object_pairs_hook=_object,
    parse_int=Number,
    parse_float=Number,
    parse_constant=lambda _: None,
)


def _parse(text):
    """Return a JSON value: numbers as they are spelt, NaN and infinities as null; ValueError, also when too deep."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _row_of(value):
    """Return (row, reason) of one JSON value."""
    if not isinstance(value, dict):
        return {"entry": value}, f"is {TOO_DEEP}" if value is TOO_DEEP else "is not an object"
    row = {key: cell if isinstance(cell, str | list | dict) else SPELT[cell] for key, cell in value.items()}
    if isinstance(value, _Repeating):
        return row, "names a key twice"
    return row, _not_text([as_json(row)])


def read_json_list(path: str | Path) -> Rows:
    """Yield (entry, row, reason) of a JSON list of objects; UserError when the file as a whole is not one."""
    for number, value in enumerate(_list_of(path, _text_of(path)), start=1):
        yield number, *_row_of(value)


def _list_of(path, text):
    try:
        values = _parse(text)
    except ValueError as error:
        if str(error) == TOO_DEEP:
            with contextlib.suppress(ValueError, IndexError):
                return [value for value, *_ in _entries(text)]
        remedy = "give a list of objects"
        if "Extra data" in str(error):
            remedy += ", or name the file .jsonl if each line is an object"
        elif "Unterminated" in str(error) or getattr(error, "pos", 0) >= len(text.rstrip()):
            remedy = "it ends too early, as if cut: fetch or export it again"
        raise UserError(f"{path}: not JSON ({error}); {remedy}.") from error
    if not isinstance(values, list):
        kind = "an object" if isinstance(values, dict) else "one value"
        raise UserError(f"{path}: holds {kind}, not a list of objects.")
    return values


def read_json_lines(path: str | Path) -> Rows:
    """Yield (line, row, reason) of a file with a JSON object on each line."""
    for number, line, value, reason in _lines(_text_of(path)):
        yield number, *(_row_of(value) if reason is None else ({"line": line}, reason))


def _lines(text):
    """Yield (number, line, value, reason) for each line that is not blank; no value where there is a reason."""
    for number, line in enumerate(LINE_END.split(text), start=1):
        if not line.strip():
            continue
        if reason := _not_text([line]):
            yield number, line, None, reason
            continue
        try:
            yield number, line, _parse(line), None
        except ValueError as error:
            yield number, line, None, f"is not JSON ({str(error).partition(':')[0]})"


class Spelt(dict):
    """A row of JSON with its values as they are; `text` is the row as the file spells it."""

    def __init__(self, value: Mapping[str, Any], text: str) -> None:
        super().__init__(value)
        self.text = text


def read_spelt(path: str | Path) -> Iterator[tuple[int, Spelt, str | None]]:
    """Yield (number, row, reason) as `read_raw` does, each row a `Spelt`; a row of a table is spelt as JSON."""
    ending = Path(path).suffix.lower()
    if ending == ".json":
        text = _text_of(path)
        _list_of(path, text)
        found: Iterator[tuple[int, Any, str, str | None]] = (
            (number, value, text[start:end], None) for number, (value, start, end) in enumerate(_entries(text), start=1)
        )
    elif ending in WITHOUT_HEADER:
        found = ((number, value, line.strip(), reason) for number, line, value, reason in _lines(_text_of(path)))
    else:
        found = ((number, row, as_json(row), reason) for number, row, reason in read_raw(path))
    for number, value, spelt, reason in found:
        row = value if isinstance(value, dict) else {"entry": spelt}
        yield number, Spelt(row, spelt), reason or _row_of(value)[1]


def _entries(text):
    """Yield (value, where it begins, where it ends) of the entries of a JSON list; TOO_DEEP where one has no value."""
    at = text.index("[")
    while text[at] != "]":
        start = BLANKS.match(text, at + 1).end()
        if text[start] == "]":
            return
        try:
            value, end = _DECODER.raw_decode(text, start)
        except RecursionError:
            value, depth = TOO_DEEP, 0
            for found in STRING_OR_BRACKET.finditer(text, start):
                depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
                end = found.end()
                if not depth:
                    break
        yield value, start, end
        at = BLANKS.match(text, end).end()


def json_frame(path: str | Path) -> dict[str, str] | None:
    """Return what stands around the rows of a file of JSON: {head, separator, tail}; None for a table."""
    ending = Path(path).suffix.lower()
    if ending not in WITHOUT_HEADER:
        return None
    text = _text_of(path)
    if ending == ".json":
        spans = [span for _, *span in itertools.islice(_entries(text), 2)]
        rows = text.rstrip(JSON_BLANKS).removesuffix("]").rstrip(JSON_BLANKS)
        return {
            "head": text[: spans[0][0]] if spans else "[",
            "separator": text[spans[0][1] : spans[1][0]] if len(spans) > 1 else ",\n",
            "tail": text[len(rows) :],
        }
    ends = LINE_END.findall(text)
    return {"head": "", "separator": ends[0] if ends else "\n", "tail": ends[-1] if text.endswith(("\n", "\r")) else ""}


# ---------------------------------------------------------------- parquet


def read_parquet(path: str | Path) -> Rows:
    """Yield (entry, row, reason) of a parquet file, cells as the reader of JSON gives them; UserError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as handle:
        start = handle.read(64)
    if not start.startswith(PARQUET):
        known = signature_of(start) or (start, "empty or of another kind", "fetch or export it again")
        raise UserError(f"{path}: is {known[1]}, not parquet; {known[2]} and run again.")
    number = 0
    try:
        file = pq.ParquetFile(path)
        if twice := _repeated(file.schema_arrow.names):
            raise UserError(f"{path}: names {printable(twice)!r} twice; rename one of the columns and run again.")
        for batch in file.iter_batches(1000):
            for value, reason in _values_of(batch):
                row, unreadable = _row_of(value)
                yield (number := number + 1), row, reason or unreadable
    except (pa.ArrowException, OSError) as error:
        told = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: cannot be read as parquet ({told}); fetch or export it again.") from error


def _values_of(batch):
    """Return (value, reason) of each row of a batch; a row that has no value in Python is found by halving."""
    try:
        return [(_as_parsed(value), None) for value in batch.to_pylist()]
    except (ValueError, OverflowError) as error:
        if len(batch) > 1:
            return [*_values_of(batch.slice(0, len(batch) // 2)), *_values_of(batch.slice(len(batch) // 2))]
        if isinstance(error, UnicodeDecodeError):
            return [({}, f"is not UTF-8 (byte 0x{error.object[error.start]:02x})")]
        return [({}, f"cannot be read ({error})")]


def _as_parsed(value):
    """Return a cell of parquet as `_parse` would give it: numbers as they are spelt, NaN and infinities as null."""
    if isinstance(value, dict):
        return {key: _as_parsed(cell) for key, cell in value.items()}
    if isinstance(value, list | tuple):
        return [_as_parsed(cell) for cell in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float | Decimal):
        return Number(value) if math.isfinite(value) else None
    return str(value)
