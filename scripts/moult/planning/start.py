"""Checks before there is a DAG: the config, the files that it names, and the cluster."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from moult.base.errors import UserError
from moult.base.files import write_text_atomic
from moult.base.legible import legible
from moult.base.paths import own_in_place_of_shipped
from moult.base.secrets import key_of
from moult.base.stage import Local
from moult.config.checks import remote_endpoints
from moult.config.experiment import Config
from moult.config.load import load
from moult.data import rubrics
from moult.data.chats import ChatTemplate
from moult.evaluation.suites import KINDS
from moult.inference.remote.connection import proxy_of
from moult.planning.disk import disk
from moult.planning.local_files import flaws_of_merges, flaws_of_tables
from moult.planning.partitions import SHIPPED, VARIABLE, Site
from moult.stages import suites
from moult.stages.datasets import raw_sources
from moult.weights.agreement import check_parts
from moult.weights.template import check_template, template_of


def checked_config(raw: dict, source: str, warn: Callable[[str], None], speaks: bool) -> Config:
    """Return the typed config; tell by `warn` what is not pinned yet, and, where it `speaks`, what will be
    fetched, that its models take more disk than is free, which words of the config are retired, and which shipped
    prompts and label sets the study's own stand in place of.

    A process that runs a single job of a build does not speak: the first one did.

    Raises:
        UserError: a sentence for each mistake, for each local file or folder that is not there, and for a proxy of the
            environment by which an endpoint cannot be asked.
    """

    def tell(sentence):
        if speaks:
            warn(legible(sentence))

    cfg = load(raw, source, tell)
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

        of_suites = [flaw for kind in KINDS for flaw in kind.flaws(cfg)]
        if flaws := [*contradicting_folders(cfg, made), *flaws_of_tables(cfg), *flaws_of_merges(cfg), *of_suites]:
            raise UserError("\n".join(f"{source}: {line}" for line in flaws))
        try:
            for line in absent_keys(cfg, made):
                tell(f"{source}: {line}")
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        for line in awaited_files(cfg):
            warn(line)
        for line in cfg.hub_needs(made):
            tell(f"{line}.")
        if not (taken := disk(cfg, results)).fits:
            tell(f"{source}: {taken}")
        for kind in ("prompts", "labels", rubrics.KIND):
            for name in own_in_place_of_shipped(kind):
                tell(f"{kind}/{name}.yaml: stands in place of the file of this name that comes with Moult.")
        for entry in cfg.evaluations:
            if cfg.limit and entry.reference:
                tell(f"evaluations {entry.suite!r}: limit is {cfg.limit}, so that `reference` stands beside nothing.")
    for place in cfg.unpinned():
        warn(f"{place}: no revision or checksum yet; run `make pin` before you build.")
    return cfg


def keep_config(cfg: Config, raw: Mapping[str, Any], files: Sequence[str | Path]) -> None:
    """Write what is built to `results/<name>/config.yaml`: the config's own text, or all of it written out where it
    stands in several files or was changed by `--config`."""
    whole = json.loads(json.dumps(raw, default=str))
    # Leave to send is given once.
    whole.pop("push", None)
    text = Path(files[0]).read_text(encoding="utf-8") if len(files) == 1 else ""
    if json.loads(json.dumps(yaml.safe_load(text), default=str)) != whole:
        text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)
    kept = Path("results", cfg.name, "config.yaml")
    if not kept.exists() or kept.read_text(encoding="utf-8") != text:
        write_text_atomic(kept, text)


def absent_files(cfg: Config) -> Iterator[str]:
    """Yield a phrase for each local file or folder that a config names and that is not there."""
    for dataset in cfg.datasets:
        for _, _, source in raw_sources(dataset):
            if source.path and not source.by_hand and not os.path.exists(source.path):
                yield f"dataset {dataset.name}: {_absent(source.path)}"
    for model in cfg.models:
        if model.fetch and model.fetch.path and not os.path.isdir(model.fetch.path):
            yield f"model {model.name}: the folder {_absent(model.fetch.path)}"
    for dataset in cfg.datasets:
        if dataset.videos and dataset.videos.path and not os.path.isdir(dataset.videos.path):
            yield f"dataset {dataset.name}: its videos' folder {_absent(dataset.videos.path)}"
    of_suites: dict[tuple[str, str], set[str]] = {}
    for stage in suites.STAGES:
        for suite, *names in stage.names(cfg):
            found = [one if isinstance(one, list) else [one] for one in stage.inputs(cfg, suite, *names).values()]
            for path in (one.path for some in found for one in some if isinstance(one, Local)):
                if not Path(path).exists():
                    of_suites.setdefault((suite, path), set()).add("/".join(names))
    # What all measurements of a suite read is told once.
    for (suite, path), measured in of_suites.items():
        yield f"suite {suite}{f', {min(measured)}' if len(measured) == 1 else ''}: {_absent(path)}"


def awaited_files(cfg: Config) -> Iterator[str]:
    """Yield a sentence for each file that is still to be put there by hand."""
    for dataset in cfg.datasets:
        for _, _, source in raw_sources(dataset):
            if source.is_awaited:
                known = [f"{source.size:,} bytes"] if source.size is not None else []
                known += [f"SHA-256 {source.sha256}"] if source.sha256 else []
                told = f" ({', '.join(known)})" if known else ""
                yield f"dataset {dataset.name}: {source.path} is not there yet; put there {source.by_hand}{told}."
    for suite in cfg.suites:
        for path in getattr(suite.settings, "awaited", ()):
            yield f"suite {suite.name}: {path} is not there yet; put it there: {suite.settings.by_hand}."


def _absent(path):
    if os.path.isfile(path):
        return f"{path} is a file, not a folder"
    looked = "" if Path(path).is_absolute() else f" (looked in {Path.cwd()})"
    return f"{path} does not exist{looked}"


def absent_keys(cfg: Config, made: Callable[[str, str], bool]) -> Iterator[str]:
    """Yield a sentence for each variable of a key that is not set, though something is still to be asked with it.

    UserError where a variable holds what is no key.
    """
    asking = {corpus.name: corpus.endpoints.values() for corpus in cfg.corpora if not made("corpora", corpus.name)}
    asking |= {f"suite {suite.name}": suite.settings.endpoints.values() for suite in cfg.suites}
    wanted = {name for names in asking.values() for name in names}
    for endpoint in remote_endpoints(cfg):
        if endpoint.key and endpoint.name in wanted:
            place = f"endpoints {endpoint.name!r}, key"
            if not os.environ.get(endpoint.key, "").strip():
                yield f"{place}: the variable {endpoint.key} is not set; export it before you build."
            else:
                try:
                    key_of(endpoint.key, place)
                except UserError as error:
                    raise UserError(f"{str(error).rstrip('.')}; export the key itself.") from None


def contradicting_folders(cfg: Config, made: Callable[[str, str], bool]) -> Iterator[str]:
    """Yield a sentence for each local model, not fetched yet, whose folder is no whole model, or is two, or
    has a chat template by which it cannot be asked as the config wants."""
    for model in cfg.models:
        if model.fetch and (model.fetch.path or model.chat_template) and not made("models", model.name):
            try:
                if model.fetch.path:
                    check_parts(model.fetch.path)
                    template = template_of(model.fetch.path, model.chat)
                else:
                    # The model is not here yet, nor are its special tokens.
                    unseen = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "unk", "pad")}
                    template = ChatTemplate(str(model.chat["chat_template"]), unseen)
                check_template(template, str(model.fetch.path or model.chat_template), model.name in cfg.asked_models)
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
