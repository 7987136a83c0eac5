"""Raw files into canonical rows: rejects with reasons, splits, profile."""

import logging
import shutil
from collections import Counter
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import derive_seed, digest, read_jsonl, whole_directory, write_json, write_jsonl
from moult.base.reasons import in_words, kinds
from moult.base.rows import Facts, RawReject, Recipe
from moult.base.stage import Job
from moult.base.text import count_words
from moult.data.excerpts import excerpt
from moult.data.formats import BY_NAME
from moult.data.leakage import normalised
from moult.data.parquet import write_parquet
from moult.data.splits import drawn
from moult.data.videos.attach import looked_for
from moult.data.videos.frames import Frames, contact_sheet

# Raise when the same raw files would now give other rows.
VERSION = 2
logger = logging.getLogger(__name__)


def _read_split(split, paths, recipe):
    """Return (canonical rows, rejects, number of rows read) of the raw files of one split."""
    form = BY_NAME[recipe["format"]]
    rows, rejects, count = [], [], 0
    # Name → the last number that was put behind it; name → label.
    seen, labels, contents = {}, {}, set()
    for path, category in zip(paths, recipe["files"][split], strict=True):
        for number, row, reason in form.read(path, recipe):
            count += 1
            source = f"{path.name.split('-', 1)[1]}:{number}"
            if reason is None:
                prepared, reason = form.canonical(row, recipe, category)
            if reason is None:
                content = digest(form.content(prepared))
                # A hash of its content names a row without an id, so that reordering a file renames nothing.
                own = form.id_of(row)
                uid = f"{recipe['name']}:{split}:{own or content[:12]}"
                if form.repeated and content in contents:
                    reason = form.repeated
                elif (name := uid) in seen:
                    uid = form.another_name(uid, prepared, seen)
                    reason = None if uid else "duplicate id" if own else _repeat(prepared, labels[name])
            if reason is None:
                seen[uid], labels[uid] = 1, prepared.get("label")
                contents.add(content)
                rows.append({"uid": uid, "split": split, "source": source} | prepared)
            else:
                told = {"dataset": recipe["name"], "split": split, "source": source, "reason": reason}
                rejects.append(told | excerpt(row))
    return rows, rejects, count


def _repeat(prepared, label):
    """Return why a row without an id, whose text an earlier row has, is rejected; label: that of the earlier row."""
    told = "no id, and the text of an earlier row"
    return told if prepared.get("label") == label else f"{told} with another label; give the rows ids to keep both"


def prepare_dataset(
    recipe: Recipe,
    raw: str | Path,
    target: str | Path,
    videos: str | Path | None = None,
    scratch: Path | None = None,
    workers: int = 1,
) -> Facts:
    """Write `<target>/<split>.parquet`, rejects.jsonl, profile.json and labels.json; return the profile.

    recipe: name, format, columns, files (split → categories of its files), label_set, task, dev_fraction, limit, seed;
    `test_fraction` where a test split is drawn from train too; `videos` where rows have some: how they are sampled.
    Then `videos` is their folder, `scratch` where frames are kept until all are decoded, by `workers` processes;
    frames/, videos.jsonl (what each file is) and frames.jpg (some of the frames, to be looked at) are written too. Rows
    in = rows out + rejects + what `limit` leaves out, which is counted, not rejected. Texts lose the blanks around them
    and are not changed otherwise.
    """
    splits, rows_in, unused, paths = {}, {}, {}, {}
    rejects: list[RawReject] = []
    for split in recipe["files"]:
        paths[split] = sorted((Path(raw) / split).iterdir(), key=lambda path: int(path.name.split("-")[0]))
        splits[split], rejected, rows_in[split] = _read_split(split, paths[split], recipe)
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
    _warn_of(splits, rows_in, rejects, recipe)
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
            write_parquet(folder / f"{split}.parquet", rows, recipe)
        write_jsonl(folder / "rejects.jsonl", rejects)
        write_json(folder / "profile.json", profile)
        if recipe["label_set"]:
            write_json(folder / "labels.json", recipe["label_set"])
        BY_NAME[recipe["format"]].write_beside(folder, recipe, paths)
    return profile


def _why_none(rejects):
    if not rejects:
        return "the file is empty or has a header only; give one with rows"
    reason, count = next(iter(kinds(reject["reason"] for reject in rejects).items()))
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
    chosen = drawn(rows, fraction, derive_seed(recipe["seed"], split))
    if chosen:
        splits["train"] = [row for row in rows if row["uid"] not in chosen]
        splits[split] = [row | {"split": split} for row in rows if row["uid"] in chosen]
    else:
        logger.warning("%s: all rows of train have the same text, none is drawn for %s", recipe["name"], split)


def _warn_of(splits, rows_in, rejects, recipe):
    """Say on the terminal how many rows were lost why, and what labels a split lacks that train has."""
    for split, count in rows_in.items():
        if reasons := [reject["reason"] for reject in rejects if reject["split"] == split]:
            told = "%s: %d of %d rows of %s are left out (rejects.jsonl): %s"
            logger.warning(told, recipe["name"], len(reasons), count, split, in_words(reasons))
    if recipe["label_set"] and recipe["limit"] is None and "train" in splits:
        held = {split: {row["label"] for row in rows} for split, rows in splits.items()}
        for split, labels in held.items():
            if lacking := sorted(held["train"] - labels):
                told = " or ".join(map(repr, lacking))
                logger.warning("%s: no row of %s has the label %s, rows of train have", recipe["name"], split, told)


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
    form = BY_NAME[recipe["format"]]
    kept, without, *found = form.attach(asked, folder, recipe, scratch, wanted, workers)
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
        "rejects": kinds(reject["reason"] for reject in rejects),
        "splits": {},
    }
    for split, rows in splits.items():
        words = np.array([count_words(row["text"]) for row in rows])
        texts = Counter(normalised(row["text"]) for row in rows)
        profile["splits"][split] = {
            "rows": len(rows),
            "left_out_by_limit": unused[split],
            "labels": dict(sorted(Counter(row["label"] for row in rows if "label" in row).items())),
            "words": {name: float(np.quantile(words, q)) for name, q in (("min", 0), ("median", 0.5), ("max", 1))},
            "duplicate_texts": sum(count - 1 for count in texts.values()),
        }
    return profile


def run(job: Job) -> None:
    """Do the job of prepare_dataset."""
    videos, outputs = job.inputs.get("videos"), job.outputs
    job.facts = prepare_dataset(
        job.recipe, job.inputs.raw, outputs.dataset, videos=videos, scratch=job.scratch, workers=job.threads
    )
    if videos and "videos_manifest" not in job.inputs.keys():
        listed = read_jsonl(Path(outputs.dataset, "videos.jsonl"))
        job.used = {videos: looked_for(listed, job.recipe["name"])}
