"""mergekit at work: one merge, or several in one pass over their parents."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moult.base.lean_imports import hide_compiler, hide_packages
from moult.base.rows import Recipe
from moult.weights.calling_mergekit import keep_memory, mergekit_path, mergekit_refusals
from moult.weights.headers import copy_files
from moult.weights.methods import groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """A merge of which all is checked that its models' headers tell."""

    recipe: Recipe
    config: dict[str, Any]
    # Name → folder; the first is the base, else the first parent.
    models: dict[str, Path]
    # The same names, first the one whose tokenizer and chat template are taken.
    by_template: list[str]
    warnings: list[str]

    @property
    def parents(self) -> str:
        """The names of what is merged, as a list in words."""
        return ", ".join(dict.fromkeys(parent["model"] for group in groups(self.recipe) for parent in group["parents"]))


def run_alone(ready: Ready, folder: Path) -> None:
    """Write the merged weights to a folder; UserError where mergekit refuses its configuration.

    mergekit's own run holds a shard and all parents in memory; it makes what a pass does not: other layers, modules,
    tokenizers.
    """
    recipe = ready.recipe
    if "parents" in recipe and "tokenizer" not in recipe:
        run_together({folder: ready})
        return
    # Of several threads sums have other bits.
    with _mergekit_loaded(threads=1):
        from mergekit.merge import run_merge

    with mergekit_refusals(), _vocabularies_in_order(), _choosing(recipe):
        try:
            run_merge(_configuration(ready), str(folder), _options(ready))
        finally:
            _close_files()


def run_together(ready: Mapping[Path, Ready]) -> None:
    """Write the weights of several merges, folder → what is ready, in one pass."""
    with _mergekit_loaded(max(one.recipe["threads"] for one in ready.values())):
        from moult.weights.one_pass import Part, merge_together

    parts = [
        Part(_configuration(one), folder, _options(one), one.recipe.get("masks") == "by_name", "order" in one.recipe)
        for folder, one in ready.items()
    ]
    with mergekit_refusals():
        try:
            merge_together(parts)
        finally:
            _close_files()
    for part, one in zip(parts, ready.values(), strict=True):
        copy_files(one.models[next(iter(one.models))], part.folder, part.tagalong)


@contextlib.contextmanager
def _mergekit_loaded(threads):
    """Within it mergekit is imported, without what it does not use here."""
    import torch

    with hide_packages("scipy", "torch_distributed"), hide_compiler():
        yield
    torch.set_num_threads(threads)
    keep_memory()
    logger.info("ready: mergekit is loaded")


def _configuration(ready):
    """Return mergekit's configuration, checked by itself."""
    from mergekit.config import MergeConfiguration

    order = [mergekit_path(folder) for folder in ready.models.values()]

    class Ordered(MergeConfiguration):
        """mergekit draws its models from an unordered set, on which the order of a union's tokens depends."""

        def referenced_models(self):
            return sorted(super().referenced_models(), key=lambda model: order.index(model.model.path))

    return Ordered.model_validate(ready.config)


def _options(ready):
    """Return mergekit's options. Its card asks the hub for paths that look like repositories; config and tokenizer are
    put there by us."""
    from mergekit.options import MergeOptions

    return MergeOptions(
        random_seed=ready.recipe["seed"],
        quiet=True,
        copy_tokenizer=False,
        write_model_card=False,
        clone_tensors="slices" in ready.config,
    )


def _close_files():
    """Let mergekit forget the files that it keeps open for the next merge of this process, which may find others."""
    from mergekit.io.tasks import LoaderCache

    LoaderCache().loaders.clear()


def _choosing(recipe):
    """Within it entries are chosen by the rank of their magnitude as the recipe says: stable, or by mergekit's sort."""
    if "order" not in recipe:
        return contextlib.nullcontext()
    from moult.weights.largest import Largest

    return Largest()


@contextlib.contextmanager
def _vocabularies_in_order():
    """Let tokenizers give their vocabulary by ids: they give it in another order in each process."""
    from transformers import PreTrainedTokenizerFast

    original = PreTrainedTokenizerFast.get_vocab

    def in_order(self):
        return dict(sorted(original(self).items(), key=lambda item: item[1]))

    PreTrainedTokenizerFast.get_vocab = in_order
    try:
        yield
    finally:
        PreTrainedTokenizerFast.get_vocab = original
