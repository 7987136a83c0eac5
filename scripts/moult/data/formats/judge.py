"""Items that people judged: an answer with a grade, or two answers with a verdict, in the forms that are published.

A row's columns tell its form (`judge_forms.FORMS`), whatever file or folder it lies in. `columns` names those of a form
of your own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moult.base.rows import Recipe
from moult.data.formats.base import Format
from moult.data.formats.judge_forms import Cells, form_of
from moult.data.formats.messages import Unusable
from moult.data.readers import RawRow, read_spelt

PAIR, GRADE = ("question", "answer_1", "answer_2", "human"), ("question", "answer", "human")


class Judge(Format):
    name = "judge"
    shape = "judge_items"
    fields = (*dict.fromkeys(PAIR + GRADE), "id", "category", "scenario", "reference", "annotators", "tag", "feedback")
    answered_rows = "none"
    task = "judging"
    language = "und"

    def read(self, path: Path, recipe: Recipe) -> Iterator[tuple[int, RawRow, str | None]]:
        columns = recipe["columns"]
        for number, row, reason in read_spelt(path):
            yield number, dict(row) | {field: row[name] for field, name in columns.items() if name in row}, reason

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return (prepared, reason): `text` is the question, `label` the verdict or grade, `meta` the rest."""
        try:
            item = form_of(row, recipe["columns"]).read(Cells(row, recipe["columns"]), category)
        except Unusable as reason:
            return None, str(reason)
        question = item.pop("question")
        return {"text": question, "label": str(item["human"]), "meta": item}, None

    def id_of(self, row: RawRow) -> str | None:
        """Return what the row's form calls the row: of some forms two cells, of others nothing."""
        named = [row.get(column) for column in form_of(row, {}).ids]
        texts = [text.strip() for text in named if isinstance(text, str) and text.strip()]
        return "-".join(texts) if texts and len(texts) == len(named) else None

    def content(self, prepared: Mapping[str, Any]) -> Any:
        return [prepared["text"], *(prepared["meta"].get(field) for field in ("answer", "answer_1", "answer_2"))]

    def another_name(self, uid: str, prepared: Mapping[str, Any], seen: dict[str, int]) -> str | None:
        return self.named_by_content(uid, prepared, seen)


FORMAT = Judge()
