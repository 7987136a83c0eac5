"""Checkpoints that survive a kill: one counts only if its marker, written last, agrees with its files."""

import logging
import shutil
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json, sha256_file, write_json
from moult.weights.folding import EMBEDDINGS
from moult.weights.headers import HEAD, copy_files, is_tied, refuse_infinite, tensor_headers

logger = logging.getLogger(__name__)
MARKER = "whole.json"


def mark_whole(checkpoint: Path) -> None:
    """Write the marker of a checkpoint; every process must have saved its part."""
    write_json(checkpoint / MARKER, _listing(checkpoint))


def last_whole(scratch: Path) -> Path | None:
    """Delete checkpoints that were not saved whole, or whose best one is gone; return the last, None if none is left.

    A kill during a save leaves a directory that looks like a checkpoint, but has no marker that agrees with its files.
    """
    whole = {}
    for path in sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        try:
            sound = read_json(path / MARKER) == _listing(path)
            best_step = read_json(path / "trainer_state.json")["best_global_step"] if sound else None
        except UserError:
            sound = False
        whole[path.name] = path
        if not sound or (best_step and f"checkpoint-{best_step}" not in whole):
            logger.warning("%s was not saved whole: deleted", path.name)
            shutil.rmtree(whole.pop(path.name))
    return list(whole.values())[-1] if whole else None


def finished(checkpoint: Path) -> bool:
    """Whether training had reached its last step when this checkpoint was saved."""
    state = read_json(checkpoint / "trainer_state.json")
    return state["global_step"] >= state["max_steps"]


def _listing(checkpoint):
    """Return size and hash of each file of a checkpoint but its marker."""
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARKER)
    return {
        path.relative_to(checkpoint).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }


def save_like(base: str | Path, checkpoint: str | Path, folder: Path) -> None:
    """Write a checkpoint's weights as the base stores its own: names, shards, dtypes, config.

    UserError for a tensor that is missing, that has another shape (none at all, where a process saved what others
    hold), that the base lacks, or that is not finite.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    base, checkpoint = Path(base), Path(checkpoint)
    held, config, trained = tensor_headers(base), read_json(base / "config.json"), {}
    for file in sorted(checkpoint.glob("model*.safetensors")):
        trained |= load_file(file)
    # A base may be stored without the name of the model inside of it (`h.0` for `transformer.h.0`).
    for name in [name for name in trained if name not in held and name.partition(".")[2] in held]:
        trained[name.partition(".")[2]] = trained.pop(name)
    if is_tied(config):
        # A base may store the head beside the embeddings that are the same; a checkpoint never does.
        shared = next((name for name in trained if name.endswith(EMBEDDINGS)), None)
        trained.setdefault(HEAD, trained.get(shared))
    elif unknown := sorted(trained.keys() - held.keys()):
        raise UserError(f"{checkpoint}: {unknown[0]} is not stored in {base}; fetch the base again.")
    for shard in sorted({file for file, _, _ in held.values()}):
        with safe_open(base / shard, framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}
            metadata = stored.metadata()
        for name, before in weights.items():
            # Old checkpoints store this constant, which no model loads or trains.
            if name.endswith("inv_freq"):
                continue
            after = trained.get(name)
            if after is None or after.shape != before.shape:
                size = "missing" if after is None else list(after.shape)
                raise UserError(
                    f"{checkpoint}: {name} is {size}, in {base} {list(before.shape)}; delete it and train again."
                )
            refuse_infinite(after, f"{checkpoint}, {name}", "its training diverged; train it again")
            weights[name] = after.to(before.dtype).contiguous()
        save_file(weights, folder / shard, metadata=metadata or {"format": "pt"})
    copy_files(base, folder, ("config.json", "model.safetensors.index.json"))


def refuse_empty(weights: Path) -> None:
    """Raise a UserError when a safetensors file holds a tensor without elements: a known failure under ZeRO-3."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as stored:
        for name in stored.keys():
            if 0 in stored.get_slice(name).get_shape():
                raise UserError(f"{weights}: {name} is empty; it was not gathered from all processes: set zero to 2.")
