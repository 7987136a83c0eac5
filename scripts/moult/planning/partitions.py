"""Where needs are met: a cluster's partitions and cards, and the smallest card on which a job fits."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from moult.base.errors import UserError, nearest
from moult.base.paths import ROOT
from moult.base.stage import Stage
from moult.config.experiment import Config
from moult.planning.disk import disk
from moult.planning.needs import GROWTH, job_needs
from moult.stages import STAGES

# The executor plugin looks here, too; a site says it in its environment, or edits the file that is shipped.
VARIABLE = "SNAKEMAKE_SLURM_PARTITIONS"
SHIPPED = ROOT / "profiles" / "slurm" / "partitions.yaml"


class Site:
    """The partitions of a cluster, as the executor plugin reads them, and `cards`: GB of memory by GPU model."""

    def __init__(self, path: str | Path) -> None:
        from snakemake_executor_plugin_slurm.partitions import read_partition_file
        from snakemake_interface_common.exceptions import WorkflowError

        self.path = path
        try:
            self.partitions = read_partition_file(path)
            self.cards = yaml.safe_load(Path(path).read_text(encoding="utf-8")).get("cards") or {}
        except WorkflowError as error:
            raise UserError(str(error)) from None
        except (TypeError, AttributeError) as error:
            raise UserError(f"{path}: {str(error).replace('PartitionLimits.__init__() got an ', '')}.") from None
        named = {model for one in self.partitions for model in one.limits.available_gpu_models or ()}
        if unknown := sorted(named - self.cards.keys()) if self.cards else []:
            raise UserError(f"{path}: {unknown[0]} is a GPU model of a partition, but `cards` has no memory for it.")

    def place(self, asked: dict[str, Any], what: str = "the job", attempt: int = 1) -> tuple[dict[str, Any], str]:
        """Return (asked, partition): what `needs` asked for, with the GPU model, limited to what the partition offers.

        The smallest GPU model that has `gpu_mem_gb` is taken. Time is always limited to the partition's, because a
        stopped job resumes. What a retry asks beyond the first attempt is limited, too. UserError, naming the job
        `what`, where no partition has what the first attempt needs.
        """
        if asked["gpu"] % asked["nodes"]:
            raise UserError(f"{what} has {asked['gpu']} GPUs, which {asked['nodes']} nodes cannot share evenly.")
        if asked["nodes"] > 1 and asked["processes"] < 2:
            raise UserError(
                f"{what} is spread over {asked['nodes']} nodes: each needs two of `finetune.devices` at least."
            )
        for model in self._models(asked, attempt):
            fitting = []
            for partition in self.partitions:
                cut = _cut(asked | {"gpu_model": model}, partition.limits, attempt)
                score = partition.score_job_fit(_as_job(cut))
                if score is not None:
                    fitting.append((score, partition.name, cut))
            if fitting:
                _, name, cut = max(fitting, key=lambda one: one[0])
                return cut, name
        raise UserError(f"{what} needs {describe(asked)}: no partition of {self.path} has that. {self._remedy(asked)}")

    def refuse_what_fits_nowhere(self, cfg: Config) -> None:
        """Raise UserError with a sentence for each job of a config that no partition could ever run."""
        problems = {}
        for stage, names in jobs_with_models(cfg):
            try:
                self.place(job_needs(cfg, stage, names), f"{stage.rule} {'/'.join(names)}")
            except UserError as error:
                problems[str(error)] = None
        if problems:
            raise UserError("\n".join(problems))

    def _models(self, asked, attempt):
        """Return the models of card to try, smallest first; [None] where it does not matter or is not known."""
        if not asked["gpu"] or not self.cards:
            return [asked["gpu_model"]]
        if asked["gpu_model"]:
            if asked["gpu_model"] not in self.cards:
                known = nearest(asked["gpu_model"], self.cards)
                raise UserError(f"needs: gpu_model {asked['gpu_model']!r} is not a card of {self.path}{known}")
            return [asked["gpu_model"]]
        by_size = sorted(self.cards, key=lambda model: self.cards[model])
        large_enough = [model for model in by_size if self.cards[model] >= asked["gpu_mem_gb"]]
        # A retry that no card is large enough for has the largest again.
        first = asked["gpu_mem_gb"] / GROWTH ** (attempt - 1)
        return large_enough or [model for model in reversed(by_size) if self.cards[model] >= first - 1]

    def _remedy(self, asked):
        if not asked["gpu"]:
            return "Name a larger partition there, or lower `needs` of the model."
        return (
            "Spread the model (`finetune.devices`, `zero: 3`), shrink `batch_size` or `max_length`, "
            "set `gradient_checkpointing`, or say under `needs` of the model what it really takes."
        )


def describe(asked: Mapping[str, Any]) -> str:
    """Return needs as words, e.g. `2 GPUs of 33 GB, 8 CPUs, 38 GB`."""
    gpus = f"{asked['gpu']} GPU{'s' * (asked['gpu'] > 1)} of {asked['gpu_mem_gb']} GB, " if asked["gpu"] else ""
    nodes = f" on each of {asked['nodes']} nodes" if asked["nodes"] > 1 else ""
    return f"{gpus}{asked['cpus']} CPUs, {asked['mem_mb'] / 1000:.0f} GB{nodes}"


def _cut(asked, limits, attempt):
    cut = asked | {"runtime": int(min(asked["runtime"], limits.max_runtime))}
    if attempt > 1:
        cut["mem_mb"] = int(min(asked["mem_mb"], limits.max_mem_mb))
    return cut


def _as_job(asked):
    """Return needs as the executor plugin sees a job."""
    resources = {name: value for name, value in as_resources(asked).items() if value is not None}
    return SimpleNamespace(name="job", threads=1, resources=resources)


def as_resources(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return needs under the names that Snakemake and its Slurm plugin know; None: not asked for.

    Several nodes make it what the plugin calls an MPI job: it starts on the first of them, outside of `srun`, with a
    task for each process.
    """
    several = asked["nodes"] > 1 and asked["gpu"] > 0
    model = f"{asked['gpu_model']}:" if asked["gpu_model"] else ""
    return {
        "gpu": asked["gpu"],
        "gpu_mem_gb": asked["gpu_mem_gb"],
        "gpu_model": asked["gpu_model"],
        "mem_mb": asked["mem_mb"],
        "runtime": asked["runtime"],
        # Without it, GPUs may be collected from several nodes. Without GPUs it would only add up in a group of jobs.
        "nodes": asked["nodes"] if asked["gpu"] else None,
        "cpus_per_task": asked["cpus"] // (asked["processes"] if several else 1) or 1,
        "tasks_per_node": asked["processes"] if several else None,
        "mpi": "srun" if several else None,
        # Else Slurm hands out the sum as it likes, three on one node and one on the other.
        "slurm_extra": f"--gpus-per-node={model}{asked['gpu'] // asked['nodes']}" if several else None,
    }


RESOURCES = "gpu gpu_mem_gb gpu_model mem_mb runtime nodes cpus_per_task tasks_per_node mpi slurm_extra".split()


def jobs_with_models(cfg: Config) -> Iterator[tuple[Stage, tuple[str, ...]]]:
    """Yield (stage, names) of every job of a config that loads a model."""
    for stage in STAGES:
        for names in stage.planned(cfg):
            if stage.model(cfg, *names):
                yield stage, names


def needs_table(cfg: Config, site: Site) -> list[list[str]]:
    """Return what the jobs of a config need and where they would run: lines of cells, equal jobs in one."""
    lines = {}
    for stage, names in jobs_with_models(cfg):
        rule, name = stage.rule, "/".join(names)
        try:
            asked, partition = site.place(job_needs(cfg, stage, names), f"{rule} {name}")
        except UserError:
            asked, partition = job_needs(cfg, stage, names), "nowhere: see `needs`"
        gpus = f"{asked['gpu']} × {asked['gpu_mem_gb']} GB" if asked["gpu"] else "–"
        nodes, memory = str(asked["nodes"]), f"{asked['mem_mb'] / 1000:.0f} GB"
        time = f"{asked['runtime'] / 60:.1f} h"
        card = asked["gpu_model"] or "–"
        lines.setdefault((rule, gpus, card, nodes, str(asked["cpus"]), memory, time, partition), []).append(name)
    return [
        [rule, str(len(names)), names[0] + (", …" if len(names) > 1 else ""), *rest]
        for (rule, *rest), names in lines.items()
    ]


HEADINGS = ["rule", "jobs", "of", "GPUs × memory", "card", "nodes", "CPUs", "memory", "time", "partition"]


def main(paths: Iterable[str]) -> None:
    """Print the table of each config, and the disk that its models take."""
    from moult.config.load import load_file

    site = Site(os.environ.get(VARIABLE, SHIPPED))
    for path in paths:
        cfg = load_file(path)
        lines = needs_table(cfg, site)
        print(f"{path}\n")
        widths = [max(map(len, column)) for column in zip(HEADINGS, *lines, strict=True)]
        for line in [HEADINGS, ["-" * width for width in widths], *lines]:
            print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        print(f"\n{disk(cfg, Path('results', cfg.name))}\n")


if __name__ == "__main__":
    logging.disable()
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
