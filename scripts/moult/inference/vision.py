"""What a vision-language model is given of a video: placeholder tokens in its prompt, and patches of pixels.

transformers' own video processor needs torchvision, which has no build for machines without CUDA; the arithmetic is
small and stands here, checked against transformers' image processor in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moult.base.errors import UserError
from moult.base.files import read_json
from moult.data.videos.frames import Frames
from moult.weights.architectures import auto_class as auto_class
from moult.weights.architectures import is_vision_language as is_vision_language

if TYPE_CHECKING:
    import numpy as np
    import torch

# Model types whose prompts and patches are built here.
SUPPORTED = ("qwen2_vl",)
# Of the weights that see: they stay frozen while the language model is trained.
VISION_TOWER = "visual"


class Vision:
    """Turns the frames of some datasets (see `videos.frames.Frames`) into what the model of a folder takes."""

    def __init__(self, folder: str | Path, frames: Frames) -> None:
        """UserError when the model takes no videos, or is of a kind that is not supported."""
        import torch

        # Else a GPU rounds the products of float32 patches to 10 bits: label scores were 0.004 nats off on an H100.
        torch.backends.cudnn.allow_tf32 = False
        folder = Path(folder)
        config = read_json(folder / "config.json")
        if config["model_type"] not in SUPPORTED:
            takes = "are not supported" if "vision_config" in config else "cannot be seen by a language model"
            raise UserError(
                f"{folder.name}: videos {takes} (model type {config['model_type']}); take a model of type "
                f"{' or '.join(SUPPORTED)}, or a dataset without `videos`."
            )
        settings = read_json(folder / "preprocessor_config.json", "fetch the model again")
        self.frames = frames
        self.token = config["video_token_id"]
        self.patch, self.merge, self.temporal = (
            settings[name] for name in ("patch_size", "merge_size", "temporal_patch_size")
        )
        self.mean, self.std = settings["image_mean"], settings["image_std"]

    def grid(self, seen: str) -> tuple[int, int, int]:
        """Return (time, height, width) of a video in patches; UserError when its frames do not fit the patches."""
        count, height, width = self.frames.size(seen)
        block = self.patch * self.merge
        if height % block or width % block:
            raise UserError(
                f"frames of {height} × {width} pixels do not divide into the model's blocks of {block}; "
                f"write `multiple: {block}` under the dataset's `videos`."
            )
        return -(-count // self.temporal), height // self.patch, width // self.patch

    def expand(self, ids: list[int], videos: Sequence[str]) -> list[int]:
        """Return prompt tokens with as many placeholders for each video as the model has embeddings for it."""
        if ids.count(self.token) != len(videos):
            raise UserError(
                f"the chat template writes {ids.count(self.token)} placeholders for {len(videos)} videos; "
                "take the template that belongs to the model."
            )
        left, expanded = iter(videos), []
        for token in ids:
            if token == self.token:
                time, height, width = self.grid(next(left))
                expanded += [token] * (time * height * width // self.merge**2)
            else:
                expanded.append(token)
        return expanded

    def collapse(self, ids: list[int]) -> list[int]:
        """Return prompt tokens with one placeholder per video again, as vLLM takes them."""
        return [token for place, token in enumerate(ids) if token != self.token or ids[place - 1] != self.token]

    def patches(self, seen: str) -> np.ndarray:
        """Return the normalised patches of a video as float32 (time × height × width, values of a patch).

        A frame without a partner in time is its own partner. Patches that merge into one token are neighbours.
        """
        import numpy as np

        time, height, width = self.grid(seen)
        pictures = self.frames.pictures(seen)
        pictures = np.concatenate([pictures, pictures[-1:].repeat(time * self.temporal - len(pictures), axis=0)])
        scaled = (pictures.astype(np.float32) / 255 - np.float32(self.mean)) / np.float32(self.std)
        blocks = scaled.reshape(
            *(time, self.temporal, height // self.merge, self.merge, self.patch),
            *(width // self.merge, self.merge, self.patch, 3),
        )
        return blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(time * height * width, -1)

    def inputs(self, ids: torch.Tensor, videos: Sequence[Sequence[str]]) -> dict[str, torch.Tensor]:
        """Return what a model takes beside `ids` (rows, length), of all rows' videos in order; nothing without one.

        videos: digests of each row's. `pixel_values_videos` (patches of all videos, values of a patch), float32;
        `video_grid_thw` (videos, 3): time, height and width in patches; `mm_token_type_ids` (rows, length): 2 where a
        placeholder of a video stands.
        """
        import numpy as np
        import torch

        shown = [seen for row in videos for seen in row]
        if not shown:
            return {}
        return {
            "pixel_values_videos": torch.from_numpy(np.concatenate([self.patches(seen) for seen in shown])),
            "video_grid_thw": torch.tensor([self.grid(seen) for seen in shown]),
            "mm_token_type_ids": torch.where(ids == self.token, 2, 0),
        }
