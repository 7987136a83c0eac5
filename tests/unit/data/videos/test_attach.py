"""Videos beside rows: which frames are seen, what is refused and why, and that nothing is decoded twice."""

import io
import multiprocessing
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from clip_dataset import GOOD, SETTINGS, clip, prepare
from clips import light_pictures, write_clip
from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.data.parquet import read_rows
from moult.data.videos import attach
from moult.data.videos import fetch as video_files
from moult.data.videos.attach import attach_videos, video_names
from moult.data.videos.decoder import Decoder, fitting_size, sample_frames
from moult.data.videos.frames import Frames
from PIL import Image
from sources import REVISION, serving_hub


@pytest.fixture
def folder(tmp_path):
    """Six good clips, D_0.mp4 to D_5.mp4, red and green in turn."""
    for number in range(6):
        clip(tmp_path / "video" / f"D_{number}.mp4", ("red", "green")[number % 2], seed=number)
    return tmp_path


def test_sizes_are_those_of_transformers():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    chance = np.random.default_rng(0)
    for height, width in chance.integers(10, 2000, (500, 2)).tolist():
        for low, high in ((3136, 151_200), (100_352, 602_112), (784, 784)):
            theirs = smart_resize(max(height, 28), max(width, 28), 28, low, high)
            assert fitting_size(max(height, 28), max(width, 28), 28, low, high) == theirs


def test_what_is_sampled_is_what_the_clip_shows(tmp_path):
    pictures = light_pictures("green", "steady", seed=3, count=7)
    write_clip(tmp_path / "a.mp4", pictures)
    facts, packed = sample_frames(tmp_path / "a.mp4", **SETTINGS | {"frames": 3})
    assert facts == {"seconds": 1.167, "fps": 6.0, "frames": 7, "sampled": [0, 3, 6], "height": 56, "width": 84}
    for place, picture in zip(facts["sampled"], packed, strict=True):
        error = np.abs(np.asarray(Image.open(io.BytesIO(picture))).astype(int) - pictures[place].astype(int))
        assert error.mean() < 6


def test_rows_get_their_videos_and_the_frames_are_found_again(folder):
    rows, rejects, profile = prepare(folder, GOOD)
    assert len(rows) == 6 and rejects == [] and profile["splits"]["train"]["rows"] == 6
    frames = Frames([folder / "out"])
    for number, row in enumerate(rows):
        (medium,) = row["media"]
        assert (medium["type"], medium["path"], medium["duration_s"]) == ("video", f"D_{number}.mp4", 2.0)
        assert frames.size(medium["frames"]) == (4, 56, 84)
        # The light is the brightest thing in its own colour.
        brightest = frames.pictures(medium["frames"]).reshape(-1, 3).max(axis=0).argmax()
        assert brightest == number % 2
    with Image.open(folder / "out" / "frames.jpg") as sheet:
        assert sheet.size == (4 * (126 + 4), 6 * (84 + 18))
    told = read_jsonl(folder / "out" / "videos.jsonl")
    assert [(one["video"], one["frames"], one["sampled"]) for one in told] == [
        (f"D_{number}.mp4", 12, [0, 4, 7, 11]) for number in range(6)
    ]
    assert all(one["bytes"] == (folder / "video" / one["video"]).stat().st_size for one in told)


def test_the_same_rows_give_the_same_bytes(folder):
    def built():
        prepare(folder, GOOD)
        return {file.name: file.read_bytes() for file in (folder / "out").rglob("*") if file.is_file()}

    first = built()
    shutil.rmtree(folder / "scratch")
    assert built() == first and any(name.endswith(".arrow") for name in first)


PAGE = (Path(__file__).parents[4] / "docs" / "hostile-data.md").read_text(encoding="utf-8")


def documented():
    """Return the reasons of the page's table, in order."""
    section = PAGE.split("## Videos")[1]
    return re.findall(r"^\| .* \| \.\w+ \| `(.*)` \|$", section, re.MULTILINE)


def broken(folder):
    """Write one file of each kind that is no usable clip; return their names, in the order of the page's table."""
    place = folder / "video"
    whole = (place / "D_0.mp4").read_bytes()
    write_clip(place / "zero.mp4", light_pictures("red", "steady", 1)[:0])
    (place / "empty.mp4").write_bytes(b"")
    (place / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (place / "page.mp4").write_text("<!DOCTYPE html><p>log in</p>")
    (place / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\n")
    (place / "picture.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (place / "clip.txt").write_text("not a video at all\n")
    garbled = bytearray(whole)
    start, end = garbled.find(b"mdat") + 4, garbled.find(b"moov") - 4
    garbled[start:end] = b"\xff" * (end - start)
    (place / "garbled.mp4").write_bytes(bytes(garbled))
    clip(place / "cut.mkv")
    (place / "cut.mkv").write_bytes((place / "cut.mkv").read_bytes()[:-200])
    pictures = light_pictures("red", "steady", 1)
    write_clip(place / "askew.mp4", pictures, before=lambda stream: stream.set_display_rotation(30))
    (place / "list.mp4").write_text("ffconcat version 1.0\nfile D_0.mp4\n")
    found = ["zero.mp4", "empty.mp4", "cut.mp4", "cut.mkv", "garbled.mp4", "askew.mp4", "page.mp4", "pointer.mp4"]
    return [*found, "picture.mp4", "list.mp4", "clip.txt", "absent.mp4", "../video/D_1.mp4"]


def test_every_row_without_a_usable_video_is_rejected_with_its_reason(folder):
    reasons = dict(zip(broken(folder), documented(), strict=True))
    bad = [f"bad{number}\tLook.\tred\t{name}" for number, name in enumerate(reasons)]
    rows, rejects, profile = prepare(folder, GOOD[:3] + bad + GOOD[3:])
    assert len(rows) == 6 and [row["uid"][-1] for row in rows] == list("012345")
    assert {reject["row"]["video"]: reject["reason"] for reject in rejects} == reasons
    assert rejects[0]["source"] == "train.tsv:5"
    assert sum(profile["rejects"].values()) == len(reasons) and profile["rows_in"] == {"train": 19}


def test_a_dataset_without_one_usable_video_says_why(folder):
    with pytest.raises(UserError, match="no usable row, all 2 were rejected, 2 of them for: the video is missing"):
        prepare(folder, ["8\tLook.\tred\t", "9\tLook.\tred\tnone.mp4"])


def test_a_file_that_kills_the_decoder_costs_its_own_row_alone(folder, monkeypatch):
    """The library's death is a real death: the process that decodes is killed while it holds the file."""
    decoder = Decoder()
    assert len(decoder(folder / "video" / "D_0.mp4", SETTINGS)[1]) == 4
    decoder.process.kill()
    decoder.process.wait()
    with pytest.raises(ValueError, match="is damaged: it crashes the decoder"):
        decoder(folder / "video" / "D_1.mp4", SETTINGS)
    assert len(decoder(folder / "video" / "D_1.mp4", SETTINGS)[1]) == 4
    decoder.close()
    monkeypatch.setattr("moult.data.videos.decoder.SECONDS", 0.01)
    slow = Decoder()
    with pytest.raises(ValueError, match="takes longer than"):
        slow(folder / "video" / "D_1.mp4", SETTINGS)
    slow.close()


def test_a_limit_takes_rows_with_a_video_and_decodes_little_more(folder):
    clip(folder / "video" / "D_6.mp4")
    (folder / "video" / "D_2.mp4").unlink()
    rows, rejects, profile = prepare(folder, [*GOOD, "6\tLook.\tred\t"], limit=3)
    assert len(rows) == 3 and all(row["media"] for row in rows)
    told = profile["splits"]["train"]
    assert told["rows"] + told["left_out_by_limit"] + len(rejects) == 7
    assert len(read_jsonl(folder / "out" / "videos.jsonl")) <= 6


def test_selection_rows_carved_out_of_train_add_up(folder):
    (folder / "video" / "D_2.mp4").unlink()
    rows, rejects, profile = prepare(folder, GOOD, dev_fraction=0.5)
    dev = read_rows(folder / "out", "dev")
    assert len(rows) + len(dev) == 5 and len(rejects) == 1 and rejects[0]["split"] == "train"


def test_names_are_those_of_mmla():
    def names(own, dataset, **meta):
        return video_names({"uid": f"d:train:{own}", "meta": meta}, dataset)

    assert names("dia0_utt3", "MELD")[0] == "MELD_dia0_utt3.mp4"
    assert "MUSTARD_1_340.mp4" in names("MUSTARD_1_340", "MUStARD")
    assert "Ch-sims_video_0001_0012.mp4" in names("video_0001/0012", "Ch-sims")
    assert "Ch-sims_video_0001_0012.mp4" in names("video_0001$_$0012", "Ch-sims")
    assert names("WKA5$_$20", "MOSI")[0] == "MOSI_WKA5$_$20.mp4"
    assert names("1", "D", video="clips/x.mp4") == ["clips/x.mp4"]


def test_a_killed_job_goes_on_behind_its_last_chunk_and_starts_anew_when_a_file_changed(folder, monkeypatch):
    monkeypatch.setattr(attach, "CHUNK", 2)
    rows = [{"uid": f"d:train:{number}", "split": "train", "meta": {}} for number in range(6)]
    calls, interrupted = [], []
    decode = Decoder.__call__

    def counted(self, path, settings):
        calls.append(path.name)
        if path.name == "D_4.mp4" and not interrupted:
            raise KeyboardInterrupt
        return decode(self, path, settings)

    monkeypatch.setattr(Decoder, "__call__", counted)
    arguments = (rows, folder / "video", SETTINGS, "D", folder / "scratch")
    with pytest.raises(KeyboardInterrupt):
        attach_videos(*arguments)
    calls.clear()
    interrupted.append(False)
    kept, *_ = attach_videos(*arguments)
    assert len(kept) == 6 and sorted(calls) == ["D_4.mp4", "D_5.mp4"]
    calls.clear()
    clip(folder / "video" / "D_0.mp4", "green", seed=9)
    again, *_ = attach_videos(*arguments)
    assert len(calls) == 6
    assert [a["media"] == b["media"] for a, b in zip(kept, again, strict=True)] == [False] + [True] * 5


def read_one(folder, seen, out):
    out.put(int(Frames([folder]).pictures(seen).sum()))


def test_jobs_side_by_side_read_the_same_frames(folder):
    rows, *_ = prepare(folder, GOOD)
    seen = rows[0]["media"][0]["frames"]
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    readers = [context.Process(target=read_one, args=(folder / "out", seen, out)) for _ in range(4)]
    for reader in readers:
        reader.start()
    found = {out.get(timeout=60) for _ in readers}
    for reader in readers:
        reader.join()
    assert found == {int(Frames([folder / "out"]).pictures(seen).sum())}


def test_frames_of_another_dataset_are_asked_for_by_a_sentence(folder):
    prepare(folder, GOOD)
    with pytest.raises(UserError, match="are in no dataset of this job"):
        Frames([folder / "out"]).pictures("0" * 64)


def test_equal_frames_have_one_digest(folder):
    (folder / "video" / "D_1.mp4").write_bytes((folder / "video" / "D_0.mp4").read_bytes())
    rows, *_ = prepare(folder, GOOD[:3])
    digests = [row["media"][0]["frames"] for row in rows]
    assert digests[0] == digests[1] != digests[2]


def test_videos_come_from_a_folder_of_a_hub_dataset(folder, tmp_path_factory, monkeypatch):
    hub = tmp_path_factory.mktemp("hub")
    shutil.copytree(folder / "video", hub / "D" / "video")
    (hub / "D" / "train.tsv").write_text("id\n")
    source = {"hub": "org/clips", "revision": REVISION, "folder": "D/video", "token": None}
    with serving_hub(hub, folder / "cache", monkeypatch):
        assert video_files.fetch_videos(source, folder / "fetched") == {"files": 6}
        with pytest.raises(UserError, match="org/clips, E/video: has no files at this revision; correct `folder`"):
            video_files.fetch_videos(source | {"folder": "E/video"}, folder / "none")
        with pytest.raises(UserError, match="org/none, D/video: cannot be fetched"):
            video_files.fetch_videos(source | {"hub": "org/none"}, folder / "none")
    with pytest.raises(UserError, match="`revision` is null; run `make pin`"):
        video_files.fetch_videos(source | {"revision": None}, folder / "none")
    assert {file.name for file in (folder / "fetched").iterdir()} == {f"D_{number}.mp4" for number in range(6)}
    assert (folder / "fetched" / "D_1.mp4").read_bytes() == (folder / "video" / "D_1.mp4").read_bytes()
    assert not (folder / "none").exists()
