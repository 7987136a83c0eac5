"""Questions of Stack Overflow, as METEOR has them: a table with title and text, a file per category."""

from pathlib import Path
from typing import Any

from moult.base.rows import Recipe, Template
from moult.data.formats.base import TextFormat
from moult.data.parquet import read_rows
from moult.data.prompts import Example, answered_example

CATEGORIES = {
    "ml": "machine learning",
    "dl": "deep learning",
    "nlp": "natural language processing",
    "cv": "computer vision",
}


class StackOverflow(TextFormat):
    name = "stackoverflow"
    shape = "questions"
    needed = ("title", "question_content")
    fields = (*needed, "id", "answer", "tags")
    lists = ("tags",)
    answered_rows = "some"
    prompt = "meteor/answer"
    task = "question_answering"
    language = "en"

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        if empty := next((field for field in ("question_content", "title") if not row[field]), None):
            return None, f"empty {empty}"
        meta = {"category": category, "field": CATEGORIES.get(category, category)}
        meta |= {key: row[key] for key in ("answer", "tags") if row.get(key)}
        return {"text": row["question_content"], "title": row["title"], "meta": meta}, None

    def examples(
        self, folder: str | Path, split: str, template: Template
    ) -> tuple[list[Example], list[tuple[str, str]]]:
        """Return an example for each question with an answer."""
        rows: list[Any] = [row | {"question": row["text"]} for row in read_rows(folder, split)]
        answered = [row for row in rows if row["meta"].get("answer")]
        told = "no answer" if answered else "no answer to train on; train on a corpus distilled from it"
        without = [(row["uid"], told) for row in rows if not row["meta"].get("answer")]
        return [answered_example(row, template, row["meta"]["answer"]) for row in answered], without


FORMAT = StackOverflow()
