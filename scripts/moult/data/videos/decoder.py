"""Frames out of video files, in a process of its own: a damaged file can bring the decoding library down."""

import io
import json
import logging
import math
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.paths import CODE
from moult.base.signatures import LFS_POINTER, WEB_PAGE
from moult.data.videos.reading import frames_in_time, packet_times, read_frames

# A file that takes longer than this to decode is given up.
SECONDS = 600
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


def fitting_size(height: int, width: int, multiple: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return (height, width) in multiples of `multiple`, within the pixel budget, of nearly the same proportions.

    Qwen2-VL's dynamic resolution (Wang et al. 2024, arXiv 2409.12191, section 2.1).
    """
    sides = [max(multiple, multiple * round(side / multiple)) for side in (height, width)]
    pixels = sides[0] * sides[1]
    if min_pixels <= pixels <= max_pixels:
        return sides[0], sides[1]
    scale = math.sqrt((max_pixels if pixels > max_pixels else min_pixels) / (height * width))
    whole = math.floor if pixels > max_pixels else math.ceil
    height, width = (max(multiple, multiple * whole(side * scale / multiple)) for side in (height, width))
    return height, width


def sample_frames(
    path: str | Path, frames: int, multiple: int, min_pixels: int, max_pixels: int
) -> tuple[dict[str, Any], list[bytes]]:
    """Return (facts, JPEG bytes per frame) of one video file; facts: seconds, fps, frames, sampled, height, width.

    PyAV decodes, Pillow resizes (bicubic) and packs. ValueError says why a file has no frames to give.
    """
    from PIL import Image

    packed: dict[int, bytes] = {}
    size: list[int] = []

    def take(place, picture, height, width):
        # A stream may change its size; what is seen of it may not.
        if not size:
            size.extend(fitting_size(height, width, multiple, min_pixels, max_pixels))
        buffer = io.BytesIO()
        resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)
        resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        packed[place] = buffer.getvalue()

    # Which frames there are is known for sure once all are decoded; that packets say it mostly spares a second time.
    times, chosen = packet_times(path), None
    while (now := frames_in_time(times, frames)) != chosen:
        chosen = now
        packed.clear()
        times, fps = read_frames(path, set(chosen), take)
    facts: dict[str, Any] = {
        "seconds": fps and round(len(times) / fps, 3),
        "fps": fps and round(fps, 3),
        "frames": len(times),
    }
    facts |= {"sampled": chosen, "height": size[0], "width": size[1]}
    return facts, [packed[place] for place in chosen]


def not_a_video(path: str | Path) -> str | None:
    """Return what a file is instead of a video, by its first bytes, or None."""
    with open(path, "rb") as handle:
        start = handle.read(64)
    begin = start.lstrip().lower()
    return next(
        (reason for mark, reason in NOT_VIDEOS if (begin.startswith(mark.lower()) if mark else not start)), None
    )


class Decoder:
    """A process that decodes one file after the other; it is started anew when a file brought it down."""

    process: Any = None

    def __call__(self, path: str | Path, settings: Mapping[str, int]) -> tuple[dict[str, Any], list[bytes]]:
        """Return (facts, JPEG bytes per frame); ValueError says why a file has no frames to give."""
        if self.process is None:
            command = [sys.executable, "-m", "moult.data.videos.decoder"]
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

    def close(self) -> None:
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


if __name__ == "__main__":
    _serve()
