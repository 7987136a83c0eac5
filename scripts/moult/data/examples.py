"""Training examples out of datasets and corpora, with the prompts that inference uses too."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from moult.base.files import read_jsonl
from moult.base.rows import Dropped, Template
from moult.data.formats import format_of
from moult.data.prompts import Example, answered_example


def training_examples(
    paths: Sequence[str | Path], templates: Mapping[str, Template], split: str
) -> tuple[list[Example], list[Dropped]]:
    """Return (examples, dropped) of one split of all data sources, uids made unique across them.

    paths: a dataset folder or corpus file per source, in the order of `templates` (source → prompt template); beside
    each folder lies its manifest. A dataset without the split has no examples.
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
        dropped += [{"split": split, "uid": f"{source}/{uid}", "reason": reason} for uid, reason in without]
        examples += [Example(f"{source}/{one.uid}", one.messages, one.answer) for one in found]
    return examples, dropped
