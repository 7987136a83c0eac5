"""A model's weights, written tensor by tensor and block by block, each to its place in a safetensors file."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mergekit.io.tensor_writer import TensorWriter
from safetensors import TensorSpec, serialize_file

from moult.weights.calling_mergekit import give_memory_back
from moult.weights.headers import FLOATS

# torch's dtype → its name in safetensors.
_DTYPES = {getattr(torch, theirs): name for name, theirs in FLOATS.items()}


@dataclass
class Place:
    """Where the next block of a tensor goes. Its file is open only while that is written: sweeps have many."""

    file: Path
    at: int

    def write(self, block: torch.Tensor) -> None:
        """Write a block, and go on behind it."""
        content = memoryview(block.contiguous().flatten().view(torch.uint8).numpy())
        with open(self.file, "r+b") as handle:
            handle.seek(self.at)
            handle.write(content)
        self.at += len(content)


class Placed(TensorWriter):
    """Writes the files of mergekit's writer, byte for byte, but holds no tensor: each goes to its place when it comes.

    For that the header of a file is made from what is expected. A file whose tensors turn out to be others is written
    again.
    """

    def expect(self, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> None:
        """Say which tensors will come, in their order: name → dtype and shape."""
        self.shards: list[dict[str, tuple[torch.dtype, Sequence[int]]]] = [{}]
        size = 0
        for name, (dtype, shape) in tensors.items():
            its = math.prod(shape) * dtype.itemsize
            if self.shards[-1] and 0 < self.max_shard_size < size + its:
                self.shards.append({})
                size = 0
            self.shards[-1][name] = dtype, shape
            size += its

    def save_tensor(self, name: str, tensor: torch.Tensor, clone: bool = False) -> None:
        """Write a tensor; first the end of the shard before it, where it would not fit into that."""
        self.place(name, tensor.dtype, tensor.shape).write(tensor)

    def place(self, name: str, dtype: torch.dtype, shape: Sequence[int]) -> Place:
        """Return where a tensor goes, whose values come later."""
        super().save_tensor(name, torch.empty(shape, dtype=dtype, device="meta"))
        if len(self.current_shard) == 1:
            self._begin()
        expected = self.expected.get(name, (None, ()))
        if expected[0] != dtype or list(expected[1]) != list(shape):
            # Behind all that is expected.
            self.places[name] = self.size
            self.size += math.prod(shape) * dtype.itemsize
        return Place(self.file, self.places[name])

    def _begin(self):
        """Open the file of the next shard: the header that is expected, and room for the tensors behind it."""
        self.expected = self.shards[self.shards_written] if self.shards_written < len(self.shards) else {}
        header, self.places, self.size = _header(self.expected)
        self.file = Path(self.out_path, ".waiting")
        with open(self.file, "wb") as handle:
            handle.write(header)
            handle.truncate(self.size)

    def _save_st(self, shard_data, shard_path):
        """End the file of a shard; where its tensors are not those expected, write them again behind a new header."""
        came = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in shard_data.items()}
        if came == {name: (dtype, list(shape)) for name, (dtype, shape) in self.expected.items()}:
            self.file.rename(shard_path)
            return
        # What large tensors took is not needed beside the shard.
        give_memory_back()
        mapped = torch.from_file(str(self.file), shared=True, size=self.file.stat().st_size, dtype=torch.uint8)
        specs = {
            name: TensorSpec(
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=list(tensor.shape),
                data_ptr=mapped.data_ptr() + self.places[name],
                data_len=tensor.numel() * tensor.element_size(),
            )
            for name, tensor in shard_data.items()
        }
        serialize_file(specs, shard_path, metadata={"format": "pt"})
        self.file.unlink()


def _header(tensors):
    """Return the beginning of a file of tensors as safetensors writes it, name → place of each, and the file's size.

    Its format: the length of a JSON document in 8 bytes, the document, padded to a multiple of 8 with blanks, and then
    the tensors by their names (here all of one dtype).
    """
    told, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in sorted(tensors.items()):
        end = at + math.prod(shape) * dtype.itemsize
        told[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    begun = 8 + len(text)
    places = {name: begun + one["data_offsets"][0] for name, one in told.items() if name in tensors}
    return len(text).to_bytes(8, "little") + text, places, begun + at
