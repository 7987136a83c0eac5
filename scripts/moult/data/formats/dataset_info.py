"""LLaMA-Factory's `dataset_info.json`: where its datasets lie, and how their rows are spelt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError, nearest
from moult.base.files import read_json
from moult.data.formats import alpaca, pairs, sharegpt
from moult.data.formats.conversations import PREFERENCE

# What an entry's `formatting` may say.
FORMATS = (alpaca.FORMAT, sharegpt.FORMAT, *pairs.FORMATS)
# Where LLaMA-Factory fetches rows from, before it looks at file_name.
ELSEWHERE = ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


def dataset_of_info(path: str | Path, entries: Mapping[str, str], files: Mapping[str, Any]) -> dict[str, Any]:
    """Return {format, files, columns, tags} of a dataset from the entries (split → name) of a `dataset_info.json`.

    `files` (split → source) are the user's own, which an entry on a hub needs. ValueError, with what to write instead,
    where an entry is not there, is no data for supervised fine-tuning, or differs from the entries of the other splits.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"dataset_info: {path}: cannot be read, it is no file (looked in {Path.cwd()}); give its path, relative "
            "to the working directory"
        )
    try:
        info = read_json(path, "give the path of a dataset_info.json, relative to the working directory")
    except UserError as error:
        raise ValueError(f"dataset_info: {str(error).rstrip('.')}") from None
    if not isinstance(info, dict):
        raise ValueError(f"dataset_info: {path} holds no object of entries")
    if extra := next((split for split in files if split not in entries), None):
        raise ValueError(f"files: {extra} has no entry; name it under entries, or leave it out")
    found = {}
    for split, name in entries.items():
        if name not in info:
            raise ValueError(f"entries: {name!r} is not in {path}{nearest(name, info)}")
        if not isinstance(info[name], dict):
            raise ValueError(f"entries: {name!r} of {path} is no object")
        try:
            found[split] = _layout_of(info[name]) | {
                "sources": files[split] if split in files else _files_of(info[name], Path(path).parent, split)
            }
        except ValueError as error:
            raise ValueError(f"entries: {name!r} of {path}: {error}") from None
    layouts = [{key: one[key] for key in ("format", "columns", "tags")} for one in found.values()]
    if any(layout != layouts[0] for layout in layouts):
        raise ValueError(
            f"entries: {', '.join(map(repr, entries.values()))} differ in formatting, columns or tags; "
            "make them datasets of their own"
        )
    return layouts[0] | {"files": {split: one["sources"] for split, one in found.items()}}


def _layout_of(entry):
    """Return {format, columns, tags} of one entry, as far as they are no defaults."""
    if entry.get("num_samples"):
        raise ValueError("num_samples draws rows by chance; leave it out, and write `limit` for a smoke run")
    formatting = entry.get("formatting", "alpaca")
    ranking = "_pairs" if entry.get("ranking") else ""
    form = next((one for one in FORMATS if one.name == f"{formatting}{ranking}"), None)
    if form is None:
        raise ValueError(f"formatting {formatting!r} is not read; write sharegpt, with tags, or alpaca")
    columns, tags = entry.get("columns", {}), entry.get("tags", {}) if form.tags else {}
    for kind, given in (("columns", columns), ("tags", tags)):
        if not isinstance(given, dict):
            raise ValueError(f"{kind} is no object")
    # LLaMA-Factory passes over what it does not know, and alpaca over the columns of sharegpt, in an entry.
    known = (*form.fields, *PREFERENCE)
    columns = {name: column for name, column in columns.items() if name in known and isinstance(column, str)}
    tags = {name: tag for name, tag in tags.items() if name in form.tags and isinstance(tag, str)}
    for kind, left in (("columns", columns), ("tags", tags)):
        if kind in entry and not left and (kind == "columns" or form.tags):
            raise ValueError(f"{kind} names none of {formatting}; leave it out, and its defaults hold")
    form.check_layout(columns, tags)
    return {"format": form.name, "columns": columns, "tags": tags}


def _files_of(entry, folder, split):
    """Return the sources of an entry: its file, or all files of its folder."""
    if hub := entry.get("hf_hub_url"):
        raise ValueError(
            f"is on the hub ({hub}), and does not say which file; add "
            f"`files: {{{split}: {{hub: {hub}, revision: null, file: <its path there>}}}}`"
        )
    elsewhere = next((key for key in ELSEWHERE if key in entry), None)
    if elsewhere or not isinstance(entry.get("file_name"), str):
        raise ValueError(f"has {elsewhere or 'no file_name'}; save the rows as a file and name it as file_name")
    place = folder / entry["file_name"]
    if place.is_dir():
        return sorted(path.as_posix() for path in place.iterdir() if path.is_file() and path.name[0] != ".")
    return [place.as_posix()]
