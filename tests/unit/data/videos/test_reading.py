"""Frames are those asked for: made clips of many kinds, against PyAV read in order and against what was drawn."""

import io
import random
import struct

import av
import numpy as np
import pytest
from av.stream import Disposition
from clips import write_clip
from moult.data.videos.decoder import sample_frames
from moult.data.videos.reading import frame_indices, frames_in_time
from PIL import Image

X265 = {"x265_params": "log-level=none:keyint=12:pools=none"}
FAST = {"deadline": "realtime", "cpu_used": 8}
# Frames that are never shown by themselves.
HIDDEN = {"auto_alt_ref": 1, "lag_in_frames": 16}
OPEN = {"g": 12, "x264_params": "open-gop=1"}
# Name (its ending is the container), what differs from 40 pictures of 96 x 64 as H.264 at 25 frames per second.
CLIPS = {
    "closed.mp4": {"g": 12},
    "closed.mkv": {"g": 12},
    "closed.mov": {"g": 12},
    "closed.avi": {"g": 12},
    "closed.ts": {"g": 12},
    "closed.flv": {"g": 12},
    "closed.h264": {"g": 12},
    "open.mp4": OPEN,
    "open.mkv": OPEN,
    "open.ts": OPEN,
    "pyramid.mp4": {"g": 30, "bf": 8, "x264_params": "b-pyramid=normal:open-gop=1"},
    "refreshed.mp4": {"x264_params": "intra-refresh=1:keyint=12"},
    "interlaced.mp4": {"x264_params": "interlaced=1"},
    "one-group.mp4": {"g": 250, "x264_params": "scenecut=0"},
    "key-frames.mp4": {"g": 1},
    "hevc.mp4": {"codec": "libx265"} | X265,
    "hevc.mkv": {"codec": "libx265"} | X265,
    "hevc.ts": {"codec": "libx265"} | X265,
    "hevc-closed.mp4": {"codec": "libx265", "x265_params": "log-level=none:keyint=12:open-gop=0:pools=none"},
    "hevc-10-bit.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le"} | X265,
    "vp8.webm": {"codec": "libvpx"} | FAST | HIDDEN,
    "vp9.webm": {"codec": "libvpx-vp9"} | FAST | HIDDEN,
    "vp9.mp4": {"codec": "libvpx-vp9"} | FAST,
    "vp9-alpha.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuva420p"} | FAST,
    "av1.mp4": {"codec": "libsvtav1", "preset": 12, "g": 12},
    "av1.mkv": {"codec": "libsvtav1", "preset": 12},
    "mpeg4.avi": {"codec": "mpeg4", "bf": 2, "g": 12},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": 2, "g": 12},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": 2, "g": 12},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": 2, "g": 12},
    "mpeg1.mpg": {"codec": "mpeg1video", "g": 12},
    "jpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "prores.mov": {"codec": "prores", "pix_fmt": "yuv422p10le"},
    "png-alpha.mov": {"codec": "png", "pix_fmt": "rgba"},
    "wmv2.wmv": {"codec": "wmv2", "b": 2_000_000},
    "flv1.flv": {"codec": "flv", "b": 2_000_000},
    "grey.gif": {"codec": "gif", "pix_fmt": "gray"},
    "yuv444.mp4": {"pix_fmt": "yuv444p"},
    "yuv422.mp4": {"pix_fmt": "yuv422p"},
    "10-bit.mp4": {"pix_fmt": "yuv420p10le"},
    "grey.mp4": {"pix_fmt": "gray"},
    "fast-start.mp4": {"movflags": "faststart"},
    "fragments.mp4": {"g": 12, "movflags": "frag_keyframe+empty_moov"},
    **{f"rate-{rate}.mp4": {"rate": rate} for rate in (1, 24, 60, 240)},
    **{f"rate-{rate}.mkv": {"rate": rate} for rate in (30, 60, 120)},
    **{f"{side}x{side}.mp4": {"size": (side, side)} for side in (2, 16, 24, 32, 48, 144)},
    "2x200.mp4": {"size": (200, 2)},
    "250x26.mkv": {"size": (26, 250)},
    "odd.mp4": {"size": (33, 47), "pix_fmt": "yuv444p"},
    "odd.avi": {"size": (33, 47), "codec": "mpeg4"},
    "odd.webm": {"size": (33, 47), "codec": "libvpx-vp9"} | FAST,
    **{f"{count}-frames.mp4": {"count": count} for count in (1, 2, 3)},
    "1-frame.webm": {"count": 1, "codec": "libvpx-vp9"} | FAST,
    "2-frames.avi": {"count": 2, "codec": "mpeg4"},
}
SETTINGS = {"multiple": 2, "min_pixels": 1, "max_pixels": 10**9}


def drawn(count, height=64, width=96):
    """Return pictures of which each shows its number: smooth, a bar moves, grey levels are the bits."""
    down, across = np.mgrid[:height, :width]
    made = []
    for number in range(count):
        one = np.stack([70 + down * 60 // height, 60 + across * 80 // width, np.full_like(down, 90)], axis=-1)
        for bit in range(6):
            one[:, width * bit // 6 : width * (bit + 1) // 6] += 50 * (number >> bit & 1)
        one[height * (number % 8) // 8 : height * (number % 8 + 1) // 8] += 30
        made.append(one.clip(0, 255).astype(np.uint8))
    return np.stack(made)


def make(path, size=(64, 96), count=40, rate=25, **more):
    quality = {"crf": 10} if more.get("codec", "libx264").startswith("lib") else {"b": 5_000_000}
    write_clip(path, drawn(count, *size), rate=rate, **quality | more)
    return path


def in_order(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.best("video"))]


def seen(path, count=5):
    facts, packed = sample_frames(path, frames=count, **SETTINGS)
    return facts, [np.asarray(Image.open(io.BytesIO(one))) for one in packed]


def decibels(one, other):
    """Return the PSNR of a picture against another, which takes its size."""
    resized = Image.fromarray(other).resize(one.shape[1::-1], Image.Resampling.BICUBIC)
    error = np.mean((one.astype(float) - np.asarray(resized)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {name: make(folder / name, **more) for name, more in CLIPS.items()}


@pytest.mark.parametrize("name", CLIPS)
def test_frames_are_those_that_pyav_gives_in_order(made, name):
    true, total = in_order(made[name]), CLIPS[name].get("count", 40)
    assert len(true) == total
    pictures = drawn(total, *CLIPS[name].get("size", (64, 96)))
    for count in (1, 2, 5, 8, 64):
        facts, found = seen(made[name], count)
        assert facts["frames"] == total and facts["sampled"] == frame_indices(total, count)
        assert min(decibels(one, true[place]) for place, one in zip(facts["sampled"], found, strict=True)) > 38
        if min(pictures.shape[1:3]) >= 16 and CLIPS[name].get("pix_fmt") != "gray":
            for place, one in zip(facts["sampled"], found, strict=True):
                assert int(np.argmax([decibels(one, other) for other in pictures])) == place


# Two rates, a held picture, jitter, a late end; the first picture later than 0.
TIMES = {
    "two-rates": [*range(0, 1000, 40), *range(1000, 4000, 200)],
    "held": [*range(0, 400, 40), *range(3000, 4200, 40)],
    "jitter": [40 * place + random.Random(place).randrange(-18, 18) for place in range(5, 45)],
    "late-end": [*range(100, 1660, 40), 9000],
}


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm", "flv"])
@pytest.mark.parametrize("name", TIMES)
def test_frames_are_spread_over_time_where_the_rate_varies(tmp_path, name, ending):
    times = TIMES[name]
    codec = {"codec": "libvpx-vp9"} | FAST if ending == "webm" else {}
    path = make(tmp_path / f"a.{ending}", count=len(times), times=times, **codec)
    pictures, true = drawn(len(times)), in_order(path)
    for count in (1, 4, 9):
        facts, found = seen(path, count)
        targets = np.linspace(times[0], times[-1], count) if count > 1 else [(times[0] + times[-1]) / 2]
        for target, place, one in zip(targets, facts["sampled"], found, strict=True):
            assert abs(times[place] - target) <= min(abs(time - target) for time in times) + 1
            assert decibels(one, true[place]) > 38
            assert int(np.argmax([decibels(one, other) for other in pictures])) == place
    assert seen(path, 64)[0]["sampled"] == list(range(len(times)))
    span = (times[-1] - times[0]) / 1000
    assert facts["seconds"] == pytest.approx(span * len(times) / (len(times) - 1), abs=0.25)


def test_frames_of_a_constant_rate_are_told_by_their_index():
    assert frame_indices(10, 4) == [0, 3, 6, 9]
    assert frame_indices(3, 8) == [0, 1, 2]
    assert frame_indices(9, 1) == [4] and frame_indices(1, 5) == [0]
    for rate in (23.976, 24, 29.97, 30, 59.94, 60, 120):
        for total in (2, 3, 40, 41, 1000):
            rounded = [round(1000 * place / rate) for place in range(total)]
            for count in (1, 2, 3, 8, 16):
                assert frames_in_time(rounded, count) == frame_indices(total, count)
    # Without times, or with such as contradict each other, nothing is known of the rate.
    assert frames_in_time([None] * 10, 4) == frames_in_time([0, 5, 5, 6, 7, 8, 9, 20, 30, 99], 4) == [0, 3, 6, 9]
    # One dropped picture is enough to go by time.
    assert frames_in_time([0, 1, 2, 3, 4, 5, 6, 7, 9, 10], 11) == list(range(10))
    assert frames_in_time([0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21], 8) == [0, 3, 6, 8, 8, 9, 9, 10]


def turned(picture, degrees, across, down):
    """Return a picture turned counter-clockwise, then mirrored."""
    picture = np.rot90(picture, degrees // 90)
    return picture[:: -1 if down else 1, :: -1 if across else 1]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [(False, False), (True, False), (False, True)])
def test_a_turned_clip_is_seen_as_a_player_shows_it(tmp_path, ending, degrees, mirrored):
    path = make(tmp_path / f"a.{ending}", before=lambda stream: stream.set_display_rotation(degrees, *mirrored))
    facts, found = seen(path)
    true = [turned(one, degrees, *mirrored) for one in in_order(path)]
    assert (facts["height"], facts["width"]) == true[0].shape[:2]
    assert min(decibels(one, true[place]) for place, one in zip(facts["sampled"], found, strict=True)) > 38


def test_a_clip_that_stands_askew_is_refused(tmp_path):
    path = make(tmp_path / "a.mp4", before=lambda stream: stream.set_display_rotation(30))
    with pytest.raises(ValueError, match="is turned by an angle that is no multiple of 90°"):
        seen(path)


def test_a_matrix_of_zeros_turns_nothing(tmp_path):
    path = make(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    assert struct.unpack(">9i", data[matrix : matrix + 36])[0] == 65536
    data[matrix : matrix + 36] = bytes(36)
    before = seen(path)
    path.write_bytes(bytes(data))
    assert all(np.array_equal(*pair) for pair in zip(before[1], seen(path)[1], strict=True))


def test_pixels_that_are_not_square_are_seen_square(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = 2

    facts, found = seen(make(tmp_path / "a.mp4", before=wide))
    assert (facts["height"], facts["width"]) == (64, 192)
    true = in_order(tmp_path / "a.mp4")
    assert min(decibels(one, true[place]) for place, one in zip(facts["sampled"], found, strict=True)) > 38


def test_what_an_edit_list_hides_is_not_seen(tmp_path):
    path = make(tmp_path / "a.mp4", g=12)
    data = bytearray(path.read_bytes())
    # Version, flags, number of edits, duration; then the time in the medium from which on it is shown.
    start = data.index(b"elst") + 16
    (begin,) = struct.unpack(">i", data[start : start + 4])
    data[start : start + 4] = struct.pack(">i", begin + 5 * 512)
    path.write_bytes(bytes(data))
    facts, found = seen(path)
    assert facts["frames"] == 35
    for place, one in zip(facts["sampled"], found, strict=True):
        assert int(np.argmax([decibels(one, other) for other in drawn(40)])) == place + 5


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_clip_that_begins_inside_another_is_seen_from_its_first_whole_frame(tmp_path, ending):
    whole, path, keys = make(tmp_path / "whole.mp4", **OPEN), tmp_path / f"a.{ending}", 0
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        given = source.streams.video[0]
        stream = target.add_stream_from_template(given)
        for packet in source.demux(given):
            keys += packet.is_keyframe
            if keys > 1 and packet.size:
                packet.stream = stream
                target.mux(packet)
    try:
        facts, found = seen(path)
    except ValueError as error:
        # The parameters of its pictures stand in the part that is not there.
        assert ending == "ts" and "is cut or damaged" in str(error)
        return
    first = 40 - facts["frames"]
    assert first == 12
    for place, one in zip(facts["sampled"], found, strict=True):
        assert int(np.argmax([decibels(one, other) for other in drawn(40)])) == place + first


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("default", [0, 1])
def test_of_several_streams_the_default_one_is_seen(tmp_path, ending, default):
    path, pictures = tmp_path / f"a.{ending}", [drawn(10), 255 - drawn(10, 128, 192)]
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10, options={"crf": "10"}) for _ in pictures]
        for number, (stream, shown) in enumerate(zip(streams, pictures, strict=True)):
            stream.height, stream.width, stream.pix_fmt = *shown.shape[1:3], "yuv420p"
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream, shown in zip(streams, pictures, strict=True):
            for one in shown:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
            container.mux(stream.encode())
    facts, found = seen(path)
    assert min(decibels(one, pictures[default][place]) for place, one in zip(facts["sampled"], found, strict=True)) > 30


def test_frames_of_another_size_in_the_same_stream_take_the_size_of_the_first(tmp_path):
    parts = [make(tmp_path / f"{side}.h264", size=(side, 96), count=10).read_bytes() for side in (64, 128)]
    (tmp_path / "a.h264").write_bytes(b"".join(parts))
    facts, found = seen(tmp_path / "a.h264", 20)
    true = in_order(tmp_path / "a.h264")
    assert facts["frames"] == 20 and {one.shape for one in found} == {(64, 96, 3)} and true[19].shape == (128, 96, 3)
    assert min(decibels(one, true[place]) for place, one in zip(facts["sampled"], found, strict=True)) > 38


def test_what_is_no_clip_of_its_own_is_refused(tmp_path):
    clip = make(tmp_path / "clip.mp4", count=5)
    playlist = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", clip.name, "#EXT-X-ENDLIST"]
    (tmp_path / "playlist.mp4").write_text("\n".join(playlist))
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {clip.name}\n")
    (tmp_path / "text.mp4").write_text("a text\n" * 50)
    Image.fromarray(drawn(1)[0]).save(tmp_path / "picture.bmp")
    (tmp_path / "picture.bmp").rename(tmp_path / "picture.mp4")
    for name, cover in (("sound.mp4", False), ("cover.mp4", True)):
        with av.open(str(tmp_path / name), "w") as container:
            sound, picture = container.add_stream("aac", rate=16000), None
            if cover:
                picture = container.add_stream("mjpeg", rate=1)
                picture.height, picture.width, picture.pix_fmt = 64, 96, "yuvj420p"
                picture.disposition = Disposition.attached_pic
                container.mux(picture.encode(av.VideoFrame.from_ndarray(drawn(1)[0], format="rgb24")))
            for _ in range(20):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate = 16000
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
    names = ["playlist.mp4", "list.mp4", "text.mp4", "picture.mp4", "sound.mp4", "cover.mp4"]
    for name in names:
        with pytest.raises(ValueError, match="holds no video that can be decoded, or no frame"):
            seen(tmp_path / name)


def test_what_stands_behind_a_clip_changes_nothing(made, tmp_path):
    for name in ("closed.mp4", "closed.mkv", "closed.avi", "closed.flv", "hevc.mp4", "vp9.webm", "mpeg2.mpg"):
        path = tmp_path / name
        path.write_bytes(made[name].read_bytes() + random.Random(0).randbytes(5000))
        assert seen(path)[0]["sampled"] == [0, 10, 20, 29, 39]
        assert all(np.array_equal(*pair) for pair in zip(seen(made[name])[1], seen(path)[1], strict=True))


# Where nothing in the file tells how long it is to be, what was cut off between two pictures is not missed.
OPEN_ENDED = ("mpg", "h264", "ts", "wmv")
TRIED = [name for name, more in CLIPS.items() if not more.keys() & {"count", "size", "rate"}]


@pytest.mark.parametrize("name", TRIED)
def test_a_cut_clip_is_refused_or_gives_pictures_that_the_whole_one_has(made, tmp_path, name):
    whole, true = made[name].read_bytes(), in_order(made[name])
    edges = [len(whole) // 188 * share // 20 * 188 for share in range(3, 20)] if name.endswith(".ts") else []
    for end in [*(int(len(whole) * share) for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.995)), *edges]:
        path = tmp_path / made[name].name
        path.write_bytes(whole[:end])
        try:
            facts, found = seen(path, 8)
        except ValueError as error:
            assert str(error).startswith(("is cut or damaged", "holds no video that can be decoded"))
            continue
        assert name.endswith(OPEN_ENDED) or facts["frames"] == 40
        assert min(max(decibels(one, other) for other in true) for one in found) > 38


def test_a_transport_stream_that_ends_inside_a_packet_is_refused(made, tmp_path):
    for name in ("closed.ts", "hevc.ts", "mpeg2.ts"):
        (tmp_path / name).write_bytes(made[name].read_bytes()[:-1])
        with pytest.raises(ValueError, match="is cut or damaged"):
            seen(tmp_path / name)


# Of these formats a byte that changed inside of a picture is a picture too; the others notice most of them.
NOTICED = [name for name in TRIED if name.split(".")[0] in ("closed", "open", "av1", "mpeg4", "ffv1", "prores")]


@pytest.mark.parametrize("name", NOTICED)
def test_a_clip_with_a_hole_is_refused(made, tmp_path, name):
    whole = bytearray(made[name].read_bytes())
    path = tmp_path / made[name].name
    whole[len(whole) // 3 : 2 * len(whole) // 3] = bytes(2 * len(whole) // 3 - len(whole) // 3)
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match="is cut or damaged|holds no video"):
        seen(path)
