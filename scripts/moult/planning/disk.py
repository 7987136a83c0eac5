"""How much disk the models of an experiment take, reckoned from their parameters before anything is made.

GB are 10⁹ bytes. Weights are billions of parameters × bytes per number, as they are stored: a merge in its own dtype,
what is trained as its base is, a model of a folder as large as it is there, one of a hub in 16 bits. An adapter has 20
r h numbers of 32 bits per layer (see `planning.needs`). While it trains, a job keeps three checkpoints at most: what it
trains and Adam's two moments, in 32 bits. The merges of a sweep are links to what its job made. Frames of videos,
encodings, answers and tables are not reckoned.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from moult.config.experiment import Config
from moult.planning.needs import BYTES, shape
from moult.stages import STAGES
from moult.weights.fetch import used_files

CHECKPOINTS = 3


@dataclass(frozen=True)
class Disk:
    """GB that an experiment's models take: what there is, what is still to be made and stays, and what is there for a
    while only, the most at once where one job makes such things at a time; GB that are free."""

    there: float
    stays: float
    passes: float
    free: float

    @property
    def fits(self) -> bool:
        return self.stays + self.passes <= self.free

    def __str__(self) -> str:
        told = f"models and adapters: {self.stays:,.1f} GB to be made and kept"
        told += f", {self.passes:,.1f} GB for a while" if self.passes else ""
        told += f", {self.there:,.1f} GB there" if self.there else ""
        told += f"; {self.free:,.1f} GB are free"
        remedy = "that does not fit. Free some, or write `keep: false` where only scores count."
        return told + ("." if self.fits else f": {remedy}")


def disk(cfg: Config, results: Path) -> Disk:
    """Return what an experiment takes; results: their folder, which need not be there."""
    there, stays, passes = 0.0, 0.0, [0.0]
    for stage in STAGES:
        if stage.makes not in ("models", "adapters", "students"):
            continue
        for names in stage.planned(cfg):
            made, (name,) = results / stage.path(*names), names
            if made.exists():
                there += _size(made)
                continue
            size = adapter_gb(cfg, name) if stage.makes == "adapters" else weights_gb(cfg, name)
            if stage.passing:
                passes.append(size)
            else:
                stays += size
            if stage.recipe and (training := cfg.find("models", name).training) and stage.needs in ("lora", "full"):
                trained = adapter_gb(cfg, name) if training.method == "lora" else 4 * cfg.inherited(name, "parameters")
                passes.append(CHECKPOINTS * 3 * trained)
    home = next(place for place in (results, *results.absolute().parents) if place.exists())
    return Disk(there, stays, max(passes), shutil.disk_usage(home).free / 1e9)


def weights_gb(cfg: Config, name: str) -> float:
    """Return the GB that a model's full weights take."""
    model = cfg.find("models", name)
    if model.select and all(cfg.find("models", one).keep for one in model.select.among):
        # Links to the files of the one that is chosen.
        return 0
    if model.moe:
        experts = [one.model for one in (*model.moe.experts, *model.moe.shared_experts)]
        # At most: what is no expert's own is there once.
        billions = model.parameters or sum(cfg.inherited(one, "parameters") for one in experts)
        return billions * BYTES[model.moe.dtype]
    return cfg.inherited(name, "parameters") * _bytes(cfg, name)


def _bytes(cfg, name):
    """Return the bytes per number in which a model is stored."""
    for model in cfg.lineage(name):
        if merge := model.merge:
            return BYTES[merge.out_dtype or merge.dtype]
        if model.moe:
            return BYTES[model.moe.dtype]
        if model.fetch and model.fetch.path and Path(model.fetch.path).is_dir():
            size = sum(Path(model.fetch.path, file).stat().st_size for file in used_files(model.fetch.path))
            return size / 1e9 / model.parameters
    return BYTES[model.fetch.dtype if model.fetch.package else "bfloat16"]


def adapter_gb(cfg: Config, name: str) -> float:
    """Return the GB of a model's LoRA adapter."""
    layers, width, _ = shape(cfg.inherited(name, "parameters"))
    return 4 * 20 * cfg.find("models", name).training.lora.rank * layers * width / 1e9


def _size(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e9
