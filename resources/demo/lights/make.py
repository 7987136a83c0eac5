"""Makes what lies beside it: clips of a light, two tables about them, and a model that can see them.

    PYTHONPATH=scripts:tests python resources/demo/lights/make.py

The clips show a light of one of three colours, steady or blinking. `signals` asks what it tells the driver, `warnings`
whether to take care, and the words spoken never give it away. The model is a Qwen2-VL of two layers that was taught on
other clips, drawn in memory, to say what it sees ("a red light, steady") and to repeat a word. It was taught neither of
the two tasks.
"""

import random
from pathlib import Path

import numpy as np
import torch
from clips import COLOURS, MODES, light_pictures, write_clip
from moult.data.prompts import Example, with_videos
from moult.inference.vision import Vision
from moult.training.encoding import collate, encode_examples
from pico import build_pico_vlm
from transformers import AutoModelForImageTextToText, AutoTokenizer

HERE = Path(__file__).parent
SIGNALS = {"red": "stop", "yellow": "wait", "green": "go"}
WARNINGS = {"steady": "calm", "blinking": "danger"}
SPLITS = {"train": 36, "dev": 12, "test": 24}
SPOKEN = [
    "Look at that.",
    "There it is.",
    "Do you see it too?",
    "What does it say?",
    "Now watch.",
    "That one over there.",
]
STEPS, ROWS = 1500, 16


class Drawn:
    """Pictures in memory, in the place of `videos.Frames`."""

    def __init__(self):
        self.held = {}

    def size(self, seen):
        return self.held[seen].shape[:3]

    def pictures(self, seen):
        return self.held[seen]


def write_data():
    """Write the clips and both tables."""
    (HERE / "video").mkdir(exist_ok=True)
    number, chance = 0, random.Random(5)
    for split, count in SPLITS.items():
        rows = {"signals": [], "warnings": []}
        for place in range(count):
            colour, mode = list(SIGNALS)[place % 3], MODES[place // 3 % 2]
            name = f"lights_{number:03d}.mp4"
            write_clip(HERE / "video" / name, light_pictures(colour, mode, seed=number))
            start = f"{number:03d}\t{chance.choice(SPOKEN)}\t{name}"
            rows["signals"].append(f"{start}\t{SIGNALS[colour]}")
            rows["warnings"].append(f"{start}\t{WARNINGS[mode]}")
            number += 1
        for name, lines in rows.items():
            (HERE / name).mkdir(exist_ok=True)
            (HERE / name / f"{split}.tsv").write_text("\n".join(["id\ttext\tvideo\tlabel", *lines]) + "\n")


def lesson(chance, drawn):
    """Return one example: a word to repeat, or a clip to describe."""
    if chance.random() < 0.3:
        word = chance.choice([*SIGNALS.values(), *WARNINGS.values(), *MODES, *COLOURS, "street", "light", "yes", "no"])
        return Example("w", [{"role": "user", "content": f"Say: {word}"}], word)
    colour, mode = chance.choice(list(COLOURS)), chance.choice(MODES)
    seen = f"{len(drawn.held)}"
    drawn.held[seen] = light_pictures(colour, mode, seed=chance.random())[[0, 4, 7, 11]]
    messages = with_videos([{"role": "user", "content": "What is there to see?"}], [seen])
    return Example("v", messages, f"a {colour} light, {mode}")


def make_model():
    """Teach a model to see, and write it in bfloat16."""
    seen = [f"a {colour} light, {mode}" for colour in COLOURS for mode in MODES]
    words = [*SIGNALS.values(), *WARNINGS.values(), "What is there to see? Say: street yes no"]
    build_pico_vlm(HERE / "model", texts=[*SPOKEN, *seen, *words])
    tokenizer = AutoTokenizer.from_pretrained(HERE / "model")
    model = AutoModelForImageTextToText.from_pretrained(HERE / "model")
    chance, drawn = random.Random(1), Drawn()
    vision = Vision(HERE / "model", drawn)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    losses = []
    for step in range(STEPS):
        drawn.held.clear()
        rows, _, _ = encode_examples(tokenizer, [lesson(chance, drawn) for _ in range(ROWS)], 256, vision)
        loss = model(**collate(rows, vision)).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"step {step + 1} of {STEPS}: loss {np.mean(losses[-100:]):.3f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(HERE / "model")


if __name__ == "__main__":
    write_data()
    make_model()
