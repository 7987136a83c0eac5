"""Raw files into canonical rows: rejects with reasons, splits, profile."""

import logging
import shutil
from collections import Counter
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import derive_seed, digest, whole_directory, write_json, write_jsonl
from moult.data.formats import llamafactory
from moult.data.leakage import normalised
from moult.data.parquet import write_parquet
from moult.data.readers import WITHOUT_HEADER, excerpt, printable, read_raw, read_spelt
from moult.data.videos.attach import attach_videos
from moult.data.videos.frames import Frames, contact_sheet

# Raise when the same raw files would now give other rows.
VERSION = 2
# What a row of each format needs, and what it may have.
FORMATS = {
    "stackoverflow": (("title", "question_content"), ("id", "answer", "tags")),
    "mmla": (("text", "label"), ("id", "video")),
}
FIELDS = {
    "ml": "machine learning",
    "dl": "deep learning",
    "nlp": "natural language processing",
    "cv": "computer vision",
}
logger = logging.getLogger(__name__)


def _rows_of(path, recipe):
    """Yield (number, row, reason) of one raw file, the fields of its format under their own names and as text.

    UserError when a header lacks a needed column; where each row names its columns, that row alone is rejected.
    """
    columns, (needed, others) = recipe["columns"], FORMATS[recipe["format"]]
    for number, row, reason in read_raw(path):
        if reason is None:
            row = row | {field: row[column] for field, column in columns.items() if column in row}
            if missing := next((field for field in needed if field not in row), None):
                reason = f"no column {columns.get(missing, missing)!r}"
                remedy = f"map it with `columns: {{{missing}: <your column>}}`"
                if path.suffix.lower() not in WITHOUT_HEADER:
                    there = ", ".join(map(printable, row))
                    raise UserError(f"{path.name}, row {number}: {reason} (there is {there}); {remedy}.")
                reason = f"{reason}; {remedy}"
        if reason is None:
            texts = {field: _as_text(field, row[field]) for field in (*needed, *others) if field in row}
            nested = next((field for field, text in texts.items() if text is None), None)
            reason = f"{nested} is nested, not text" if nested else None
            row |= texts if nested is None else {}
        yield number, row, reason


def _as_text(field, value):
    """Return a cell as text, or None where it is nested; a list of tags is text."""
    if field == "tags" and isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        value = ";".join(value)
    return value.strip() if isinstance(value, str) else None


def _stackoverflow(row, category):
    if empty := next((field for field in ("question_content", "title") if not row[field]), None):
        return None, f"empty {empty}"
    meta = {"category": category, "field": FIELDS.get(category, category)}
    meta |= {key: row[key] for key in ("answer", "tags") if row.get(key)}
    return {"text": row["question_content"], "title": row["title"], "meta": meta}, None


def _mmla(row, label_of):
    if not row["text"]:
        return None, "empty text"
    label = label_of.get(row["label"].lower())
    if label is None:
        return None, f"label {row['label'][:40]!r} is not in the label set"
    return {"text": row["text"], "label": label, "meta": {key: row[key] for key in ("video",) if row.get(key)}}, None


def _read_split(split, paths, recipe, label_of):
    """Return (canonical rows, rejects, number of rows read) of the raw files of one split."""
    rows, rejects, seen, count = [], [], set(), 0
    conversations = recipe["format"] in llamafactory.FORMATS
    for path, category in zip(paths, recipe["files"][split], strict=True):
        for number, row, reason in read_spelt(path) if conversations else _rows_of(path, recipe):
            count += 1
            source = f"{path.name.split('-', 1)[1]}:{number}"
            if reason is None and conversations:
                prepared, reason = llamafactory.conversation(row, recipe)
            elif reason is None and recipe["format"] == "stackoverflow":
                prepared, reason = _stackoverflow(row, category)
            elif reason is None:
                prepared, reason = _mmla(row, label_of)
            if reason is None:
                uid = f"{recipe['name']}:{split}:{_own_name(row, prepared)}"
                if uid in seen and conversations:
                    uid = llamafactory.another_name(uid, prepared, seen)
                reason = "duplicate id" if uid in seen else None
            if reason is None:
                seen.add(uid)
                rows.append({"uid": uid, "split": split, "source": source} | prepared)
            else:
                told = {"dataset": recipe["name"], "split": split, "source": source, "reason": reason}
                rejects.append(told | excerpt(row))
    return rows, rejects, count


def _own_name(row, prepared):
    """Return a row's id, or where it has none a hash of its content, so that reordering a file renames nothing."""
    if isinstance(row.get("id"), str) and row["id"].strip():
        return row["id"].strip()
    return digest(prepared["meta"].get("messages") or [prepared.get("title"), prepared["text"]])[:12]


def prepare_dataset(recipe, raw, target, videos=None, scratch=None, workers=1):
    """Write `<target>/<split>.parquet`, rejects.jsonl, profile.json and labels.json; return the profile.

    recipe: name, format, columns, files (split → categories of its files), label_set, task, dev_fraction, limit, seed;
    `test_fraction` where a test split is drawn from train too; `videos` where rows have some: how they are sampled.
    Then `videos` is their folder, `scratch` where frames are kept until all are decoded, by `workers` processes;
    frames/, videos.jsonl (what each file is) and frames.jpg (some of the frames, to be looked at) are written too.
    Rows in = rows out + rejects + what `limit` leaves out, which is counted, not rejected. Texts lose the blanks around
    them; what stands in them otherwise is the row's own affair.
    """
    labels = recipe["label_set"]["labels"] if recipe["label_set"] else []
    label_of = {label.lower(): label for label in labels}
    splits, rejects, rows_in, unused, paths = {}, [], {}, {}, {}
    for split in recipe["files"]:
        paths[split] = sorted((Path(raw) / split).iterdir(), key=lambda path: int(path.name.split("-")[0]))
        splits[split], rejected, rows_in[split] = _read_split(split, paths[split], recipe, label_of)
        if not splits[split]:
            raise UserError(f"dataset {recipe['name']}, {split}: no usable row, {_why_none(rejected)}.")
        rejects += rejected
    # Test first: selection rows come out of train alone.
    _carve("test", splits, recipe)
    _carve("dev", splits, recipe)
    listed, frames = [], []
    for split, rows in splits.items():
        if videos:
            splits[split], rejected, facts, files = _with_videos(split, rows, recipe, videos, scratch, workers)
            rejects, listed, frames = rejects + rejected, listed + facts, frames + files
        else:
            splits[split], rejected = _limited(rows, recipe), []
        unused[split] = len(rows) - len(splits[split]) - len(rejected)
    profile = _profile(splits, rejects, rows_in, unused, recipe)
    _check_sums(profile, rejects)
    with whole_directory(target) as folder:
        if videos:
            (folder / "frames").mkdir()
            for file in frames:
                shutil.copyfile(file, folder / "frames" / file.name)
            write_jsonl(folder / "videos.jsonl", listed)
            filmed = [row for rows in splits.values() for row in rows if row.get("media")]
            if filmed:
                (folder / "frames.jpg").write_bytes(contact_sheet(filmed, Frames([folder])))
        for split, rows in splits.items():
            write_parquet(folder / f"{split}.parquet", rows, recipe, label_of)
        write_jsonl(folder / "rejects.jsonl", rejects)
        write_json(folder / "profile.json", profile)
        if recipe["label_set"]:
            write_json(folder / "labels.json", recipe["label_set"])
        if recipe["format"] in llamafactory.FORMATS:
            llamafactory.write_spelling(folder, recipe, paths)
    return profile


def _why_none(rejects):
    if not rejects:
        return "the file is empty or has a header only; give one with rows"
    reason, count = Counter(reject["reason"] for reject in rejects).most_common(1)[0]
    return f"all {len(rejects)} were rejected, {count} of them for: {reason}"


def _check_sums(profile, rejects):
    """Raise where a split's rows in are not its rows out, rejects and rows left out: a bug here, not in the file."""
    found = Counter(reject["split"] for reject in rejects)
    for split, told in profile["splits"].items():
        origin = split if split in profile["rows_in"] else "train"
        found[origin] += told["rows"] + told["left_out_by_limit"]
    if found != Counter(profile["rows_in"]):
        raise AssertionError(f"dataset {profile['dataset']}: rows in {profile['rows_in']}, accounted for {dict(found)}")


def _by_chance(rows, seed):
    """Return rows in an order that depends on the seed and on each row's uid alone, not on the file's order."""
    return sorted(rows, key=lambda row: digest([seed, row["uid"]]))


def _carve(split, splits, recipe):
    """Draw a split that has no file from train, with the seed; nothing is drawn where train is too small for two."""
    rows, fraction = splits.get("train", ()), recipe.get(f"{split}_fraction")
    if split in splits or not fraction or len(rows) < 2:
        return
    count = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    chosen = {row["uid"] for row in _by_chance(rows, derive_seed(recipe["seed"], split))[:count]}
    splits["train"] = [row for row in rows if row["uid"] not in chosen]
    splits[split] = [row | {"split": split} for row in rows if row["uid"] in chosen]


def _limited(rows, recipe):
    if recipe["limit"] is None or len(rows) <= recipe["limit"]:
        return rows
    return _in_order(rows, _for_limit(rows, recipe)[: recipe["limit"]])


def _for_limit(rows, recipe):
    """Return rows in the order in which `limit` takes them."""
    return _by_chance(rows, derive_seed(recipe["seed"], "limit"))


def _in_order(rows, chosen):
    """Return the chosen rows, which may hold more than before, in the order of `rows`."""
    by_uid = {row["uid"]: row for row in chosen}
    return [by_uid[row["uid"]] for row in rows if row["uid"] in by_uid]


def _with_videos(split, rows, recipe, folder, scratch, workers):
    """Return (rows of a split with their videos, at most `limit`, rejects, facts per file, files of frames)."""
    wanted = min(len(rows), recipe["limit"] or len(rows))
    asked = rows if wanted == len(rows) else _for_limit(rows, recipe)
    if recipe["format"] in llamafactory.FORMATS:
        asked = asked[:wanted]
        kept, without, *found = llamafactory.attach_conversation_videos(asked, folder, recipe, scratch, workers)
    else:
        dataset = recipe["label_set"]["dataset"]
        kept, without, *found = attach_videos(asked, folder, recipe["videos"], dataset, scratch, wanted, workers)
    # Rows that were carved out came in with train.
    origin = split if split in recipe["files"] else "train"
    told = {"dataset": recipe["name"], "split": origin}
    rejects = [
        told
        | {"source": row["source"], "reason": facts["reason"]}
        | excerpt({"uid": row["uid"], "text": row["text"], "video": facts["video"]})
        for row, facts in without
    ]
    if not kept:
        raise UserError(f"dataset {recipe['name']}, {split}: no usable row, {_why_none(rejects)}.")
    return _in_order(rows, kept), rejects, *found


def _profile(splits, rejects, rows_in, unused, recipe):
    """Return counts (`rows_in` per split of the raw files), label distribution, lengths and duplicates per split."""
    import numpy as np

    profile = {
        "dataset": recipe["name"],
        "limit": recipe["limit"],
        "dev": "carved out of train" if "dev" in splits and "dev" not in recipe["files"] else "as given",
        **({"test": "carved out of train"} if "test" in splits and "test" not in recipe["files"] else {}),
        "rows_in": rows_in,
        "rejects": dict(sorted(Counter(reject["reason"] for reject in rejects).items())),
        "splits": {},
    }
    for split, rows in splits.items():
        words = np.array([len(row["text"].split()) for row in rows])
        texts = Counter(normalised(row["text"]) for row in rows)
        profile["splits"][split] = {
            "rows": len(rows),
            "left_out_by_limit": unused[split],
            "labels": dict(sorted(Counter(row["label"] for row in rows if "label" in row).items())),
            "words": {name: float(np.quantile(words, q)) for name, q in (("min", 0), ("median", 0.5), ("max", 1))},
            "duplicate_texts": sum(count - 1 for count in texts.values()),
        }
    return profile
