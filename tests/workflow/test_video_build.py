"""Videos through the real Snakefile: rows without a usable one are rejected, the rest trains and is asked."""

import json
import os
import shutil

import pytest
from clips import light_pictures, write_clip
from moult.data.parquet import read_rows
from pico import build_pico_vlm
from pico_build import Folder, write_config
from pico_variants import VIDEO_HUB, video_config
from sources import Hub, serving


def write_clips(folder):
    """Write config, model and eight clips, one of them cut and one missing."""
    (folder / "video").mkdir()
    (folder / "data").mkdir()
    for split, numbers in {"train": range(6), "test": range(6, 10)}.items():
        lines = [f"{number}\tLook.\t{('red', 'green')[number % 2]}\tlamps_{number}.mp4" for number in numbers]
        (folder / "data" / f"{split}.tsv").write_text("\n".join(["id\ttext\tlabel\tvideo", *lines]) + "\n")
        for number in numbers:
            pictures = light_pictures(("red", "green")[number % 2], "steady", seed=number)
            write_clip(folder / "video" / f"lamps_{number}.mp4", pictures)
    cut = folder / "video" / "lamps_1.mp4"
    cut.write_bytes(cut.read_bytes()[:700])
    (folder / "video" / "lamps_7.mp4").unlink()
    build_pico_vlm(folder / "models" / "eyes")
    write_config(folder / "pico.yaml", video_config())


@pytest.fixture(scope="module")
def filmed(build_once):
    """A whole build on the clips."""
    return build_once("filmed", write_clips, None)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_is_predicted_or_rejected(filmed):
    results = filmed.path / "results" / "clips"
    rejects = {one["row"]["video"]: one["reason"] for one in lines_of(results / "datasets/lamps/rejects.jsonl")}
    assert rejects == {
        "lamps_1.mp4": "the video holds no video that can be decoded, or no frame",
        "lamps_7.mp4": "the video is missing",
    }
    for model in ("eyes", "tuned"):
        rows = lines_of(results / "predictions" / "labels" / f"{model}.jsonl")
        assert {(row["uid"], row["method"]) for row in rows} == {
            (f"lamps:test:{number}", method) for number in (6, 8, 9) for method in ("generate", "likelihood")
        }
        assert not [row for row in rows if row["status"] == "error"]
    page = (results / "report" / "index.html").read_text()
    assert "Frames of lamps" in page and "4 frames spread evenly" in page and "data:image/jpeg;base64,/9j/" in page


def test_nothing_is_left_to_do_until_a_clip_comes(filmed):
    assert filmed.planned() == set()
    write_clip(filmed.path / "video" / "lamps_7.mp4", light_pictures("green", "steady", seed=7))
    assert "datasets/lamps" in filmed.planned()
    run = filmed.snakemake("results/clips/predictions/labels/eyes.jsonl")
    assert run.returncode == 0, run.stdout + run.stderr
    log = (filmed.path / "logs" / "clips" / "predict_labels" / "labels" / "eyes.log").read_text()
    assert "4 requests, 3 of them answered before, 1 to ask" in log


def test_videos_of_a_hub_are_those_of_a_folder(filmed, tmp_path, monkeypatch):
    hub, work = tmp_path / "hub", tmp_path / "work"
    shutil.copytree(filmed.path / "video", hub / "D" / "video")
    shutil.copytree(filmed.path / "data", work / "data")
    write_config(work / "pico.yaml", video_config(VIDEO_HUB) | {"models": [], "suites": [], "evaluations": []})
    monkeypatch.setattr(Hub, "folder", hub)
    build = Folder(work, None)
    inherited = build.environment()
    with serving(Hub) as endpoint:
        build.environment = lambda: (
            inherited | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint}
        )
        run = build.snakemake("results/clips/datasets/lamps")
    assert run.returncode == 0, run.stdout + run.stderr
    made, expected = (folder / "results" / "clips" for folder in (work, filmed.path))
    fetched = {path.name: path.read_bytes() for path in (made / "videos" / "lamps").glob("*.mp4")}
    assert fetched == {path.name: path.read_bytes() for path in (filmed.path / "video").iterdir()}
    for split in ("train", "dev"):
        assert read_rows(made / "datasets/lamps", split) == read_rows(expected / "datasets/lamps", split) != []


@pytest.mark.soak
def test_a_broken_dataset_stops_itself_alone(filmed, tmp_path):
    """No video at all, rows of train in test: each ends in its sentence, and the sound one is made.

    A wrong column and unknown labels are told before anything begins.
    """
    leave = shutil.ignore_patterns("results", "models")
    copy = Folder(shutil.copytree(filmed.path, tmp_path / "copy", ignore=leave), None)
    config = copy.config
    lamps = config["datasets"][0]
    rows = (copy.path / "data" / "train.tsv").read_text()
    (copy.path / "data" / "columns.tsv").write_text(rows.replace("text", "utterance"))
    (copy.path / "data" / "labels.tsv").write_text(rows.replace("red", "crimson").replace("green", "lime"))
    (copy.path / "nothing").mkdir()
    config["datasets"] += [
        lamps | {"name": "columns", "files": {"train": "data/columns.tsv"}},
        lamps | {"name": "labels", "files": {"train": "data/labels.tsv"}},
        lamps | {"name": "unfilmed", "videos": {"path": "nothing"}},
        lamps
        | {"name": "leaky", "files": {"train": "data/train.tsv", "test": "data/train.tsv"}}
        | {"leakage": {"found": "fail"}},
    ]
    copy.config = config | {"models": [], "suites": [], "evaluations": []}
    run = copy.snakemake("--keep-going", "datasets")
    assert run.returncode != 0
    assert "datasets 'columns', files, train: data/columns.tsv: row 2: no column 'text'" in run.stderr
    assert "datasets 'labels', files, train: data/labels.tsv: none of its 6 rows is usable" in run.stderr
    sound = [one for one in config["datasets"] if one["name"] not in ("columns", "labels")]
    copy.config = copy.config | {"datasets": sound}
    run = copy.snakemake("--keep-going", "datasets")
    told = run.stdout + run.stderr
    assert run.returncode != 0
    for sentence in (
        "prepare_dataset unfilmed: dataset unfilmed, test: no usable row, all 4 were rejected",
        "check_leakage leaky: dataset leaky:",
    ):
        assert sentence in told, told
    results = copy.path / "results" / "clips"
    assert {path.name for path in (results / "datasets").iterdir() if path.is_dir()} == {"lamps", "leaky"}
    assert (results / "leakage" / "lamps.csv").exists() and not (results / "leakage" / "leaky.csv").exists()


def test_an_absent_folder_of_videos_stops_before_the_graph(filmed, tmp_path):
    config = video_config()
    config["datasets"][0]["videos"]["path"] = "elsewhere"
    for name in ("data", "models"):
        os.symlink(filmed.path / name, tmp_path / name)
    write_config(tmp_path / "pico.yaml", config)
    run = Folder(tmp_path, None).snakemake("-n")
    told = f"its videos' folder elsewhere does not exist (looked in {tmp_path}); put it there"
    assert run.returncode != 0 and told in run.stdout + run.stderr
