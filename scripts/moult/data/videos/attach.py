"""Videos looked up and decoded for the rows that name them; rows without a usable one are rejected."""

import contextlib
import hashlib
import logging
import unicodedata
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from moult.base.files import digest, sha256_file, whole_file
from moult.data.videos.decoder import Decoder, not_a_video
from moult.data.videos.frames import arrow_table

logger = logging.getLogger(__name__)
# Raise when the same file would now give other frames.
VERSION = 2
# Rows decoded between two places from which a killed job can go on.
CHUNK = 64
# What `attach_videos` returns.
Attached = tuple[list[dict[str, Any]], list[tuple[dict[str, Any], dict[str, Any]]], list[dict[str, Any]], list[Path]]


def video_names(row: Mapping[str, Any], dataset: str) -> list[str]:
    """Return the file names under which a row's video may stand: as the row says, else after its id.

    MMLA's tables name no file; theirs are `<dataset>_<id>.mp4`, or the id alone where it begins with the dataset's
    name, and an id's separators are `_` in some.
    """
    if row["meta"].get("video"):
        return [row["meta"]["video"]]
    own = row["uid"].split(":", 2)[2]
    names = [f"{dataset}_{own}.mp4", f"{own}.mp4"]
    return [*names, *(name.replace("$_$", "_").replace("/", "_") for name in names)]


def looked_for(listed: Iterable[Mapping[str, Any]], dataset: str) -> list[str]:
    """Return the names under which the videos of rows were found, or would have been; listed: facts per file."""
    names: set[str] = set()
    for facts in listed:
        after_id = video_names({"uid": facts["uid"], "meta": {}}, dataset)
        names.update(after_id if facts["video"] in after_id else [facts["video"]])
    return sorted(name for name in names if not _outside(name))


def _outside(name):
    return Path(name).is_absolute() or ".." in Path(name).parts


def find_video(folder: str | Path, names: Iterable[str]) -> tuple[Path, None] | tuple[None, str]:
    """Return (path of the first of the names that is there, None), or (None, why there is none).

    A name is there too where the folder spells it otherwise: macOS decomposes the letters of names.
    """
    for name in dict.fromkeys(names):
        # By the name alone: the files may well be links.
        if _outside(name):
            return None, "the video lies outside of the folder of videos"
        try:
            spellings = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
            found = next((path for path in (Path(folder, one) for one in spellings) if path.is_file()), None)
        # A name that is too long, or a folder that may not be read; half a character never was a name.
        except (OSError, UnicodeError) as error:
            return None, f"the video cannot be looked up ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        if found:
            return found, None
    return None, "the video is missing"


def attach_videos(
    rows: list[dict[str, Any]],
    folder: str | Path,
    settings: Mapping[str, int],
    dataset: str,
    scratch: Path,
    wanted: int | None = None,
    workers: int = 1,
) -> Attached:
    """Return (rows with `media`, [(row, facts)] of those without a usable video, facts per file, files of frames).

    Rows are taken in their order until `wanted` have a video (None: all). Files are decoded by `workers` processes in
    chunks, each an Arrow file in `scratch` that a later call with the same scratch finds again. A row's media is its
    video: file name, SHA-256, duration in seconds, and `frames`, the digest of what was sampled, by which the frames
    are found (see `Frames`).
    """
    wanted = len(rows) if wanted is None else wanted
    # Beside frames of files that were changed since, nothing goes on.
    scratch = Path(scratch) / _listing(folder)
    chunk = max(1, min(CHUNK, wanted))
    kept, rejects, listed, files, split = [], [], [], [], rows[0]["split"]
    decoders = [Decoder() for _ in range(workers)]
    idle = list(decoders)
    with ThreadPoolExecutor(workers) as pool:

        def decoded(row):
            decoder = idle.pop()
            try:
                return _decoded(row, folder, settings, dataset, decoder)
            finally:
                idle.append(decoder)

        try:
            for start in range(0, len(rows), chunk):
                if len(kept) >= wanted:
                    break
                part = rows[start : start + chunk]
                file = scratch / f"{split}-{start // chunk:05d}.arrow"
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    _write_chunk(file, list(pool.map(decoded, part)))
                files.append(file)
                found = arrow_table(file).drop_columns(["jpeg"]).to_pylist()
                for row, facts in zip(part, found, strict=True):
                    listed.append({key: value for key, value in facts.items() if value is not None})
                    if facts["reason"]:
                        rejects.append((row, facts))
                    elif len(kept) < wanted:
                        kept.append(row | {"media": [_medium(facts)]})
                logger.info("videos: %d of %d rows, %d rejected", start + len(part), len(rows), len(rejects))
        finally:
            for decoder in decoders:
                decoder.close()
    return kept, rejects, listed, files


def _listing(folder):
    """Return a digest of names, sizes and times of the files of a folder."""
    found = []
    for path in sorted(Path(folder).rglob("*")):
        # A name that is not UTF-8, or a folder that may not be read, is nobody's video.
        with contextlib.suppress(OSError):
            if path.is_file():
                name = path.as_posix().encode("utf-8", "backslashreplace").decode()
                found.append((name, path.stat().st_size, path.stat().st_mtime_ns))
    return digest(found)[:16]


def _medium(facts):
    return {
        "type": "video",
        "path": facts["video"],
        "sha256": facts["sha256"],
        "duration_s": facts["seconds"],
        "frames": facts["digest"],
    }


def _decoded(row, folder, settings, dataset, decoder):
    """Return what an Arrow file keeps of one row's video: facts, and frames or the reason why there are none."""
    names = video_names(row, dataset)
    path, reason = find_video(folder, names)
    result = {"uid": row["uid"], "video": path.relative_to(folder).as_posix() if path else names[0], "reason": reason}
    if reason:
        return result
    try:
        result |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        if wrong := not_a_video(path):
            return result | {"reason": f"the video {wrong}"}
        facts, packed = decoder(path, settings)
    except PermissionError as error:
        return result | {"reason": f"the video cannot be read ({error.strerror})"}
    except ValueError as error:
        return result | {"reason": f"the video {error}"}
    seen = digest([[hashlib.sha256(one).hexdigest() for one in packed], settings["multiple"]])
    return result | facts | {"digest": seen, "jpeg": packed}


def _schema():
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("uid", "video", "reason", "sha256", "digest")]
    whole = [(name, pa.int64()) for name in ("bytes", "frames", "height", "width")]
    rates = [(name, pa.float64()) for name in ("seconds", "fps")]
    return pa.schema([*texts, *whole, *rates, ("sampled", pa.list_(pa.int64())), ("jpeg", pa.list_(pa.binary()))])


def _write_chunk(path, results):
    import pyarrow as pa

    table = pa.Table.from_pylist(results, schema=_schema())
    with whole_file(path, "wb") as handle, pa.ipc.new_file(handle, table.schema) as writer:
        writer.write_table(table)
