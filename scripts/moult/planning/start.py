"""Checks before there is a DAG: the config, the files that it names, and the cluster."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from moult.base.errors import UserError
from moult.base.paths import own_in_place_of_shipped
from moult.base.stage import Local
from moult.config.checks import remote_endpoints
from moult.config.experiment import Config
from moult.config.load import load
from moult.data import rubrics
from moult.evaluation.suites import KINDS
from moult.inference.remote.connection import proxy_of
from moult.planning.partitions import SHIPPED, VARIABLE, Site
from moult.stages.datasets import raw_sources
from moult.weights.agreement import check_parts


def checked_config(raw: dict, source: str, warn: Callable[[str], None], speaks: bool) -> Config:
    """Return the typed config; tell by `warn` what is not pinned yet, and, where it `speaks`, what will be
    fetched, which words of the config are retired, and which shipped prompts and label sets the study's own stand in
    place of.

    A process that runs a single job of a build does not speak: the first one did.

    Raises:
        UserError: a sentence for each mistake, for each local file or folder that is not there, and for a proxy of the
            environment by which an endpoint cannot be asked.
    """
    cfg = load(raw, source, warn if speaks else lambda sentence: None)
    if absent := list(absent_files(cfg)):
        raise UserError("\n".join(f"{source}: {line}; put it there or correct the path." for line in absent))
    for endpoint in remote_endpoints(cfg):
        try:
            proxy_of(endpoint.url, keyed=endpoint.key is not None)
        except UserError as error:
            raise UserError(f"{source}: endpoints {endpoint.name!r} ({endpoint.url}): {error}.") from None
    if speaks:
        results = Path("results", cfg.name)

        def made(kind, name):
            return (results / kind / f"{name}.manifest.json").exists()

        if contradictions := list(contradicting_folders(cfg, made)):
            raise UserError("\n".join(f"{source}: {line}" for line in contradictions))
        for line in cfg.hub_needs(made):
            warn(f"{line}.")
        for kind in ("prompts", "labels", rubrics.KIND):
            for name in own_in_place_of_shipped(kind):
                warn(f"{kind}/{name}.yaml: stands in place of the file of this name that comes with Moult.")
    for place in cfg.unpinned():
        warn(f"{place}: no revision or checksum yet; run `make pin` before you build.")
    return cfg


def absent_files(cfg: Config) -> Iterator[str]:
    """Yield a phrase for each local file or folder that a config names and that is not there."""
    for dataset in cfg.datasets:
        for _, _, source in raw_sources(dataset):
            if source.path and not Path(source.path).exists():
                yield f"dataset {dataset.name}: {_absent(source.path)}"
    for model in cfg.models:
        if model.fetch and model.fetch.path and not Path(model.fetch.path).is_dir():
            yield f"model {model.name}: the folder {_absent(model.fetch.path)}"
    for dataset in cfg.datasets:
        if dataset.videos and dataset.videos.path and not Path(dataset.videos.path).is_dir():
            yield f"dataset {dataset.name}: its videos' folder {_absent(dataset.videos.path)}"
    for stage in (stage for kind in KINDS for stage in kind.stages):
        for suite, *names in stage.names(cfg):
            found = [one if isinstance(one, list) else [one] for one in stage.inputs(cfg, suite, *names).values()]
            for path in (one.path for some in found for one in some if isinstance(one, Local)):
                if not Path(path).exists():
                    yield f"suite {suite}, {'/'.join(names)}: {_absent(path)}"


def _absent(path):
    looked = "" if Path(path).is_absolute() else f" (looked in {Path.cwd()})"
    return f"{path} does not exist{looked}"


def contradicting_folders(cfg: Config, made: Callable[[str, str], bool]) -> Iterator[str]:
    """Yield a sentence for each local model, not fetched yet, whose folder is no whole model, or is two."""
    for model in cfg.models:
        if model.fetch and model.fetch.path and not made("models", model.name):
            try:
                check_parts(model.fetch.path)
            except UserError as error:
                yield f"model {model.name}: {error}"


def depth_of(cfg: Config) -> int:
    """Return how deep Snakemake's walk from target to source gets: a round adds three jobs, one behind another."""
    return 1000 + 100 * max((model.round.count for model in cfg.models if model.round), default=0)


def cluster(cfg: Config, account: str | None, environment: Mapping[str, str] = os.environ) -> Site | None:
    """Return the cluster that jobs go to, or None where they stay on this machine.

    account: `slurm_account` of the default resources as the profile writes it. Only the slurm profile names one, so an
    account means a cluster. The partitions are in the file that VARIABLE names, for the executor plugin too: the
    profile cannot name that file, because paths in a profile are relative to the working directory.

    Raises:
        UserError: the account is that of a variable which is not set; a job fits nowhere on the cluster.
    """
    if account is None:
        return None
    os.environ.setdefault(VARIABLE, str(SHIPPED))
    if account == "$SLURM_ACCOUNT" and "SLURM_ACCOUNT" not in environment:
        raise UserError(
            "SLURM_ACCOUNT is not set: export the account that your jobs are charged to (`sacctmgr show associations "
            "user=$USER format=account` lists yours), or export it empty where the cluster has no accounts."
        )
    site = Site(os.environ[VARIABLE])
    site.refuse_what_fits_nowhere(cfg)
    return site
