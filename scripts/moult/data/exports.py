"""Datasets and corpora as LLaMA-Factory reads them: JSON files and their `dataset_info.json`."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json, whole_directory, whole_file, write_json
from moult.base.reasons import in_words
from moult.base.rows import Facts, Recipe
from moult.base.stage import Job
from moult.data.examples import training_examples
from moult.data.fields import SPLITS
from moult.data.formats import format_of, sharegpt
from moult.data.formats.conversations import MEDIA, SPELLING
from moult.data.parquet import read_rows
from moult.data.prompts import texts_of, videos_of

logger = logging.getLogger(__name__)
# Raise when the same rows would now be exported otherwise.
VERSION = 1
# What stands around and between the rows of a file that had no JSON spelling of its own: json.dump with indent=2.
FRAME = {"head": "[\n  ", "separator": ",\n  ", "tail": "\n]\n"}


def export_dataset(recipe: Recipe, data: str | Path, target: str | Path) -> Facts:
    """Write a data source as LLaMA-Factory's JSON, a file per split, and their `dataset_info.json`; return the counts.

    recipe: name, template (of prompts; None for conversations). data: a prepared dataset's folder, its manifest beside
    it, or a corpus.
    Conversations are spelt as their files spelt them, byte for byte where nothing was rejected or left out; all else
    is sharegpt, with the prompts that training gets. UserError where no row has an answer.
    """
    info, counts, dropped = {}, {}, []
    whole = Path(data).is_dir() and format_of(data).tagged
    with whole_directory(target) as folder:
        for split in SPLITS:
            if whole:
                texts, frame, entry = _spelt(data, split)
            else:
                texts, frame, entry, without = _rendered(recipe, data, split)
                dropped += without
            if not texts:
                continue
            name = f"{recipe['name']}_{split}"
            counts[split] = len(texts)
            info[name] = {"file_name": name + (".json" if frame["head"] else ".jsonl")} | entry
            with whole_file(folder / info[name]["file_name"]) as handle:
                handle.write(frame["head"] + frame["separator"].join(texts) + frame["tail"])
        if not counts:
            raise UserError(f"{data}: no row has an answer, so there is nothing to export.")
        write_json(folder / "dataset_info.json", info)
    if dropped:
        logger.warning("%d rows are not exported: %s", len(dropped), in_words(row["reason"] for row in dropped))
    return {"rows": counts, "dropped": dropped}


def _spelt(data, split):
    """Return (texts, frame, entry) of conversations; a dev split that was carved out of train looks like train."""
    if not (Path(data) / f"{split}.parquet").exists():
        return [], None, None
    spelling = read_json(Path(data) / SPELLING)
    entry = {key: spelling[key] for key in ("formatting", "ranking", "columns", "tags") if spelling.get(key)}
    frame = spelling["frames"].get(split) or spelling["frames"].get("train") or FRAME
    return [row["meta"]["spelt"] for row in read_rows(data, split)], frame, entry


def _rendered(recipe, data, split):
    """Return (texts, frame, entry, dropped) of labelled or answered rows, as sharegpt with a system column."""
    if Path(data).is_dir() and not (Path(data) / f"{split}.parquet").exists():
        return [], None, None, []
    examples, dropped = training_examples([data], {recipe["name"]: recipe["template"]}, split)
    paths = _video_paths(data, split)
    rows = []
    for example in examples:
        turns = [*example.messages, {"role": "assistant", "content": example.answer}]
        if paths and any(MEDIA["videos"] in text for text in texts_of(turns)):
            reason = f"{MEDIA['videos']} stands in its text, where LLaMA-Factory would show a video"
            dropped.append({"split": split, "uid": example.uid, "reason": reason})
            continue
        said = [(turn["role"], "".join(map(_token_or_text, _parts(turn["content"])))) for turn in turns]
        row = {"id": example.uid.removeprefix(f"{recipe['name']}/")}
        row["system"] = "\n".join(text for role, text in said if role == "system")
        row["conversations"] = [
            {"from": sharegpt.FORMAT.tags[f"{role}_tag"][0], "value": text} for role, text in said if role != "system"
        ]
        rows.append(row | ({"videos": [paths[seen] for seen in videos_of(turns)]} if paths else {}))
    texts = [json.dumps(row, ensure_ascii=False, indent=2).replace("\n", "\n  ") for row in rows]
    columns = {"messages": "conversations", "system": "system"} | ({"videos": "videos"} if paths else {})
    return texts, FRAME, {"formatting": "sharegpt", "columns": columns}, dropped


def _parts(content):
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _token_or_text(part):
    return part["text"] if part["type"] == "text" else MEDIA["videos"]


def _video_paths(data, split):
    """Return {digest of frames: path} of the videos of a prepared dataset's split."""
    if not Path(data).is_dir():
        return {}
    media = (medium for row in read_rows(data, split) for medium in row["media"] or ())
    return {medium["frames"]: medium["path"] for medium in media}


def index_exports(folders: Iterable[str | Path], target: str | Path) -> None:
    """Write one `dataset_info.json` for several exports that stand beside it, so that they can be mixed."""
    info = {}
    for folder in map(Path, folders):
        for name, entry in read_json(folder / "dataset_info.json").items():
            info[name] = entry | {"file_name": f"{folder.name}/{entry['file_name']}"}
    write_json(target, info)


def run(job: Job) -> None:
    """Do the job of export_dataset."""
    job.facts = export_dataset(job.recipe, job.inputs.data, job.outputs.export)


def run_index(job: Job) -> None:
    """Do the job of index_exports."""
    index_exports(job.inputs.exports, job.outputs.index)
