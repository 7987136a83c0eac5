"""Frames decoded once and rows asked in batches, against decoding in each job and one row at a time.

`python benchmarks/videos.py` makes clips of 1280 × 720 (H.264, 3 s at 24 frames a second, something moves), and
measures side by side, one thread, seconds of CPU, medians of three turns:

decode   what one job waits for until a model can be given all clips: decoding, sizing and patches, each job for
         itself, against frames read from the prepared dataset, and patches. That both are equal is checked.
study    the same for the passes of one dataset of a study: zero-shot and a tuned model, each by two methods, and ten
         epochs of training with ten looks at dev (an eighth of the clips); what preparing costs counts once.
predict  the rows of a labels suite by generation and by label likelihood, 8 rows a batch and 1, with a Qwen2-VL of
         random weights (its seeing part 4 layers of 256, its language model 4 of 384).

Writes benchmarks/videos.csv and prints it as a table. A few minutes on one core.
"""

import argparse
import csv
import io
import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "scripts"), str(HERE.parent / "tests")]

import numpy as np  # noqa: E402
from clips import light_pictures, write_clip  # noqa: E402
from moult.data.parquet import read_rows  # noqa: E402
from moult.data.prepare import prepare_dataset  # noqa: E402
from moult.data.prompts import label_messages, load_template  # noqa: E402
from moult.data.videos.decoder import sample_frames  # noqa: E402
from moult.data.videos.frames import Frames  # noqa: E402
from moult.inference.engines.loading import load_engine  # noqa: E402
from moult.inference.requests import ChatRequest, LabelRequest, Sampling  # noqa: E402
from moult.inference.vision import Vision  # noqa: E402
from pico import build_pico_vlm  # noqa: E402
from PIL import Image  # noqa: E402

SETTINGS = {"frames": 8, "max_pixels": 151_200, "min_pixels": 3136, "multiple": 28}
LABELS = {
    "dataset": "d",
    "task": "colour",
    "task_words": "colour",
    "language": "en",
    "labels": ["red", "green", "blue"],
}
TURNS = 3
# Passes over all clips: two models by two methods, ten epochs, ten looks at an eighth.
PASSES = 2 * 2 + 10 + 10 / 8


def cpu(work):
    """Return (CPU seconds, result) of a call; children count when they have ended."""
    before = sum(os.times()[:4])
    result = work()
    return sum(os.times()[:4]) - before, result


def make_clips(folder, count):
    for number in range(count):
        pictures = light_pictures(LABELS["labels"][number % 3], "steady", seed=number, count=72, height=720, width=1280)
        noise = np.random.default_rng(number).integers(0, 24, (720, 1280, 1), dtype=np.uint8)
        write_clip(folder / f"d_{number}.mp4", pictures // 2 + noise, rate=24)


class Decoded:
    """What a job without a prepared dataset has: the clip it decoded last."""

    held = None

    def size(self, _):
        return self.held.shape[:3]

    def pictures(self, _):
        return self.held

    def load(self, path):
        _, packed = sample_frames(path, **SETTINGS)
        self.held = np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in packed])


def prepare(work, count):
    raw = work / "raw" / "train"
    raw.mkdir(parents=True, exist_ok=True)
    lines = [f"{number}\tLook at that.\t{LABELS['labels'][number % 3]}" for number in range(count)]
    (raw / "00-train.tsv").write_text("\n".join(["id\ttext\tlabel", *lines]) + "\n")
    recipe = {"name": "d", "format": "mmla", "columns": {}, "files": {"train": ["train"]}, "label_set": LABELS}
    recipe |= {"task": "colour", "language": "en", "dev_fraction": 0.0, "limit": None, "seed": 1, "videos": SETTINGS}
    scratch = Path(tempfile.mkdtemp(dir=work))
    prepare_dataset(recipe, work / "raw", work / "d", videos=work / "video", scratch=scratch)
    return read_rows(work / "d", "train")


def measure_decoding(work, model, count):
    """Yield the rows of `decode` and `study`."""
    preparing = [cpu(lambda: prepare(work, count))[0] for _ in range(TURNS)]
    rows = read_rows(work / "d", "train")
    seen = [row["media"][0] for row in rows]

    def own():
        decoded, sums = Decoded(), []
        vision = Vision(model, decoded)
        for medium in seen:
            decoded.load(work / "video" / medium["path"])
            sums.append(float(vision.patches(medium["path"]).sum()))
        return sums

    def stored():
        vision = Vision(model, Frames([work / "d"]))
        return [float(vision.patches(medium["frames"]).sum()) for medium in seen]

    turns = [(cpu(own), cpu(stored)) for _ in range(TURNS)]
    assert all(np.allclose(one[1], other[1]) for one, other in turns), "the two ways give other patches"
    each, read = (statistics.median(turn[way][0] for turn in turns) for way in (0, 1))
    once = statistics.median(preparing)
    yield "decode", "in each job", each, 1.0
    yield "decode", "from the dataset", read, each / read
    yield "study", "in each job", each * PASSES, 1.0
    yield "study", "from the dataset, prepared once", once + read * PASSES, each * PASSES / (once + read * PASSES)


def measure_predicting(work, model):
    """Yield the rows of `predict`."""
    rows = read_rows(work / "d", "train")
    asked = [label_messages(load_template("mmla/video"), row, LABELS) for row in rows]
    chats = [ChatRequest(tuple(messages), Sampling(max_tokens=8)) for messages, _ in asked]
    labels = [LabelRequest(tuple(messages), tuple(answers)) for messages, answers in asked]
    engine = load_engine(model, frames=Frames([work / "d"]))
    for method, ask in (
        ("generation, 8 tokens", lambda: list(engine.answer(chats))),
        ("label likelihood", lambda: list(engine.label_logprobs(labels))),
    ):
        seconds = {}
        for turn in range(TURNS):
            for batch in (1, 8) if turn % 2 else (8, 1):
                engine.batch_size = batch
                seconds.setdefault(batch, []).append(cpu(ask)[0])
        alone, together = (statistics.median(seconds[batch]) for batch in (1, 8))
        yield "predict", f"{method}, one row at a time", alone, 1.0
        yield "predict", f"{method}, 8 rows a batch", together, alone / together


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "video").mkdir()
        make_clips(work / "video", options.clips)
        seeing = {"depth": 4, "embed_dim": 256, "num_heads": 4}
        sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6, "num_hidden_layers": 4}
        model = build_pico_vlm(work / "model", sizes=sizes | {"max_position_embeddings": 4096}, seeing=seeing)
        found = [*measure_decoding(work, model, options.clips), *measure_predicting(work, model)]
    rows = [
        {
            "part": part,
            "way": way,
            "cpu_s_a_clip": round(seconds / options.clips, 4),
            "times_as_fast": round(ratio, 2),
        }
        for part, way, seconds, ratio in found
    ]
    with open(HERE / "videos.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("| part | way | CPU s a clip | times as fast |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
