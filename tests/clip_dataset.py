"""A dataset of clips of a red or a green light, prepared."""

from clips import light_pictures, write_clip
from moult.base.files import read_jsonl
from moult.data.parquet import read_rows
from moult.data.prepare import prepare_dataset

SETTINGS = {"frames": 4, "max_pixels": 4704, "min_pixels": 784, "multiple": 28}
LABELS = {"dataset": "D", "task": "colour", "task_words": "colour", "language": "en", "labels": ["red", "green"]}
GOOD = [f"{number}\tLook.\t{('red', 'green')[number % 2]}\t" for number in range(6)]


def recipe(**more):
    plain = {"name": "d", "format": "mmla", "columns": {}, "files": {"train": ["train"]}, "label_set": LABELS}
    plain |= {"task": "colour", "language": "en", "dev_fraction": 0.0, "limit": None, "seed": 1, "version": 1}
    return plain | {"videos": SETTINGS, "videos_version": 1} | more


def clip(path, colour="red", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, light_pictures(colour, "steady", **{"seed": 1} | more))


def prepare(folder, lines, **more):
    raw = folder / "raw" / "train"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "00-train.tsv").write_text("\n".join(["id\ttext\tlabel\tvideo", *lines]) + "\n")
    profile = prepare_dataset(
        recipe(**more), folder / "raw", folder / "out", videos=folder / "video", scratch=folder / "scratch", workers=2
    )
    return read_rows(folder / "out", "train"), read_jsonl(folder / "out" / "rejects.jsonl"), profile
