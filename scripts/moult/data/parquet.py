"""Prepared rows on disk: a parquet file per split."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.rows import CanonicalRow, Recipe
from moult.base.text import folded


def label_of(label_set: Mapping[str, Any]) -> dict[str, str]:
    """Return folded label → label, of all labels of a set. Those that are equal when folded are one, spelt as the last
    of them."""
    return {folded(label): label for label in label_set["labels"]}


def write_parquet(path: str | Path, rows: Iterable[dict[str, Any]], recipe: Recipe) -> None:
    """Write the canonical rows of one split; recipe: that of `prepare_dataset`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    medium = [("type", text), ("path", text), ("sha256", text), ("duration_s", pa.float64())]
    media = pa.list_(pa.struct(medium + [("frames", text)] * ("videos" in recipe)))
    columns = ["uid", "dataset", "task", "split", "text", "context", "title", "label"]
    fields = [(name, text) for name in columns]
    fields += [("label_id", pa.int32()), ("media", media), ("lang", text), ("source", text), ("meta", text)]
    labels = label_of(recipe["label_set"]).values() if recipe["label_set"] else ()
    ids = {label: index for index, label in enumerate(labels)}
    full = [
        {
            "dataset": recipe["name"],
            "task": recipe["task"],
            "context": None,
            "title": None,
            "label": None,
            "media": None,
            "lang": recipe["language"],
            "label_id": ids.get(row.get("label", "")),
        }
        | row
        | {"meta": json.dumps(row["meta"], sort_keys=True, ensure_ascii=False)}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(full, schema=pa.schema(fields)), path, compression="zstd")


def read_rows(folder: str | Path, split: str) -> list[CanonicalRow]:
    """Return the rows of one split of a prepared dataset as dicts, `meta` parsed; UserError if it is not there."""
    rows = _table(folder, split).to_pylist()
    return [row | {"meta": json.loads(row["meta"])} for row in rows]


def read_columns(folder: str | Path, split: str, columns: Sequence[str]) -> list[list[Any]]:
    """Return some columns of one split of a prepared dataset, each a list; UserError if it is not there."""
    table = _table(folder, split, list(columns))
    return [table.column(name).to_pylist() for name in columns]


def _table(folder, split, columns=None):
    import pyarrow.parquet as pq

    path = Path(folder) / f"{split}.parquet"
    if not path.exists():
        raise UserError(f"{path}: the dataset has no split {split!r}; give it a file under `files:`.")
    return pq.read_table(path, columns=columns)
