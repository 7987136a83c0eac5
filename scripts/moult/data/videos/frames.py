"""Decoded frames, mapped into memory by every job that shows them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moult.base.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def arrow_table(path: str | Path) -> pa.Table:
    """Return an Arrow file as a table that stays on disk: what is read of it comes through the page cache."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


class Frames:
    """The frames that stand in prepared datasets, found by their digest; jobs side by side read the same pages."""

    def __init__(self, folders: Iterable[str | Path]) -> None:
        self.files = [file for folder in folders for file in sorted(Path(folder, "frames").glob("*.arrow"))]

    @cached_property
    def places(self) -> dict[str, tuple[pa.Table, int]]:
        """Digest → (table, row)."""
        found = {}
        for table in map(arrow_table, self.files):
            found |= {key: (table, row) for row, key in enumerate(table["digest"].to_pylist()) if key}
        return found

    def size(self, seen: str) -> tuple[int, int, int]:
        """Return (frames, height, width) of what was sampled of a video."""
        table, row = self._place(seen)
        return len(table["jpeg"][row]), table["height"][row].as_py(), table["width"][row].as_py()

    def pictures(self, seen: str) -> np.ndarray:
        """Return the frames of a video as uint8 (frames, height, width, 3)."""
        import numpy as np
        from PIL import Image

        table, row = self._place(seen)
        return np.stack([np.asarray(Image.open(io.BytesIO(one.as_buffer()))) for one in table["jpeg"][row]])

    def _place(self, seen):
        if seen not in self.places:
            raise UserError(f"frames {seen[:12]} are in no dataset of this job; prepare the dataset again.")
        return self.places[seen]


def contact_sheet(rows: Sequence[Mapping[str, Any]], frames: Frames, most: int = 6, height: int = 84) -> bytes:
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
