"""The rows that models and judges are asked about: of a prepared dataset, or of a corpus."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from moult.base.files import read_jsonl
from moult.base.rows import CorpusRow, JudgeItem, Question
from moult.base.sample_rows import PromptRow
from moult.data.parquet import read_rows


def question_rows(folder: str | Path, splits: Iterable[str]) -> list[Question]:
    """Return the rows of a prepared dataset of questions as what a question prompt needs."""
    return [
        {
            "uid": row["uid"],
            "dataset": row["dataset"],
            "split": row["split"],
            "field": row["meta"]["field"],
            "title": row["title"],
            "question": row["text"],
        }
        for split in splits
        for row in read_rows(folder, split)
    ]


def prompt_rows(folder: str | Path, splits: Iterable[str]) -> list[PromptRow]:
    """Return the rows of a prepared dataset of questions or of prompts; the latter have their messages as `prompt`, and
    `answers` where the dataset has some."""
    kept = {"messages": "prompt", "answers": "answers"}
    return [
        cast(
            PromptRow,
            {
                "uid": row["uid"],
                "dataset": row["dataset"],
                "split": row["split"],
                "field": row["meta"].get("field", ""),
                "title": row["title"],
                "question": row["text"],
            }
            | {name: row["meta"][key] for key, name in kept.items() if key in row["meta"]},
        )
        for split in splits
        for row in read_rows(folder, split)
    ]


def asked_rows(inputs: Any, splits: Iterable[str]) -> list[CorpusRow]:
    """Return the rows that a corpus asks about, by its job's inputs: those of another corpus, or a dataset's."""
    if "asked" in inputs.keys():
        return [row for row in read_jsonl(inputs.asked) if row["split"] in splits]
    return cast(list[CorpusRow], question_rows(inputs.questions, splits))


def judge_items(folder: str | Path, splits: Iterable[str]) -> list[JudgeItem]:
    """Return the rows of a prepared dataset of judged items as judges need them."""
    kept = ("uid", "dataset", "split", "source")
    rows = [row for split in splits for row in read_rows(folder, split)]
    return [
        cast(JudgeItem, {key: row[key] for key in kept} | {"question": row["text"]} | row["meta"])  # type: ignore
        for row in rows
    ]
