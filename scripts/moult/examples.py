"""Training examples out of datasets and corpora, in the words that inference will use too."""

from moult.errors import UserError
from moult.files import read_jsonl
from moult.labelling import label_examples
from moult.prompts import Example, render, render_answer
from moult.tables import read_rows


def training_examples(paths, templates, split):
    """Return the examples of one split of all data sources, uids made unique across them.

    paths: a dataset folder or corpus file per source, in the order of `templates` (source → prompt template).
    """
    examples = []
    for path, (source, template) in zip(paths, templates.items(), strict=True):
        if str(path).endswith(".jsonl"):
            found = [_answered(row, template, row["answer"]) for row in read_jsonl(path) if row["split"] == split]
        else:
            found = _dataset_examples(path, split, template)
        examples += [Example(f"{source}/{one.uid}", one.messages, one.answer) for one in found]
    return examples


def _dataset_examples(folder, split, template):
    from pathlib import Path

    if (Path(folder) / "labels.json").exists():
        return label_examples(folder, split, template) if (Path(folder) / f"{split}.parquet").exists() else []
    rows = read_rows(folder, split)
    answered = [row for row in rows if row["meta"].get("answer")]
    if not answered:
        raise UserError(f"{folder}, {split}: no row has an answer to train on; train on a corpus distilled from it.")
    return [_answered(row | {"question": row["text"]}, template, row["meta"]["answer"]) for row in answered]


def _answered(row, template, answer):
    fields = {"title": row["title"], "question": row["question"]}
    return Example(row["uid"], render(template, **fields), render_answer(template, **fields, answer=answer))
