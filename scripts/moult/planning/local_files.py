"""What a config names on this machine, looked at before anything is planned: the beginnings of tables, model folders.

A table is read by the code that will prepare it, so that planning and job cannot differ; of a long one its first rows
are, and the rest only where these look wrong.
"""

import difflib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from moult.base.errors import UserError, ended
from moult.base.rows import Recipe
from moult.config.experiment import Config
from moult.data.excerpts import printable
from moult.data.formats import BY_NAME
from moult.data.formats.base import no_column
from moult.data.readers import WITHOUT_HEADER, read_raw
from moult.stages.datasets import prepare_dataset, raw_sources
from moult.weights.compatibility import check_shapes

# Bytes of a table that are read at planning; 2 ms of one core.
BEGINNING = 32_000


class Look(NamedTuple):
    """What the rows of one file are. whole: whether all of it was read. labels: of usable and of rejected rows, each as
    the file spells it."""

    rows: int
    reasons: Counter
    labels: Counter
    whole: bool


def flaws_of_tables(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each local raw file that its format cannot read, none of whose rows is usable, or whose
    labels are spelt otherwise than those of the config."""
    for dataset in cfg.datasets:
        recipe, looks = prepare_dataset(cfg, dataset.name), {}
        # What is said → the files that it is said of: one mistake may show in several.
        told: dict[str, list[str]] = {}
        for split, index, source in raw_sources(dataset):
            if source.path is None:
                continue
            place = f"{split}: {source.path}"
            try:
                look = looks[source.path] = _look(Path(source.path), recipe, recipe["files"][split][index])
            except UserError as error:
                flaw = str(error).removeprefix(source.path).removeprefix(Path(source.path).name).lstrip(",: ")
                told.setdefault(flaw, []).append(place)
                continue
            if look.rows == 0:
                told.setdefault("has no row, or a header only; name a file with rows.", []).append(place)
            elif look.reasons.total() == look.rows:
                reason, count = look.reasons.most_common(1)[0]
                flaw = f"none of its {look.rows} rows is usable, {count} of them for: {reason}"
                told.setdefault(f"{flaw}; correct the file or this entry.", []).append(place)
        for flaw, (first, *others) in told.items():
            also = f" (also {', '.join(others[:2])}{' and more' if len(others) > 2 else ''})" if others else ""
            yield f"datasets {dataset.name!r}, files, {first}{also}: {flaw}"
        if recipe["label_set"] and looks and not told and all(look.whole for look in looks.values()):
            yield from _misspelt(dataset.name, recipe["label_set"]["labels"], looks)


def _look(path: Path, recipe: Recipe, category: str) -> Look:
    """Return what the rows of a file are; of a long one what the first are, unless nothing of them is right.

    Raises:
        UserError: it is a folder, its header stands twice, or its format cannot read it.
    """
    if path.is_dir():
        files = sorted(one.name for one in path.iterdir() if one.is_file())[:3]
        told = f"e.g. {path / files[0]}" if files else "but it is empty"
        raise UserError(f"is a folder; name a file in it, {told}.")
    try:
        with open(path, "rb") as handle:
            start = handle.read(BEGINNING + 1)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}); let this user read it.") from None
    if path.suffix.lower() in (".json", ".parquet") or len(start) <= BEGINNING or b"\n" not in start:
        return _rows_of(path, recipe, category, True)
    with tempfile.TemporaryDirectory() as folder:
        beginning = Path(folder, path.name)
        beginning.write_bytes(start[: start.rindex(b"\n") + 1])
        try:
            look = _rows_of(beginning, recipe, category, False)
        except UserError:
            look = None
    if look is None or look.rows == look.reasons.total():
        return _rows_of(path, recipe, category, True)
    return look


def _rows_of(path, recipe, category, whole):
    form, rows, reasons, labels = BY_NAME[recipe["format"]], 0, Counter(), Counter()
    if path.suffix.lower() not in WITHOUT_HEADER:
        _refuse_header(path)
    absent, there = dict(recipe["columns"]), {}
    for _, row, reason in form.read(path, recipe):
        rows += 1
        absent = {field: column for field, column in absent.items() if column not in row}
        there |= dict.fromkeys(row)
        if reason is None:
            _, reason = form.canonical(row, recipe, category)
            if recipe["label_set"] and isinstance(row.get("label"), str):
                labels[row["label"]] += 1
        if reason is not None:
            reasons[reason] += 1
        if path.suffix.lower() == ".parquet" and rows >= 1000 and not absent and reasons.total() < rows:
            whole = False
            break
    # Where each row names its columns, a row may lack one, but not every row.
    if rows and absent:
        raise UserError(ended(no_column(absent, there)))
    return Look(rows, reasons, labels, whole)


def _refuse_header(path):
    """Raise a UserError where the first row repeats the header: a table that was pasted below another one's."""
    for line, row, reason in read_raw(path):
        if reason is None and len(row) > 1 and all(str(cell).strip() == name for name, cell in row.items()):
            raise UserError(f"line {line}: the header stands twice; delete this line.")
        return


def _misspelt(name: str, labels: list[str], looks: dict[str, Look]) -> Iterator[str]:
    """Yield a sentence for each label of the config that no row has, where the rows have one much like it instead."""
    found: Counter = sum((look.labels for look in looks.values()), Counter())
    known = {label.lower() for label in labels}
    strange = sorted(label for label in found if label.lower() not in known)
    there = {label.lower() for label in found}
    for label in labels:
        if label.lower() in there:
            continue
        if near := difflib.get_close_matches(label, strange, n=1, cutoff=0.5):
            path = next(path for path, look in looks.items() if near[0] in look.labels)
            yield (
                f"datasets {name!r}, labels: no row has {label!r}, but {found[near[0]]} rows have "
                f"{printable(near[0])!r} ({path}), which is not listed; write it so."
            )


def flaws_of_merges(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each merge of models whose bases, as far as they are on this machine, have other shapes."""
    checked: dict[tuple, str | None] = {}
    for model in cfg.models:
        if not (model.merge or model.moe):
            continue
        bases: dict[str, Path] = {}
        for parent in model.parents:
            origin = cfg.lineage(parent)[-1]
            if origin.fetch and (folder := _folder_of(cfg, origin)):
                bases.setdefault(origin.name, folder)
        merge = model.merge
        same = {"layers": not merge or bool(merge.parents), "tokens": not (merge and merge.tokenizer)}
        key = (*bases, *same.items())
        if key not in checked:
            checked[key] = None
            try:
                check_shapes(bases, **same)
            except UserError as error:
                checked[key] = str(error)
        if flaw := checked[key]:
            yield f"models {model.name!r}, merge: {flaw}"


def _folder_of(cfg: Config, model: Any) -> Path | None:
    """Return the folder of a fetched model, where it is on this machine: the user's own, or what was fetched."""
    folder = Path(model.fetch.path) if model.fetch.path else Path("results", cfg.name, "models", model.name)
    return folder if (folder / "config.json").is_file() else None
