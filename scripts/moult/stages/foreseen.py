"""Questions of a dataset at planning time, before the dataset is prepared."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import digest, write_json
from moult.config.experiment import Config
from moult.corpora.refined import row_digest
from moult.data import fields
from moult.data import prepare as preparing
from moult.data.fetch import fetch_dataset, placed
from moult.data.questions import judge_items, prompt_rows, question_rows
from moult.stages import datasets as dataset_stages

# Where row digests are kept between plans; anything in there may be deleted.
SEEN = Path("scratch", "planned")


def prepared_questions(cfg: Config, name: str, fetched: Path | None = None) -> list[Any]:
    """Return the rows of a dataset as prompts, or judges, need them, prepared in a folder that is gone afterwards.

    fetched: where its files are that a build has fetched; local ones are taken as they are now. UserError where one is
    not on this machine.
    """
    paths = [source.path for _, _, source in dataset_stages.raw_sources(cfg.find("datasets", name)) if source.path]
    sources = dataset_stages.fetch_dataset(cfg, name)["sources"]
    remote = [placed(source) for source in sources if source["kind"] != "path"]
    there = Path(fetched or "nowhere")
    if not all(Path(path).exists() for path in paths) or not all((there / file).exists() for file in remote):
        raise UserError(f"dataset {name} is not fetched")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        fetch_dataset([source for source in sources if source["kind"] == "path"], paths, raw)
        for file in remote:
            (raw / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(there / file, raw / file)
        preparing.prepare_dataset(dataset_stages.prepare_dataset(cfg, name), raw, Path(folder, "dataset"))
        return rows_of(Path(folder, "dataset"), cfg.find("datasets", name).shape)


def rows_of(folder: Path, shape: str = "questions") -> list[Any]:
    """Return the rows of all splits of a prepared dataset as prompts, or judges, need them."""
    splits = [split for split in fields.SPLITS if (folder / f"{split}.parquet").exists()]
    read: Any = {"judge_items": judge_items, "prompts": prompt_rows}.get(shape, question_rows)
    return read(folder, splits)


def row_digests(cfg: Config, name: str) -> dict[str, list[str]] | None:
    """Return split → a digest per row of a dataset, in order; None where its files are not all on this machine.

    What a slice holds is known so before the graph is: a row that changes in one slice is no change of another. The
    digests are kept, with size and time of the raw files, so that planning again and each job need not read them.
    """
    sources = [source for _, _, source in dataset_stages.raw_sources(cfg.find("datasets", name))]
    if not all(source.path and Path(source.path).exists() for source in sources):
        return None
    kept = SEEN / f"{name}.json"
    key = digest([_seen(sources), dataset_stages.prepare_dataset(cfg, name)])
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["key"] == key:
            return known["rows"]
    try:
        rows = prepared_questions(cfg, name)
    except UserError:
        return None  # the job that prepares the dataset will say it better
    found = {}
    for row in rows:
        found.setdefault(row["split"], []).append(row_digest(row))
    write_json(kept, {"key": key, "rows": found})
    return found


def _seen(sources):
    found = [(source.path, Path(source.path).stat()) for source in sources]
    return [[path, one.st_size, one.st_mtime_ns, one.st_ctime_ns] for path, one in found]
