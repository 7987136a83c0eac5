"""Videos: which frames of a file a model sees, decoded once for all jobs, in training and in inference the same.

Run as a module it is the decoder's own process: a damaged file can bring the decoding library down, and must not take
the job with it.
"""

import hashlib
import io
import json
import logging
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from moult.base.downloads import check_hub_file, link
from moult.base.errors import UserError
from moult.base.failures import is_disk_full, no_space
from moult.base.files import digest, sha256_file, whole_directory, whole_file
from moult.base.paths import CODE
from moult.base.secrets import key_of
from moult.base.signatures import LFS_POINTER, WEB_PAGE

# Raise when the same file would now give other frames.
VERSION = 1
# Rows decoded between two places from which a killed job can go on.
CHUNK = 64
# A file that takes longer than this to decode is given up.
SECONDS = 120
JPEG_QUALITY = 95
# What a reject's reason calls a file by its first bytes.
NOT_VIDEOS = (
    (b"", "is empty"),
    (b"\x89PNG", "is a picture (PNG), no video"),
    (b"\xff\xd8\xff", "is a picture (JPEG), no video"),
    (LFS_POINTER, "is a pointer of Git LFS, not the video itself"),
    *((mark, "is a web page, no video") for mark in WEB_PAGE),
)
logger = logging.getLogger(__name__)


def frame_indices(total, count):
    """Return the indices of `count` frames spread evenly over `total`, first and last among them; fewer: all."""
    if min(total, count) == 1:
        return [total // 2]
    last = min(total, count) - 1
    return [round(place * (total - 1) / last) for place in range(last + 1)]


def fitting_size(height, width, multiple, min_pixels, max_pixels):
    """Return (height, width) in multiples of `multiple`, within the pixel budget, of nearly the same proportions.

    Qwen2-VL's dynamic resolution (Wang et al. 2024, arXiv 2409.12191, section 2.1).
    """
    sides = [max(multiple, multiple * round(side / multiple)) for side in (height, width)]
    pixels = sides[0] * sides[1]
    if min_pixels <= pixels <= max_pixels:
        return tuple(sides)
    scale = math.sqrt((max_pixels if pixels > max_pixels else min_pixels) / (height * width))
    whole = math.floor if pixels > max_pixels else math.ceil
    return tuple(max(multiple, multiple * whole(side * scale / multiple)) for side in (height, width))


def sample_frames(path, frames, multiple, min_pixels, max_pixels):
    """Return (facts, JPEG bytes per frame) of one video file; facts: seconds, fps, frames, sampled, height, width.

    decord decodes, Pillow resizes (bicubic) and packs. ValueError says why a file has no frames to give.
    """
    import decord
    from PIL import Image

    try:
        video = decord.VideoReader(str(path), num_threads=1)
        total, fps = len(video), float(video.get_avg_fps())
    except (RuntimeError, decord.DECORDError) as error:
        raise ValueError("holds no video that can be decoded, or no frame") from error
    if total < 1:
        raise ValueError("has no frames")
    chosen = frame_indices(total, frames)
    try:
        pictures = video.get_batch(chosen).asnumpy()
    except (RuntimeError, decord.DECORDError) as error:
        raise ValueError("is cut or damaged: not all of its frames can be decoded") from error
    height, width = fitting_size(*pictures.shape[1:3], multiple, min_pixels, max_pixels)
    packed = []
    for picture in pictures:
        buffer = io.BytesIO()
        resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
        resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        packed.append(buffer.getvalue())
    seconds = round(total / fps, 3) if fps else None
    facts = {"seconds": seconds, "fps": round(fps, 3), "frames": total, "sampled": chosen}
    return facts | {"height": height, "width": width}, packed


# ---------------------------------------------------------------- files


def fetch_videos(recipe, target):
    """Bring the videos of a hub dataset's folder into the folder `target`, whole or not at all.

    They lie in the user's hub cache, where an interrupted download resumes, and are linked from there. recipe: hub,
    revision, folder, token (name of the variable). UserError when they cannot be had.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    where = f"hub dataset {recipe['hub']}, {recipe['folder']}"
    if not recipe["revision"]:
        raise UserError(f"{where}: `revision` is null; run `make pin` to look it up and record it.")
    disable_progress_bars()
    try:
        snapshot = snapshot_download(
            recipe["hub"],
            repo_type="dataset",
            revision=recipe["revision"],
            allow_patterns=[f"{recipe['folder']}/*"],
            token=key_of(recipe["token"], where) or False,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if is_disk_full(error):
            raise UserError(f"{where}: {no_space([constants.HF_HUB_CACHE])}") from error
        raise UserError(f"{where}: cannot be fetched ({str(error).strip().splitlines()[0]}).") from error
    origin = Path(snapshot, recipe["folder"])
    found = [file for file in sorted(origin.rglob("*")) if file.is_file()]
    if not found:
        raise UserError(f"{where}: has no files at this revision; correct `folder`.")
    with whole_directory(target) as folder:
        for file in found:
            place = folder / file.relative_to(origin)
            place.parent.mkdir(parents=True, exist_ok=True)
            link(check_hub_file(file), place)
    logger.info("%d files of %s", len(found), where)
    return {"files": len(found)}


def video_names(row, dataset):
    """Return the file names under which a row's video may stand: as the row says, else after its id.

    MMLA's tables name no file; theirs are `<dataset>_<id>.mp4`, or the id alone where it begins with the dataset's
    name, and an id's separators are `_` in some.
    """
    if row["meta"].get("video"):
        return [row["meta"]["video"]]
    own = row["uid"].split(":", 2)[2]
    names = [f"{dataset}_{own}.mp4", f"{own}.mp4"]
    return [*names, *(name.replace("$_$", "_").replace("/", "_") for name in names)]


def find_video(folder, names):
    """Return (path of the first of the names that is there, None), or (None, why there is none)."""
    for name in dict.fromkeys(names):
        # By the name alone: the files may well be links.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None, "the video lies outside of the folder of videos"
        path = Path(folder, name)
        if path.is_file():
            return path, None
    return None, "the video is missing"


def _not_a_video(path):
    """Return what a file is instead of a video, by its first bytes, or None."""
    with open(path, "rb") as handle:
        start = handle.read(64)
    begin = start.lstrip().lower()
    return next(
        (reason for mark, reason in NOT_VIDEOS if (begin.startswith(mark.lower()) if mark else not start)), None
    )


class Decoder:
    """A process that decodes one file after the other; it is started anew when a file brought it down."""

    process = None

    def __call__(self, path, settings):
        """Return (facts, JPEG bytes per frame); ValueError says why a file has no frames to give."""
        if self.process is None:
            command = [sys.executable, "-m", "moult.data.videos"]
            here = str(CODE)
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here)
        process = self.process
        clock = threading.Timer(SECONDS, process.kill)
        clock.start()
        try:
            process.stdin.write(json.dumps([str(Path(path).absolute()), settings]).encode() + b"\n")
            process.stdin.flush()
            head = process.stdout.readline()
            answer = json.loads(head) if head.endswith(b"\n") else None
            packed = [process.stdout.read(size) for size in answer["sizes"]] if answer else []
        except BrokenPipeError:
            answer = None
        finally:
            slow = not clock.is_alive()
            clock.cancel()
        if answer is None:
            self.close()
            raise ValueError(
                f"takes longer than {SECONDS} s to decode" if slow else "is damaged: it crashes the decoder"
            )
        if answer["reason"]:
            raise ValueError(answer["reason"])
        return answer["facts"], packed

    def close(self):
        """End the process."""
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None


def _serve():
    """Answer each line of standard input, [path, settings], by a line of JSON and the bytes of the frames."""
    import os

    # What libraries print must not get in between.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        path, settings = json.loads(line)
        try:
            facts, packed = sample_frames(path, **settings)
            answer = {"facts": facts, "reason": None}
        except ValueError as error:
            packed, answer = [], {"facts": None, "reason": str(error)}
        out.write(json.dumps(answer | {"sizes": [len(one) for one in packed]}).encode() + b"\n")
        out.writelines(packed)
        out.flush()


# ---------------------------------------------------------------- rows


def attach_videos(rows, folder, settings, dataset, scratch, wanted=None, workers=1):
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
                found = _table(file).drop_columns(["jpeg"]).to_pylist()
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
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return digest([(path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files])[:16]


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
    result |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    if wrong := _not_a_video(path):
        return result | {"reason": f"the video {wrong}"}
    try:
        facts, packed = decoder(path, settings)
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


def _table(path):
    """Return an Arrow file as a table that stays on disk: what is read of it comes through the page cache."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


class Frames:
    """The frames that stand in prepared datasets, found by their digest; jobs side by side read the same pages."""

    def __init__(self, folders):
        self.files = [file for folder in folders for file in sorted(Path(folder, "frames").glob("*.arrow"))]

    @cached_property
    def places(self):
        """Digest → (table, row)."""
        found = {}
        for table in map(_table, self.files):
            found |= {key: (table, row) for row, key in enumerate(table["digest"].to_pylist()) if key}
        return found

    def size(self, seen):
        """Return (frames, height, width) of what was sampled of a video."""
        table, row = self._place(seen)
        return len(table["jpeg"][row]), table["height"][row].as_py(), table["width"][row].as_py()

    def pictures(self, seen):
        """Return the frames of a video as uint8 (frames, height, width, 3)."""
        import numpy as np
        from PIL import Image

        table, row = self._place(seen)
        return np.stack([np.asarray(Image.open(io.BytesIO(one.as_buffer()))) for one in table["jpeg"][row]])

    def _place(self, seen):
        if seen not in self.places:
            raise UserError(f"frames {seen[:12]} are in no dataset of this job; prepare the dataset again.")
        return self.places[seen]


def contact_sheet(rows, frames, most=6, height=84):
    """Return a JPEG of what the model sees of the first rows: a row's frames side by side, under them its label."""
    from PIL import Image, ImageDraw

    strips = []
    for row in rows[:most]:
        pictures = [Image.fromarray(one) for one in frames.pictures(row["media"][0]["frames"])[:8]]
        width = round(pictures[0].width * height / pictures[0].height)
        strip = Image.new("RGB", (len(pictures) * (width + 4), height + 18), "white")
        for place, picture in enumerate(pictures):
            strip.paste(picture.resize((width, height)), (place * (width + 4), 0))
        told = " · ".join(filter(None, [row.get("label"), row["media"][0]["path"]]))
        # The font that comes with Pillow has no other letters.
        ImageDraw.Draw(strip).text((0, height + 3), told.encode("ascii", "replace").decode(), "black")
        strips.append(strip)
    sheet = Image.new("RGB", (max(one.width for one in strips), sum(one.height for one in strips)), "white")
    for place, strip in enumerate(strips):
        sheet.paste(strip, (0, sum(one.height for one in strips[:place])))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


if __name__ == "__main__":
    _serve()
