"""Training examples out of datasets and corpora, with the prompts that inference uses too."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.base.reasons import in_words
from moult.base.rows import Dropped, Template
from moult.data.formats import format_of
from moult.data.prompts import Example, answered_example

logger = logging.getLogger(__name__)


def training_examples(
    paths: Sequence[str | Path], templates: Mapping[str, Template], split: str
) -> tuple[list[Example], list[Dropped]]:
    """Return (examples, dropped) of one split of all data sources, uids made unique across them.

    paths: a dataset folder or corpus file per source, in the order of `templates` (source → prompt template); beside
    each folder lies its manifest. A dataset without the split has no examples. One of which no row can be trained on is
    left out with a warning; UserError where that leaves none to train on.
    dropped: {split, uid, reason} of each question without an answer, and each conversation not trained on.
    """
    examples: list[Example] = []
    dropped: list[Dropped] = []
    for path, (source, template) in zip(paths, templates.items(), strict=True):
        found: list[Example] = []
        without: list[tuple[str, str]] = []
        if str(path).endswith(".jsonl"):
            rows = [row for row in read_jsonl(path) if row["split"] == split]
            found = [answered_example(row, template, row["answer"]) for row in rows]
        elif Path(path, f"{split}.parquet").exists():
            found, without = format_of(path).examples(path, split, template)
            if without and not found:
                reasons = in_words(reason for _, reason in without)
                logger.warning("%s: no row of %s can be trained on, it is left out: %s", source, split, reasons)
        dropped += [{"split": split, "uid": f"{source}/{uid}", "reason": reason} for uid, reason in without]
        examples += [Example(f"{source}/{one.uid}", one.messages, one.answer) for one in found]
    if dropped and not examples and split == "train":
        reasons = in_words(row["reason"] for row in dropped)
        raise UserError(f"{', '.join(templates)}, {split}: no row can be trained on: {reasons}.")
    return examples, dropped
