"""Frames of video files, read from the first to the last by PyAV: a frame found by seeking may be another one.

After a seek, what lies before a key frame of an open group of pictures is decoded without the frames that it refers to;
and a container's index need not agree with what its decoder gives.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


# What may be opened, by FFmpeg's names: files that hold their own pictures. FFmpeg would follow a playlist to other
# files and addresses, and draw a text.
CONTAINERS = (
    "mov,matroska,avi,asf,flv,ogg,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,av1,ivf,mjpeg,gif,nut,mxf,rm,dv,yuv4mpegpipe"
)
NO_VIDEO = "holds no video that can be decoded, or no frame"
DAMAGED = "is cut or damaged: not all of its frames can be decoded"
# Frames whose times are this near to even ones, in intervals, come at a constant rate: containers round times.
EVEN = 0.25


def frame_indices(total: int, count: int) -> list[int]:
    """Return the indices of `count` frames spread evenly over `total`, first and last among them; fewer: all."""
    if min(total, count) == 1:
        return [total // 2]
    last = min(total, count) - 1
    return [round(place * (total - 1) / last) for place in range(last + 1)]


def frames_in_time(times: Sequence[Any], count: int) -> list[int]:
    """Return the indices of `count` frames spread evenly over their times; fewer: all.

    Where the rate is constant, or times are missing or contradict each other, `frame_indices` says which. Elsewhere a
    frame is the one whose time is nearest, so that one that is shown for long may be there more than once.
    """
    total = len(times)
    plain = frame_indices(total, count)
    if total <= count or None in times or any(later <= sooner for sooner, later in zip(times, times[1:], strict=False)):
        return plain
    first, span = times[0], times[-1] - times[0]
    interval = span / (total - 1)
    if all(abs(time - first - place * interval) <= EVEN * interval for place, time in enumerate(times)):
        return plain
    shares = [place / (count - 1) for place in range(count)] if count > 1 else [0.5]
    return [min(range(total), key=lambda place: abs(times[place] - first - span * share)) for share in shares]


@contextmanager
def _opened(path):
    """Yield (container, its video stream); ValueError says why a file has none to read, or could not be read whole."""
    import av
    import av.logging

    # Decoders conceal damage with a picture of their own, and tell of it on their log alone.
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    with av.logging.Capture() as log:
        try:
            container = av.open(str(path), options={"format_whitelist": CONTAINERS}, metadata_errors="replace")
        except av.FFmpegError as error:
            raise ValueError(NO_VIDEO) from error
        with container:
            stream = container.streams.best("video")
            if stream is None or stream.disposition & stream.disposition.attached_pic:
                raise ValueError(NO_VIDEO)
            # A codec that the library does not know has no context.
            if stream.codec_context is None:
                raise ValueError(NO_VIDEO)
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            try:
                yield container, stream
            except av.FFmpegError as error:
                raise ValueError(DAMAGED) from error
            if any(name in (stream.codec_context.name, container.format.name) for _, name, _ in log):
                raise ValueError(DAMAGED)


def packet_times(path: str | Path) -> list[int | None]:
    """Return the times of a file's packets in order, which are mostly those of its frames: nothing is decoded."""
    with _opened(path) as (container, stream):
        times = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
    return times if None in times else sorted(times)


def read_frames(
    path: str | Path, wanted: Collection[int], take: Callable[[int, np.ndarray, int, int], None]
) -> tuple[list[int | None], float | None]:
    """Decode a file from its first frame to its last; give `take` those whose index is in `wanted`.

    Returns (times of all frames in units of the stream, frames per second or None). take: called with (index, picture
    as uint8 (height, width, 3), height and width of its display).
    """
    times, last = [], None
    with _opened(path) as (container, stream):
        ratio = stream.sample_aspect_ratio or 1
        for packet in container.demux(stream):
            last = packet if packet.size else last
            frames = packet.decode()
            if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
                raise ValueError(DAMAGED)
            for frame in frames:
                if len(times) in wanted:
                    take(len(times), *_as_shown(frame, ratio))
                times.append(frame.pts)
        if not times:
            raise ValueError(NO_VIDEO)
        if _was_cut(path, container, stream, last):
            raise ValueError(DAMAGED)
        return times, _rate(times, stream)


def _was_cut(path, container, stream, last):
    """Tell whether a file ends early, of the containers whose reader does not tell; last: the last packet."""
    name = container.format.name
    if name == "avi":
        # The length in its header counts dropped frames; writers are off by one.
        return None not in (last.dts, stream.duration) and last.dts + 2 < stream.duration
    with open(path, "rb") as handle:
        if name == "gif":
            handle.seek(-1, 2)
            return handle.read() != b";"
        if name == "mpegts":
            # The end of a picture is where a packet is stuffed (ISO/IEC 13818-1, 2.4.3.5). 192 bytes begin with four
            # of their own.
            size = 188 if handle.read(1) == b"G" else 192
            handle.seek(last.pos)
            packets = [packet[-188:] for packet in iter(lambda: handle.read(size), b"")]
            end = [one for one in packets if len(one) < 188 or (one[1] & 31) << 8 | one[2] == stream.id][-1]
            field = end[5 : 5 + end[4]] if len(end) == 188 and end[3] & 32 else b"no field"
            return any(field) and field[-1] != 255
    return False


def _rate(times, stream):
    """Return frames per second: as the container says where the frames' times bear it out, else as they say."""
    declared = float(stream.average_rate or 0) or None
    if None in times or times[-1] <= times[0]:
        return declared
    measured = (len(times) - 1) / float((times[-1] - times[0]) * stream.time_base)
    return declared if declared and abs(measured / declared - 1) < 0.01 else measured


def _as_shown(frame, ratio):
    """Return (picture, height, width) as a player shows a frame: turned, mirrored, its pixels made square.

    The picture keeps its pixels; height and width are those of the display. ValueError where it stands askew.
    """
    picture, height, width = frame.to_ndarray(format="rgb24"), frame.height, round(frame.width * ratio)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture, height, width
    # Column x and row y are shown at column a x + c y and row b x + d y (ISO/IEC 14496-12, 6.2.2), in 1/65536.
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
    if a == d == 0 and b and c:
        picture, height, width, a, d = picture.swapaxes(0, 1), width, height, c, b
    elif b or c:
        raise ValueError("is turned by an angle that is no multiple of 90°")
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1], height, width
