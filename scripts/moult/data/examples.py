"""Training examples out of datasets and corpora, in the words that inference will use too."""

from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json, read_jsonl
from moult.data.formats.llamafactory import SPELLING, conversation_examples
from moult.data.parquet import read_rows
from moult.data.prompts import Example, render, render_answer, with_videos


def training_examples(paths, templates, split):
    """Return (examples, dropped) of one split of all data sources, uids made unique across them.

    paths: a dataset folder or corpus file per source, in the order of `templates` (source → prompt template).
    dropped: {split, uid, reason} of each question without an answer, and each conversation not trained on.
    """
    examples, dropped = [], []
    for path, (source, template) in zip(paths, templates.items(), strict=True):
        if str(path).endswith(".jsonl"):
            found = [_answered(row, template, row["answer"]) for row in read_jsonl(path) if row["split"] == split]
        else:
            found, without = _dataset_examples(path, split, template)
            dropped += [{"split": split, "uid": f"{source}/{uid}", "reason": reason} for uid, reason in without]
        examples += [Example(f"{source}/{one.uid}", one.messages, one.answer) for one in found]
    return examples, dropped


def _dataset_examples(folder, split, template):
    """Return (examples, (uid, reason) of rows that are none); none of either where there is no such split."""
    folder = Path(folder)
    if not (folder / f"{split}.parquet").exists():
        return [], []
    if (folder / "labels.json").exists():
        return label_examples(folder, split, template), []
    if (folder / SPELLING).exists():
        examples, dropped = conversation_examples(read_rows(folder, split))
        if not examples:
            raise UserError(f"{folder}, {split}: no row can be trained on, the first one {dropped[0][1]}.")
        return examples, dropped
    rows = [row | {"question": row["text"]} for row in read_rows(folder, split)]
    answered = [row for row in rows if row["meta"].get("answer")]
    if not answered:
        raise UserError(f"{folder}, {split}: no row has an answer to train on; train on a corpus distilled from it.")
    without = [(row["uid"], "no answer") for row in rows if not row["meta"].get("answer")]
    return [_answered(row, template, row["meta"]["answer"]) for row in answered], without


def _answered(row, template, answer):
    fields = {"title": row["title"], "question": row["question"]}
    return Example(row["uid"], render(template, **fields), render_answer(template, **fields, answer=answer))


def label_messages(template, row, label_set):
    """Return (messages, one answer text per label): how a labelled row is put to a model, everywhere."""
    fields = {"text": row["text"]} | {key: label_set[key] for key in ("task", "task_words", "labels")}
    answers = [render_answer(template, **fields, label=label) for label in label_set["labels"]]
    videos = [medium["frames"] for medium in row.get("media") or () if medium["type"] == "video"]
    return with_videos(render(template, **fields), videos), answers


def label_examples(folder, split, template):
    """Return the training examples of a prepared dataset's split: the prompt, and the answer with the gold label."""
    label_set = read_json(f"{folder}/labels.json")
    examples = []
    for row in read_rows(folder, split):
        messages, answers = label_messages(template, row, label_set)
        examples.append(Example(row["uid"], messages, answers[label_set["labels"].index(row["label"])]))
    return examples
