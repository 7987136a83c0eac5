# Adaptors between Snakemake and the stages: which files, which settings, how much. No rules here, and no logic that a
# test of its own could reach: what there is to know of a rule is in its stage (`moult.stages`).

import contextlib
import gc
import inspect
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import sourcecache_entry
from snakemake.logging import logger
from snakemake.settings.types import RerunTrigger


def checkout():
    """Return Moult's folder: that of this file, since `workflow.basedir` is that of the workflow Moult is a module of.

    Of a module from a hosting service (`github(...)`) Snakemake has single files, and a clone without a work tree: the
    whole commit is unpacked beside that clone, once.
    """
    here = workflow.included_stack[-1]
    if not hasattr(here, "hosted_repo"):
        return Path(workflow.snakefile).resolve().parents[1]
    commit = here.hosted_repo.repo.commit(here.ref).hexsha
    folder = here.cache_path / f"moult-{commit}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=here.cache_path) as unpacked:
            command = ["git", "-C", here.hosted_repo.repo_clone, "archive", commit]
            packed = subprocess.run(command, capture_output=True, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(unpacked, filter="data")
            # Another process may have been faster.
            with contextlib.suppress(OSError):
                os.rename(unpacked, folder)
    # A job's script stands alone in Snakemake's cache.
    paths = [str(folder / "scripts"), dict(os.environ).get("PYTHONPATH")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return folder


HOME = checkout()
sys.path.insert(0, str(HOME / "scripts"))

from moult.base.stage import Local, Ref
from moult.config.expansion import one_of
from moult.config.reading import read_config
from moult.jobs.gpus import visible_devices
from moult.jobs.interpreter import as_one_word
from moult.jobs.locks import clear_stale_locks
from moult.jobs.slurm import cancel_leftovers, keep_to_squeue, record_run
from moult.planning import start
from moult.planning.groups import told_apart
from moult.planning.needs import job_needs
from moult.planning.partitions import RESOURCES, as_resources
from moult.planning.standing import Look, Standing, flat, look_behind_ancient
from moult.planning.words import OneSentence, said_by
from moult.stages import BY_RULE
from moult.stages.corpora import check_rounds_of


def targets():
    """Return what may be asked for: the names of target rules, and the paths of all artefacts."""
    # What runs nothing: the others make files, or are what others inherit from.
    ours = [one.name for one in workflow.rules if one.norun]
    made = [Ref(stage.makes, "/".join(names)) for stage in BY_RULE.values() for names in stage.names(cfg)]
    return [*ours, *(f"results/{cfg.name}/{one.path}" for one in made)]


# Whether Snakemake was started for this workflow. Locks, the cluster and the scheduler of another one are left alone.
OURS = Path(workflow.main_snakefile).resolve() in {HOME / "Snakefile", HOME / "workflow" / "Snakefile"}
sentence = OneSentence(targets if OURS else list)
or_stop = said_by(sentence, WorkflowError)
if workflow.is_main_process:
    logger.addFilter(sentence)
sys.executable = as_one_word(sys.executable, Path(".snakemake"))
if OURS and workflow.is_main_process:
    # What a graph is made of stays: to look through it again and again for garbage takes a tenth of planning.
    gc.set_threshold(100_000)
    # Snakemake has read them, by a reader that takes a key twice and code.
    for path in workflow.configfiles:
        or_stop(read_config, path)
SOURCE = ", ".join(str(path) for path in workflow.configfiles) if OURS else f"the config of module {__name__}"
cfg = or_stop(start.checked_config, config, SOURCE or "config", logger.warning, workflow.is_main_process)
# It is only ever raised.
sys.setrecursionlimit(max(sys.getrecursionlimit(), start.depth_of(cfg)))
CLUSTER = None
# What stands already. A process that runs a single job of a build has no say in what is to be made.
STANDING = None

if workflow.is_main_process:
    or_stop(check_rounds_of, cfg)
    # Which changes are reasons to rerun is known only when the graph is built.
    compared = lambda: RerunTrigger.PARAMS in workflow.rerun_triggers
    STANDING = Standing(cfg, Path("results", cfg.name), logger.warning, compared)
if workflow.is_main_process and OURS:
    if not workflow.dryrun:
        scheduler_lock = clear_stale_locks(".snakemake", logger.warning)
    account = workflow.resource_settings._parsed_default_resources.get("slurm_account")
    CLUSTER = or_stop(start.cluster, cfg, account and account.raw)
    if CLUSTER is None and "gpu" not in workflow.global_resources:
        # One job a GPU; on a machine without, one job that would rather have had one. `--resources gpu=2` says otherwise.
        workflow.register_resource("gpu", max(1, len(visible_devices())))


# Not in a dry run, which has no start.
onstart:
    start.keep_config(cfg, config, workflow.configfiles)
    if CLUSTER:
        runs = Path(".snakemake", "slurm_runs")
        or_stop(cancel_leftovers, runs, cfg.name, scheduler_lock.alone, logger.warning)
        # Other executors, as that of `--touch`, submit nothing.
        if run := getattr(workflow.scheduler._executor, "run_uuid", None):
            record_run(runs, cfg.name, run)
        or_stop(keep_to_squeue)


@cache
def groups_told_apart():
    """Refine the groups that the profile names. Snakemake reads them after this file, before the first input function."""
    groups = workflow.group_settings
    groups.overwrite_groups = told_apart(cfg, groups.overwrite_groups, workflow.parent_groupids)


def names_in(stage, wildcards):
    """Return what a job is named by, in the order of its stage."""
    return tuple(getattr(wildcards, name) for name in stage.wildcards)


def names_of(rule):
    """Return the wildcard constraints of a rule: the names that its stage knows, and no others."""
    stage = BY_RULE[rule]
    columns = list(zip(*stage.names(cfg))) or [()] * len(stage.wildcards)
    return {name: one_of(dict.fromkeys(column)) for name, column in zip(stage.wildcards, columns)}


def with_signature(function):
    """Return a function that Snakemake calls. Before each call it asks for the signature, which takes longer than most
    calls where it does not stand there."""
    function.__signature__ = inspect.signature(function)
    return function


def inputs_of(rule):
    """Return the input function of a rule: paths for the references of its stage, manifests beside the artefacts.

    The job is forced where what stands disagrees with its manifest, or that with today's config and files. Of all that
    Snakemake offers this alone forces one job, no whole rule, and adds no target: the graph is being built from what
    was asked for when input functions are called, and its reasons to run are looked for afterwards.
    """
    stage = BY_RULE[rule]

    def inputs(wildcards):
        if CLUSTER:
            groups_told_apart()
        names = names_in(stage, wildcards)
        references = or_stop(stage.inputs, cfg, *names)
        if STANDING:
            look_behind_ancient(workflow.dag)
        look = or_stop(STANDING.look, stage, names, references) if STANDING else Look()
        if look.again:
            workflow.dag.forcefiles.add(f"{STANDING.results}/{stage.path(*names)}")
        found = {}
        for key, value in references.items():
            if not isinstance(value, list):
                found |= {name: paths[0] for name, paths in files_of(key, [value], "manifest", look).items()}
            else:
                found |= files_of(key, value, "manifests", look)
        for key, one in references.items() if STANDING else ():
            if getattr(one, "form", None) != "shared":
                continue
            if STANDING.does_without(stage, names, one):
                found = apart(found, one, [other for other in flat(references) if other != one])
            elif STANDING.lacks(stage, names):
                found[key] = f"<results>/{one.path}"
        return found

    return with_signature(inputs)


def apart(found, shared, parents):
    """Return the files of a job that stands, without what is made for others: what they share, and parents that are gone.

    Snakemake makes again what depends on a job that runs, and what it recorded other inputs of. So these are recorded,
    but what is there is looked at in their place: the manifest of a parent that is gone, and a parent.
    """
    gone = [one for one in parents if STANDING.is_gone(one)]
    there = next((one.path for one in parents if one not in gone), parents[0].manifest)
    others = {f"<results>/{one.path}": (one.path, one.manifest) for one in gone}
    others |= {f"<results>/{one.manifest}": (one.manifest, one.manifest) for one in gone}
    others[f"<results>/{shared.path}"] = (shared.path, there)

    def looked_at(path):
        if path not in others:
            return path
        recorded, place = others[path]
        return ancient(sourcecache_entry(f"<results>/{place}", f"{STANDING.results}/{recorded}"))

    return {
        key: list(map(looked_at, paths)) if isinstance(paths, list) else looked_at(paths)
        for key, paths in found.items()
    }


def files_of(key, references, beside, look):
    """Return the files of references under `key`, and under `<key>_<beside>` those that vouch for them."""
    found = {key: [], f"{key}_{beside}": []}
    for one in references:
        if isinstance(one, Local):
            # What was compared byte by byte may have any time.
            found[key].append(ancient(one.path) if look.compared else one.path)
            continue
        path, manifest = f"<results>/{one.path}", f"<results>/{one.manifest}"
        # What changes an artefact changes its manifest.
        found[key].append({"file": path, "manifest": manifest}.get(one.form, ancient(path)))
        if one.form in ("artefact", "settled"):
            found[f"{key}_{beside}"].append(ancient(manifest) if one.form == "settled" else manifest)
    return {name: paths for name, paths in found.items() if paths or name == key}


def params_of(rule):
    """Return the params of a rule. Those that depend on `threads` are no reason to rerun."""
    stage = BY_RULE[rule]

    def compared(build):
        return with_signature(lambda wildcards: or_stop(build, cfg, *names_in(stage, wildcards)))

    def not_compared(build):
        return with_signature(lambda wildcards, threads: or_stop(build, cfg, *names_in(stage, wildcards)))

    params = {"doing": not_compared(lambda cfg, *names: stage.doing.format(**dict(zip(stage.wildcards, names))))}
    params |= {"run": not_compared(lambda cfg, *names: stage.run)}
    # In a workflow that takes this one as a module, Snakemake's name of the rule has a prefix.
    params |= {"rule": not_compared(lambda cfg, *names: rule)}
    params |= {"recipe": compared(stage.recipe)} if stage.recipe else {}
    params |= {"client": not_compared(stage.client)} if stage.client else {}
    return params | {name: compared(build) for name, build in stage.params.items()}


def needs_of(rule):
    """Return the resources of a rule: for each, how much a job needs, by what it works on and by the attempt."""
    stage = BY_RULE[rule]

    @cache
    def placed(names, attempt):
        asked = job_needs(cfg, stage, names, attempt)
        if CLUSTER:
            asked, _ = CLUSTER.place(asked, attempt=attempt)
        return as_resources(asked)

    def amount(resource):
        return with_signature(lambda wildcards, attempt: placed(names_in(stage, wildcards), attempt)[resource])

    return {resource: amount(resource) for resource in RESOURCES}


def threads_of(rule):
    """Return the CPU threads of a rule's jobs."""
    stage = BY_RULE[rule]
    return with_signature(lambda wildcards: stage.cpus(cfg, *names_in(stage, wildcards)))


def made(kind, *rules):
    """Return the paths of all artefacts of a kind that a whole build makes by these rules."""
    references = [Ref(kind, "/".join(names)) for rule in rules for names in BY_RULE[rule].planned(cfg)]
    return [f"<results>/{one.path}" for one in references]
