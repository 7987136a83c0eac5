"""Raw tables into canonical parquet: fetching, canonical rows, rejects, profile, leakage."""

import json
import logging
import re
import shutil
from collections import Counter
from pathlib import Path

from moult.base.downloads import check_hub_file, fetch_url
from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space
from moult.base.files import derive_seed, digest, sha256_file, whole_directory, write_json, write_jsonl
from moult.base.secrets import key_of
from moult.base.signatures import begins_as_web_page
from moult.data.formats import llamafactory
from moult.data.readers import WITHOUT_HEADER, excerpt, printable, read_raw, read_spelt
from moult.data.videos import Frames, attach_videos, contact_sheet

# Raise when the same raw files would now give other rows.
VERSION = 2
SPLITS = ("train", "dev", "test")
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


# ---------------------------------------------------------------- fetching


def fetch_dataset(sources, local, target):
    """Bring the raw files of a dataset together as `<target>/<split>/<index>-<name>`, checksums checked.

    `sources` is the recipe's list; `local` holds the paths of the local ones among them, in order.
    """
    local = iter(local)
    with whole_directory(target) as folder:
        for source in sources:
            place = folder / source["split"] / f"{source['index']:02d}-{source['basename']}"
            place.parent.mkdir(parents=True, exist_ok=True)
            if source["kind"] == "path":
                shutil.copyfile(next(local), place)
            elif source["kind"] == "hub":
                _fetch_hub(source, place)
            else:
                _fetch_url(source, place)
            found = sha256_file(place)
            if source["sha256"] and found != source["sha256"]:
                page = " it is a web page (HTML);" if begins_as_web_page(place) else ""
                raise UserError(
                    f"{source['basename']}: SHA-256 is {found}, the config says {source['sha256']};{page} "
                    "the file changed or the download is broken: fetch again, or correct `sha256`."
                )
            logger.info("%s: %d bytes, sha256 %s", source["basename"], place.stat().st_size, found)


def _fetch_url(source, place):
    if not source["sha256"]:
        raise UserError(f"{source['url']}: `sha256` is null; run `make pin` to look it up and record it.")
    fetch_url(source["url"], place)


def _fetch_hub(source, place):
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not source["revision"]:
        raise UserError(f"{source['hub']}: `revision` is null; run `make pin` to look it up and record it.")
    try:
        found = hf_hub_download(
            source["hub"],
            source["file"],
            repo_type="dataset",
            revision=source["revision"],
            token=key_of(source["token"], f"hub dataset {source['hub']}") or False,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if is_disk_full(error):
            raise UserError(f"hub dataset {source['hub']}: {no_space([constants.HF_HUB_CACHE])}") from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"hub dataset {source['hub']}, {source['file']}: cannot be fetched ({reason}).") from error
    shutil.copyfile(check_hub_file(Path(found)), place)


# ---------------------------------------------------------------- canonical rows


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
            _write_parquet(folder / f"{split}.parquet", rows, recipe, label_of)
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


def _write_parquet(path, rows, recipe, label_of):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    medium = [("type", text), ("path", text), ("sha256", text), ("duration_s", pa.float64())]
    media = pa.list_(pa.struct(medium + [("frames", text)] * ("videos" in recipe)))
    columns = ["uid", "dataset", "task", "split", "text", "context", "title", "label"]
    fields = [(name, text) for name in columns]
    fields += [("label_id", pa.int32()), ("media", media), ("lang", text), ("source", text), ("meta", text)]
    ids = {label: index for index, label in enumerate(label_of.values())}
    full = [
        {
            "dataset": recipe["name"],
            "task": recipe["task"],
            "context": None,
            "title": None,
            "label": None,
            "media": None,
            "lang": recipe["language"],
            "label_id": ids.get(row.get("label")),
        }
        | row
        | {"meta": json.dumps(row["meta"], sort_keys=True, ensure_ascii=False)}
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(full, schema=pa.schema(fields)), path, compression="zstd")


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


def read_rows(folder, split):
    """Return the rows of one split of a prepared dataset as dicts, `meta` parsed; UserError if it is not there."""
    import pyarrow.parquet as pq

    path = Path(folder) / f"{split}.parquet"
    if not path.exists():
        raise UserError(f"{path}: the dataset has no split {split!r}; give it a file under `files:`.")
    rows = pq.read_table(path).to_pylist()
    return [row | {"meta": json.loads(row["meta"])} for row in rows]


# ---------------------------------------------------------------- leakage


def normalised(text):
    """Return text lower-cased, punctuation dropped and spaces folded: what counts as the same wording."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def find_leakage(folder, near):
    """Return pairs of rows that stand in two splits: (split_a, split_b, uid_a, uid_b, kind, similarity).

    Exact: equal after `normalised`. Near: cosine of character 5-gram counts at least `near`. Each row of the later
    split is listed once, with its closest row of the earlier one.
    """
    splits = {split: read_rows(folder, split) for split in SPLITS if (Path(folder) / f"{split}.parquet").exists()}
    pairs = []
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        if a in splits and b in splits:
            pairs += _leaks_between(a, splits[a], b, splits[b], near)
    return pairs


def _leaks_between(a, rows_a, b, rows_b, near):
    from sklearn.feature_extraction.text import HashingVectorizer

    def asked(row):
        return normalised(f"{row['title'] or ''} {row['text']}")

    vectors = HashingVectorizer(analyzer="char_wb", ngram_range=(5, 5), alternate_sign=False)
    earlier = vectors.transform([asked(row) for row in rows_a]).T.tocsc()
    texts_a = [asked(row) for row in rows_a]
    for start in range(0, len(rows_b), 500):
        block = rows_b[start : start + 500]
        similarity = (vectors.transform([asked(row) for row in block]) @ earlier).tocsr()
        for index, row in enumerate(block):
            scores = similarity[index]
            if not scores.nnz:
                continue
            best = scores.indices[scores.data.argmax()]
            value = round(min(1.0, float(scores.data.max())), 4)
            if asked(row) == texts_a[best]:
                yield a, b, rows_a[best]["uid"], row["uid"], "exact", 1.0
            elif value >= near:
                yield a, b, rows_a[best]["uid"], row["uid"], "near", value


def check_leakage(recipe, folder, target):
    """Write the leakage table as CSV; UserError when the config says that leakage fails the build."""
    import csv

    from moult.base.files import whole_file

    pairs = find_leakage(folder, recipe["near"])
    with whole_file(target) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["dataset", "split_a", "split_b", "uid_a", "uid_b", "kind", "similarity"])
        for a, b, *uids, kind, value in pairs:
            # An id may be of any length and hold line ends, which what reads CSV elsewhere does not take.
            writer.writerow([recipe["name"], a, b, *(printable(uid, 1000) for uid in uids), kind, value])
    counts = Counter((pair[0], pair[1], pair[4]) for pair in pairs)
    for (a, b, kind), count in sorted(counts.items()):
        logger.warning("%s: %d rows of %s stand in %s too (%s)", recipe["name"], count, b, a, kind)
    if pairs and recipe["found"] == "fail":
        a, b, uid_a, uid_b, kind, value = pairs[0]
        raise UserError(
            f"dataset {recipe['name']}: {len(pairs)} rows leak between splits, first {printable(uid_b)} ({b}) and "
            f"{printable(uid_a)} ({a}), {kind}, {value}; "
            "remove them from the file, or set `leakage: {found: report}`."
        )
    return {"pairs": len(pairs)}
