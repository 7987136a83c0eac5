"""Several merges in one pass over their parents: each tensor is read once, and each result is written as it comes.

The plan of each merge, its arithmetic and the order of its tensors are mergekit's. What it draws comes from a generator
of its own, so that a merge has the same bytes in whatever company it is made.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
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
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from moult.base.files import derive_seed
from moult.weights.blocks import Blocks
from moult.weights.calling_mergekit import give_memory_back
from moult.weights.exact import one_thread
from moult.weights.graph import MOST, Graph, NotTracedError
from moult.weights.headers import tensor_headers
from moult.weights.largest import Largest
from moult.weights.placing import Placed
from moult.weights.tracing import Traced, Tracing, WantedError

# Bytes that are read of the parents before their files, which are mapped into memory, are opened anew.
MAPPED = 1 << 28
logger = logging.getLogger(__name__)
# Large tensors of different sizes leave holes in memory. The process gives it back once it holds so many times the
# bytes of the tensors that it merges, and at least so many.
LARGE, HOLES, LEAST = 1 << 26, 6, 1 << 31


@dataclass
class Part:
    """One merge of a pass: mergekit's configuration and options, the folder of its weights, and how it is made.

    by_name: masks are drawn per tensor, from the seed and the tensor's name. stable: of equally large entries the first
    are kept; else mergekit sorts.
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

    def begin(self, tensor: str) -> torch.Tensor:
        """Return the state of the generator from which a tensor's random numbers come."""
        if self.by_name:
            return torch.Generator().manual_seed(derive_seed(self.options.random_seed, tensor)).get_state()
        return self.state


def merge_together(parts: Sequence[Part]) -> None:
    """Write the weights of several merges; those that save other tensors than the rest are made in another pass."""
    passes: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        part.plan()
        passes.setdefault(tuple(save.tensor_name for save in part.saves), []).append(part)
    for together in passes.values():
        _run(together)


def _run(parts):
    mapped = 0
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
        merges = [
            _Merge(part, save, gathered[save.tensor_task.gather_tensors])
            for part, save in zip(parts, saves, strict=True)
        ]
        left = _in_blocks(merges, given) if _traceable(given) else merges
        size = sum(tensor.nbytes for tensor in given)
        for merge in left:
            merge.run()
            if size >= LARGE:
                give_memory_back(max(HOLES * size, LEAST))
        mapped += size
        if mapped >= MAPPED:
            LoaderCache().flush_all()
            mapped = 0
    LoaderCache().flush_all()
    for part in parts:
        part.writer.finalize()


@dataclass
class _Merge:
    """A tensor of one merge: the task that saves it, and the tensors that it is made of."""

    part: Part
    save: SaveTensor
    tensors: Mapping[Any, torch.Tensor]

    def result(self, tensors: Mapping[Any, torch.Tensor]) -> torch.Tensor | None:
        """Return what is saved, None for nothing."""
        kept = _Kept()
        self.save.execute(writer=kept, tensor=self.save.tensor_task.execute(tensors=tensors))
        return kept.tensor

    def run(self) -> None:
        """Merge the tensors themselves, and save the result."""
        torch.set_rng_state(self.part.begin(self.save.tensor_name))
        with one_thread(), Largest() if self.part.stable else contextlib.nullcontext():
            result = self.result(self.tensors)
        self.part.state = torch.get_rng_state()
        if result is not None:
            self.part.writer.save_tensor(self.save.tensor_name, result)


class _Kept:
    """Takes the place of a writer."""

    tensor: torch.Tensor | None = None

    def save_tensor(self, name: str, tensor: torch.Tensor, clone: bool = False) -> None:
        self.tensor = tensor


def _traceable(given):
    """Whether what is done with tensors can be traced."""
    return (
        len({(tensor.shape, tensor.dtype.is_floating_point) for tensor in given}) == 1
        and given[0].is_floating_point()
        and given[0].numel() > MOST
        and all(tensor.is_contiguous() for tensor in given)
    )


def _in_blocks(merges, given):
    """Make the tensors of merges block by block; return the merges of which this cannot be done."""
    graph = Graph(given)
    blocks, left, traced, open_ = Blocks(graph), [], [], list(merges)
    while open_:
        waiting = []
        for merge in open_:
            state, before = merge.part.begin(merge.save.tensor_name), torch.get_rng_state()
            tracing = Tracing(graph, state, merge.part.stable)
            try:
                with tracing:
                    result = merge.result({key: tracing.given(tensor) for key, tensor in merge.tensors.items()})
                if not isinstance(result, Traced) or result.node.few or not before.equal(torch.get_rng_state()):
                    raise NotTracedError("a result or random numbers of its own")
                traced.append((merge, result.node, tracing.stream))
            except WantedError:
                waiting.append(merge)
            except Exception as why:  # what is wrong with a merge shows when it is made of the tensors themselves
                logger.debug("%s by %s: not traced: %s", merge.save.tensor_name, merge.part.config.merge_method, why)
                left.append(merge)
        blocks.find_few()
        open_ = waiting
    places = []
    for merge, node, stream in traced:
        places.append(merge.part.writer.place(merge.save.tensor_name, node.dtype, node.shape))
        if stream.drawn:
            merge.part.state = blocks.after(stream)
    for results in blocks.run([node for _, node, _ in traced]):
        for place, result in zip(places, results, strict=True):
            place.write(result)
    graph.close()
    return left
