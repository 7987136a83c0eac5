"""Several merges in one pass over their parents: each tensor is read once, and each result is written as it comes.

The plan of each merge, its arithmetic and the order of its tensors are mergekit's. What it draws comes from a generator
of its own, so that a merge has the same bytes in whatever company it is made.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from mergekit.architecture import get_architecture_info
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor
from mergekit.io.tasks import FinalizeModel, GatherTensors, LoaderCache, SaveTensor
from mergekit.io.tensor_writer import TensorWriter
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from safetensors import TensorSpec, serialize_file

from moult.base.files import derive_seed
from moult.weights.calling_mergekit import give_memory_back
from moult.weights.headers import FLOATS, tensor_headers
from moult.weights.sharing import Shared

# Shared results are kept up to so many times the bytes of the tensors that they are made of.
ROOM = 4
# Bytes that are read of the parents before their files, which are mapped into memory, are opened anew.
MAPPED = 1 << 28
# torch's dtype → its name in safetensors.
_DTYPES = {getattr(torch, theirs): name for name, theirs in FLOATS.items()}
# Tensors of different sizes leave holes in memory. The process gives it back once it holds so many times the bytes of
# the tensors that it merges, and at least so many.
HOLES, LEAST = 6, 1 << 31


@dataclass
class Part:
    """One merge of a pass: mergekit's configuration and options, the folder of its weights, and how it is made.

    by_name: masks are drawn per tensor, from the seed and the tensor's name. stable: of equally large entries the first
    are kept; else mergekit sorts, where a merge is alone.
    """

    config: MergeConfiguration
    folder: Path
    options: MergeOptions
    by_name: bool = False
    stable: bool = False
    # Set when the pass begins.
    saves: list[SaveTensor] = field(default_factory=list)
    tagalong: list[str] = field(default_factory=list)
    writer: Any = None
    state: Any = None

    def plan(self) -> None:
        """Plan the merge: what is saved, in mergekit's order."""
        transformers.trainer_utils.set_seed(self.options.random_seed)
        self.state = torch.get_rng_state()
        architecture = get_architecture_info(self.config, self.options)
        self.tagalong = architecture.tagalong_files or []
        donor = self.config.base_model or self.config.models[0].model
        LoaderCache().setup(options=self.options)
        planner = MergePlanner(self.config, architecture, self.options, donor.config())
        tasks = [handle.task() for handle in Executor(planner.plan_to_disk(str(self.folder))).schedule.tasks]
        self.saves = [task for task in tasks if isinstance(task, SaveTensor)]
        (finalize,) = (task for task in tasks if isinstance(task, FinalizeModel))
        self.writer = Placed(str(self.folder), max_shard_size=finalize.arguments()["writer"].max_shard_size)
        known = tensor_headers(Path(donor.model.path))
        dtype = dtype_from_name(self.config.out_dtype or self.config.dtype)
        names = [save.tensor_name for save in self.saves if save.tensor_name in known]
        self.writer.expect({name: (dtype, known[name][2]) for name in names})

    @contextlib.contextmanager
    def drawing(self, tensor: str) -> Iterator[None]:
        """Within it, random numbers are this merge's own."""
        if self.by_name:
            torch.manual_seed(derive_seed(self.options.random_seed, tensor))
            yield
        else:
            torch.set_rng_state(self.state)
            yield
            self.state = torch.get_rng_state()


def merge_together(parts: Sequence[Part]) -> None:
    """Write the weights of several merges; those that save other tensors than the rest are made in another pass."""
    passes: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        part.plan()
        passes.setdefault(tuple(save.tensor_name for save in part.saves), []).append(part)
    for together in passes.values():
        _run(together)


def _run(parts):
    sharing, mapped = Shared(), 0
    for saves in zip(*(part.saves for part in parts), strict=True):
        loaded: dict[Any, Any] = {}
        gathered: dict[GatherTensors, Mapping[Any, torch.Tensor]] = {}
        for save in saves:
            gather = save.tensor_task.gather_tensors
            if gather not in gathered:
                tasks = gather.arguments()
                for task in tasks.values():
                    if task not in loaded:
                        loaded[task] = task.execute()
                gathered[gather] = gather.execute(**{key: loaded[task] for key, task in tasks.items()})
        given = [tensor for tensor in loaded.values() if tensor is not None]
        # A merge alone shares with none.
        alone = len(parts) == 1
        size = sum(tensor.nbytes for tensor in given)
        sharing.begin(given, 0 if alone else ROOM * size)
        for part, save in zip(parts, saves, strict=True):
            merge = save.tensor_task
            with part.drawing(save.tensor_name), contextlib.nullcontext() if alone and not part.stable else sharing:
                result = merge.execute(tensors=gathered[merge.gather_tensors])
            save.execute(writer=part.writer, tensor=result)
            del result
            give_memory_back(max(HOLES * size, LEAST))
        mapped += size
        if mapped >= MAPPED:
            LoaderCache().flush_all()
            mapped = 0
    LoaderCache().flush_all()
    for part in parts:
        part.writer.finalize()


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
        super().save_tensor(name, torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
        if len(self.current_shard) == 1:
            self._begin()
        dtype, shape = self.expected.get(name, (None, ()))
        if dtype != tensor.dtype or list(shape) != list(tensor.shape):
            # Behind all that is expected.
            self.places[name] = self.file.seek(0, os.SEEK_END)
        self.file.seek(self.places[name])
        self.file.write(memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy()))

    def _begin(self):
        """Open the file of the next shard: the header that is expected, and room for the tensors behind it."""
        self.expected = self.shards[self.shards_written] if self.shards_written < len(self.shards) else {}
        header, self.places, size = _header(self.expected)
        self.file = open(Path(self.out_path, ".waiting"), "w+b")  # noqa: SIM115
        self.file.write(header)
        self.file.truncate(size)

    def _save_st(self, shard_data, shard_path):
        """End the file of a shard; where its tensors are not those expected, write them again behind a new header."""
        self.file.close()
        came = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in shard_data.items()}
        if came == {name: (dtype, list(shape)) for name, (dtype, shape) in self.expected.items()}:
            os.rename(self.file.name, shard_path)
            return
        # What large tensors took is not needed beside the shard.
        give_memory_back()
        mapped = torch.from_file(self.file.name, shared=True, size=os.path.getsize(self.file.name), dtype=torch.uint8)
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
        os.unlink(self.file.name)


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
