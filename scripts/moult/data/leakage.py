"""Rows of one split that stand in another too, exactly or nearly."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from moult.base.errors import UserError
from moult.base.rows import Facts, Leak, Recipe, columns_of
from moult.base.stage import Job
from moult.base.text import marks, nfc
from moult.data.duplicates import Texts, closest
from moult.data.excerpts import printable
from moult.data.fields import SPLITS
from moult.data.parquet import read_columns

# A row of the second split should not stand in the first.
LATER = (("train", "dev"), ("train", "test"), ("dev", "test"))
# Raise when the same rows would now be told as leaking otherwise.
VERSION = 2
logger = logging.getLogger(__name__)


def normalised(text: str) -> str:
    """Return text lower-cased and composed, punctuation dropped and blanks folded: what counts as the same wording."""
    if text.isascii():
        return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())
    return " ".join(_punctuation().sub(" ", nfc(text).lower()).split())


@cache
def _punctuation():
    # To Python a mark is no part of a word: without its vowel signs, Hindi is other words.
    return re.compile(rf"[^\w\s{marks()}]")


def find_leakage(
    folder: str | Path, near: float, beside: Iterable[str | Path] = (), within: bool = False
) -> list[tuple[str, str, str, str, str, float]]:
    """Return pairs of rows that stand in two splits: (split_a, split_b, uid_a, uid_b, kind, similarity).

    Exact: equal after `normalised`. Near: cosine of character 5-gram counts at least `near`. Each row of the later
    split is listed once, with its closest row of the earlier one. beside: folders of datasets whose questions this
    one's later splits are looked for, too; a test row that is one there as well is listed, though it is no leak.
    within: rows of one split that are alike are listed, too, which is no leak either.
    """
    splits = _splits_of(folder)
    pairs = []
    for a, b in LATER:
        if a in splits and b in splits:
            pairs += _leaks_between(a, splits[a], b, splits[b], near)
    for split, rows in splits.items() if within else ():
        pairs += _repeated(split, rows, near)
    for other in map(_splits_of, beside):
        for a, b in (*LATER, ("test", "test")):
            if a in other and b in splits:
                pairs += _leaks_between(a, other[a], b, splits[b], near)
    return pairs


def _splits_of(folder):
    return {split: _wordings(folder, split) for split in SPLITS if (Path(folder) / f"{split}.parquet").exists()}


def wording(title: str | None, text: str) -> str:
    """Return what a row asks, as it is compared with others."""
    return normalised(f"{title or ''} {text}")


def _wordings(folder, split):
    """Return (uids, texts) of the rows of a split."""
    uids, titles, texts = read_columns(folder, split, ("uid", "title", "text"))
    return uids, Texts([wording(*row) for row in zip(titles, texts, strict=True)])


def _leaks_between(a, split_a, b, split_b, near):
    (uids_a, earlier), (uids_b, later) = split_a, split_b
    for place, best, cosine in closest(earlier, later, near):
        value = round(min(1.0, cosine), 4)
        if later.texts[place] == earlier.texts[best]:
            yield a, b, uids_a[best], uids_b[place], "exact", 1.0
        elif value >= near:
            yield a, b, uids_a[best], uids_b[place], "near", value


def _repeated(split, rows, near):
    """Yield the rows of a split that are like an earlier one of it."""
    uids, texts = rows
    first: dict[str, int] = {}
    for place, text in enumerate(texts.texts):
        if first.setdefault(text, place) != place:
            yield split, split, uids[first[text]], uids[place], "exact", 1.0
    for place, best, cosine in closest(texts, texts, near):
        if first[texts.texts[place]] == place and (value := round(min(1.0, cosine), 4)) >= near:
            yield split, split, uids[best], uids[place], "near", value


def check_leakage(recipe: Recipe, folder: str | Path, target: str | Path, beside: Iterable[str | Path] = ()) -> Facts:
    """Write the leakage table as CSV; UserError when the config says that leakage fails the build."""
    import csv

    from moult.base.files import whole_file

    pairs = find_leakage(folder, recipe["near"], beside, recipe.get("within", False))
    with whole_file(target) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns_of(Leak))
        for a, b, *uids, kind, value in pairs:
            # An id may be of any length and hold line ends, which what reads CSV elsewhere does not take.
            writer.writerow([recipe["name"], a, b, *(printable(uid, 1000) for uid in uids), kind, value])
    counts = Counter((pair[0], pair[1], pair[4]) for pair in pairs)
    for (a, b, kind), count in sorted(counts.items()):
        logger.warning("%s: %d rows of %s stand in %s too (%s)", recipe["name"], count, b, a, kind)
    leaks = [pair for pair in pairs if pair[:2] in LATER]
    if leaks and recipe["found"] == "fail":
        a, b, uid_a, uid_b, kind, value = leaks[0]
        raise UserError(
            f"dataset {recipe['name']}: {len(leaks)} rows leak between splits, first {printable(uid_b)} ({b}) and "
            f"{printable(uid_a)} ({a}), {kind}, {value}; "
            "remove them from the file, or set `leakage: {found: report}`."
        )
    return {"pairs": len(pairs)}


def run(job: Job) -> None:
    """Do the job of check_leakage."""
    job.facts = check_leakage(job.recipe, job.inputs.dataset, job.outputs.table, job.inputs.get("beside", ()))
