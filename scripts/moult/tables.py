"""Raw tables into canonical parquet: fetching, reading, rejects, profile, leakage."""

import json
import logging
import re
import shutil
from collections import Counter
from pathlib import Path

from moult.downloads import check_hub_file, fetch_url
from moult.errors import UserError
from moult.failures import is_disk_full, no_space
from moult.files import derive_seed, digest, sha256_file, whole_directory, write_json, write_jsonl
from moult.weights import begins_as_web_page

# Raise when the same raw files would now give other rows.
VERSION = 1
SPLITS = ("train", "dev", "test")
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
    import os

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
            token=os.environ.get(source["token"]) if source["token"] else None,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if is_disk_full(error):
            raise UserError(f"hub dataset {source['hub']}: {no_space([constants.HF_HUB_CACHE])}") from error
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"hub dataset {source['hub']}, {source['file']}: cannot be fetched ({reason}).") from error
    shutil.copyfile(check_hub_file(Path(found)), place)


# ---------------------------------------------------------------- reading


def read_tsv(path):
    """Yield (row number, fields or None, reason or None) of a tab-separated file with a header line."""
    raw = Path(path).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8 and run again.") from error
    lines = re.split(r"\r\n|\n|\r", text)
    header = [_unquoted(cell) for cell in lines[0].split("\t")]
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = [_unquoted(cell) for cell in line.split("\t")]
        if len(cells) != len(header):
            yield number, None, f"has {len(cells)} fields, the header has {len(header)}"
        else:
            yield number, dict(zip(header, cells, strict=True)), None


def _unquoted(cell):
    """Return a cell without the quotes that a spreadsheet put around it; other quotes belong to the text."""
    cell = cell.strip()
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def read_json_list(path):
    """Yield (entry number, fields or None, reason or None) of a JSON list of objects."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); give a list of objects.") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: holds {type(rows).__name__}, not a list of objects.")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield number, {key: "" if value is None else value for key, value in row.items()}, None
        else:
            yield number, None, "is not an object"


def _rows_of(path, columns, needed):
    """Yield rows of one raw file with canonical field names; UserError when a needed column is not there."""
    reader = read_json_list if path.suffix == ".json" else read_tsv
    for number, row, reason in reader(path):
        if row is not None:
            renamed = {field: row[column] for field, column in columns.items() if column in row}
            row = row | renamed
            if missing := [field for field in needed if field not in row]:
                raise UserError(
                    f"{path.name}, row {number}: no column {columns.get(missing[0], missing[0])!r} (there is "
                    f"{', '.join(map(str, row))}); map it with `columns: {{{missing[0]}: <your column>}}`."
                )
        yield number, row, reason


# ---------------------------------------------------------------- canonical rows


def _stackoverflow(row, category):
    text, title = str(row["question_content"]).strip(), str(row["title"]).strip()
    if not text or not title:
        return None, "empty " + ("question_content" if title else "title")
    meta = {"category": category, "field": FIELDS.get(category, category)}
    meta |= {key: str(row[key]).strip() for key in ("answer", "tags") if row.get(key)}
    return {"text": text, "title": title, "meta": meta}, None


def _mmla(row, label_of):
    text = str(row["text"]).strip()
    if not text:
        return None, "empty text"
    written = str(row["label"]).strip()
    label = label_of.get(written.lower())
    if label is None:
        return None, f"label {written!r} is not in the label set"
    return {"text": text, "label": label, "meta": {key: row[key] for key in ("video",) if row.get(key)}}, None


def _identity(row, prepared):
    """Return the row's own id, or one made of its content, so that reordering a file renames nothing."""
    return str(row.get("id") or "").strip() or digest([prepared.get("title"), prepared["text"]])[:12]


def _prepare_file(path, split, category, recipe, label_of):
    """Yield (canonical row or None, reject or None) for every row of a raw file."""
    needed = ["title", "question_content"] if recipe["format"] == "stackoverflow" else ["text", "label"]
    for number, row, reason in _rows_of(path, recipe["columns"], needed):
        prepared = None
        if reason is None and recipe["format"] == "stackoverflow":
            prepared, reason = _stackoverflow(row, category)
        elif reason is None:
            prepared, reason = _mmla(row, label_of)
        source = f"{path.name.split('-', 1)[1]}:{number}"
        if prepared is None:
            yield (
                None,
                {"dataset": recipe["name"], "split": split, "source": source, "reason": reason, "row": row},
            )
        else:
            uid = f"{recipe['name']}:{split}:{_identity(row, prepared)}"
            yield {"uid": uid, "split": split, "source": source} | prepared, None


def prepare_dataset(recipe, raw, target):
    """Write `<target>/<split>.parquet`, rejects.jsonl, profile.json and labels.json; return the profile.

    recipe: name, format, columns, files (split → categories of its files), label_set, task, dev_fraction, limit, seed.
    Rows in = rows out + rejects; the rows that `limit` leaves out are counted, not rejected.
    """
    labels = recipe["label_set"]["labels"] if recipe["label_set"] else []
    label_of = {label.lower(): label for label in labels}
    splits, rejects, seen, unused = {}, [], set(), {}
    for split, categories in recipe["files"].items():
        rows = []
        for path, category in zip(sorted((Path(raw) / split).iterdir()), categories, strict=True):
            for row, reject in _prepare_file(path, split, category, recipe, label_of):
                if row is not None and row["uid"] in seen:
                    reject = {"dataset": recipe["name"], "split": split, "source": row["source"]}
                    reject |= {"reason": "duplicate id", "row": row}
                if reject is not None:
                    rejects.append(reject)
                    continue
                seen.add(row["uid"])
                rows.append(row)
        if not rows:
            raise UserError(
                f"dataset {recipe['name']}, {split}: no usable row, all were rejected or the file is empty."
            )
        splits[split] = rows
    if "dev" not in splits and "train" in splits and recipe["dev_fraction"]:
        splits["train"], splits["dev"] = _carve_dev(splits["train"], recipe)
    for split, rows in splits.items():
        splits[split] = _limited(rows, recipe)
        unused[split] = len(rows) - len(splits[split])
    profile = _profile(splits, rejects, unused, recipe)
    with whole_directory(target) as folder:
        for split, rows in splits.items():
            _write_parquet(folder / f"{split}.parquet", rows, recipe, label_of)
        write_jsonl(folder / "rejects.jsonl", rejects)
        write_json(folder / "profile.json", profile)
        if recipe["label_set"]:
            write_json(folder / "labels.json", recipe["label_set"])
    return profile


def _by_chance(rows, seed):
    """Return rows in an order that depends on the seed and on each row's uid alone, not on the file's order."""
    return sorted(rows, key=lambda row: digest([seed, row["uid"]]))


def _carve_dev(rows, recipe):
    """Return (train, dev): selection rows drawn from train with the seed, never from test."""
    count = max(1, round(len(rows) * recipe["dev_fraction"])) if len(rows) > 1 else 0
    chosen = {row["uid"] for row in _by_chance(rows, derive_seed(recipe["seed"], "dev"))[:count]}
    train = [row for row in rows if row["uid"] not in chosen]
    return train, [row | {"split": "dev"} for row in rows if row["uid"] in chosen]


def _limited(rows, recipe):
    if recipe["limit"] is None or len(rows) <= recipe["limit"]:
        return rows
    kept = {row["uid"] for row in _by_chance(rows, derive_seed(recipe["seed"], "limit"))[: recipe["limit"]]}
    return [row for row in rows if row["uid"] in kept]


def _write_parquet(path, rows, recipe, label_of):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    media = pa.list_(pa.struct([("type", text), ("path", text), ("sha256", text), ("duration_s", pa.float64())]))
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


def _profile(splits, rejects, unused, recipe):
    """Return counts, label distribution, lengths and duplicates per split."""
    import numpy as np

    profile = {
        "dataset": recipe["name"],
        "limit": recipe["limit"],
        "dev": "carved out of train" if "dev" in splits and "dev" not in recipe["files"] else "as given",
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

    from moult.files import whole_file

    pairs = find_leakage(folder, recipe["near"])
    with whole_file(target) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["dataset", "split_a", "split_b", "uid_a", "uid_b", "kind", "similarity"])
        writer.writerows([recipe["name"], *pair] for pair in pairs)
    counts = Counter((pair[0], pair[1], pair[4]) for pair in pairs)
    for (a, b, kind), count in sorted(counts.items()):
        logger.warning("%s: %d rows of %s stand in %s too (%s)", recipe["name"], count, b, a, kind)
    if pairs and recipe["found"] == "fail":
        a, b, uid_a, uid_b, kind, value = pairs[0]
        raise UserError(
            f"dataset {recipe['name']}: {len(pairs)} rows leak between splits, first {uid_b} ({b}) and {uid_a} ({a}), "
            f"{kind}, {value}; remove them from the file, or set `leakage: {{found: report}}`."
        )
    return {"pairs": len(pairs)}
