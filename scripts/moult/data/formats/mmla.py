"""Labelled utterances, as MMLA has them: a table with text and label; rows may have a video."""

from pathlib import Path
from typing import Any

from moult.base.files import read_json
from moult.base.rows import Recipe, Template
from moult.base.text import folded
from moult.data.formats.base import TextFormat
from moult.data.parquet import label_of, read_rows
from moult.data.prompts import Example, label_messages
from moult.data.videos.attach import Attached, attach_videos


class Mmla(TextFormat):
    name = "mmla"
    shape = "labelled"
    needed = ("text", "label")
    fields = (*needed, "id", "video")
    answered_rows = "all"
    prompt = "mmla/text"
    video_prompt = "mmla/video"
    videos = True
    task = "classification"
    language = "und"

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        if not row["text"]:
            return None, "empty text"
        label = label_of(recipe["label_set"]).get(folded(row["label"]))
        if label is None:
            return None, f"label {row['label'][:40]!r} is not in the label set"
        meta = {key: row[key] for key in ("video",) if row.get(key)}
        return {"text": row["text"], "label": label, "meta": meta}, None

    def attach(
        self, rows: list[dict[str, Any]], folder: str | Path, recipe: Recipe, scratch: Path, wanted: int, workers: int
    ) -> Attached:
        dataset = recipe["label_set"]["dataset"]
        return attach_videos(rows, folder, recipe["videos"], dataset, scratch, wanted, workers)

    def examples(
        self, folder: str | Path, split: str, template: Template
    ) -> tuple[list[Example], list[tuple[str, str]]]:
        """Return an example for each row: the prompt, and the answer with the gold label."""
        label_set = read_json(f"{folder}/labels.json")
        examples = []
        for row in read_rows(folder, split):
            messages, answers = label_messages(template, row, label_set)
            examples.append(Example(row["uid"], messages, answers[label_set["labels"].index(row["label"])]))
        return examples, []


FORMAT = Mmla()
