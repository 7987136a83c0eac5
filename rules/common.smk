# Checks the config, and answers the questions that rules ask: which files, which settings, how much. No rules here.

import os
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from moult.base.errors import UserError
from moult.base.files import digest, read_json
from moult.config.expansion import one_of
from moult.config.load import load
from moult.corpora.refined import check_rounds
from moult.jobs.gpus import visible_devices
from moult.jobs.locks import clear_stale_locks
from moult.jobs.slurm import cancel_leftovers, keep_to_squeue
from moult.planning.needs import job_needs, judge_at_work, model_at_work
from moult.planning.partitions import RESOURCES, SHIPPED, VARIABLE, Site, as_resources
from moult.stages import recipes
from moult.stages.foreseen import row_digests


def checked_config():
    """Return the typed config, or stop with its mistakes before there is a graph."""
    source = ", ".join(str(path) for path in workflow.configfiles) or "config"
    try:
        checked = load(config, source)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    absent = (
        [
            f"dataset {dataset.name}: {source.path} does not exist"
            for dataset in checked.datasets
            for _, _, source in recipes.raw_sources(dataset)
            if source.path and not Path(source.path).exists()
        ]
        + [
            f"model {model.name}: the folder {model.fetch.path} does not exist"
            for model in checked.models
            if model.fetch and model.fetch.path and not Path(model.fetch.path).is_dir()
        ]
        + [
            f"dataset {dataset.name}: the folder {dataset.videos.path} of its videos does not exist"
            for dataset in checked.datasets
            if dataset.videos and dataset.videos.path and not Path(dataset.videos.path).is_dir()
        ]
    )
    if absent:
        raise WorkflowError("\n".join(f"{source}: {line}; put it there or correct the path." for line in absent))
    if workflow.is_main_process:
        results = Path("results", checked.name)
        for line in checked.hub_needs(lambda kind, name: (results / kind / f"{name}.manifest.json").exists()):
            logger.warning(f"{line}.")
    for place in checked.unpinned():
        logger.warning(f"{place}: no revision or checksum yet; run `make pin` before you build.")
    return checked


cfg = checked_config()

# Snakemake walks from target to source in recursion, and three jobs of each round stand behind one another.
sys.setrecursionlimit(
    max(sys.getrecursionlimit(), 1000 + 100 * max((one.round.count for one in cfg.models if one.round), default=0))
)

if workflow.is_main_process and not workflow.dryrun:
    scheduler_lock = clear_stale_locks(".snakemake")


FETCHED_VIDEOS = [dataset.name for dataset in cfg.datasets if dataset.videos and dataset.videos.hub]
FETCHED = cfg.names("models", "fetch")


def trained(way, method):
    """Return the models that are trained in a way (finetune, optimise) by a method (lora, full)."""
    return [name for name in cfg.names("models", way) if cfg.find("models", name).training.method == method]


FINETUNED_LORA, FINETUNED_FULL = trained("finetune", "lora"), trained("finetune", "full")
OPTIMISED_LORA, OPTIMISED_FULL = trained("optimise", "lora"), trained("optimise", "full")
LORA = FINETUNED_LORA + OPTIMISED_LORA
MERGED = cfg.names("models", "merge")
GUIDELINES = [corpus.name for corpus in cfg.corpora if corpus.kind == "guidelines"]
DISTILLED = [corpus.name for corpus in cfg.corpora if corpus.kind == "distilled"]
REFINED = [corpus.name for corpus in cfg.corpora if corpus.kind == "refined"]
CONTRASTS = [corpus.name for corpus in cfg.corpora if corpus.kind == "contrasts"]
# Rows that surely have answers; questions that may have some are exported when asked for by name.
EXPORTED = [one.name for one in cfg.datasets if one.answers == "all"] + DISTILLED + REFINED
PREDICTED = list(cfg.predicted)
MEASURED = list(cfg.measured)
LABELLED, JUDGED = cfg.names("suites", "labels"), cfg.names("suites", "judge")
ANSWERED = list(cfg.answered)
JUDGEMENTS = [pair for pair, against in cfg.judged.items() if pair[1] != against]
SCORED = [*MEASURED, *cfg.judged]


wildcard_constraints:
    dataset=one_of(cfg.names("datasets")),
    corpus=one_of(cfg.names("corpora")),
    model=one_of(cfg.names("models")),
    suite=one_of(cfg.names("suites")),
    measured=one_of(sorted({name for _, name in SCORED})),


# ---- files


def artefact(kind, name):
    """Return the path of a directory artefact."""
    return f"<results>/{kind}/{name}"


def manifest(kind, name):
    """Return the path of the manifest that vouches for an artefact; its change is what makes a job rerun."""
    return f"<results>/{kind}/{name}.manifest.json"


def data_path(name):
    """Return a data source as a path: a dataset's folder or a corpus' file."""
    if name in cfg.by_name["corpora"]:
        return f"<results>/corpora/{name}.jsonl"
    return artefact("datasets", name)


def data_manifest(name):
    """Return the manifest of a data source."""
    return manifest("corpora" if name in cfg.by_name["corpora"] else "datasets", name)


def local_sources(wildcards):
    """Return the local raw files of a dataset, in the order of its recipe."""
    sources = recipes.raw_sources(cfg.find("datasets", wildcards.dataset))
    return [source.path for _, _, source in sources if source.path]


def prepared_from(wildcards):
    """Return what a dataset is prepared from: its raw files, and its videos where it has some."""
    inputs = {"raw": ancient(f"<results>/raw/{wildcards.dataset}"), "raw_manifest": manifest("raw", wildcards.dataset)}
    videos = cfg.find("datasets", wildcards.dataset).videos
    if videos and videos.path:
        inputs["videos"] = videos.path
    elif videos:
        inputs["videos"] = ancient(artefact("videos", wildcards.dataset))
        inputs["videos_manifest"] = manifest("videos", wildcards.dataset)
    return inputs


def local_model(wildcards):
    """Return the weights and settings of a model that is fetched from a local folder."""
    path = cfg.find("models", wildcards.model).fetch.path
    return [path] if path else []


def corpus_inputs(wildcards):
    """Return what a corpus is generated from: questions or another corpus, and the model that answers, if it is ours."""
    corpus = cfg.find("corpora", wildcards.corpus)
    served = cfg.find("endpoints", corpus.endpoint).serve
    inputs = {}
    if corpus.dataset:
        inputs["questions"] = ancient(artefact("datasets", corpus.dataset))
        inputs["questions_manifest"] = manifest("datasets", corpus.dataset)
    else:
        inputs["asked"] = data_path(corpus.asked)
        inputs["asked_manifest"] = data_manifest(corpus.asked)
    if served:
        inputs["served"] = ancient(artefact("models", served))
        inputs["served_manifest"] = manifest("models", served)
    return inputs


def refining_inputs(wildcards):
    """Return what a corpus is refined from: questions, and the models that answer and judge, where they are ours."""
    corpus = cfg.find("corpora", wildcards.corpus)
    inputs = {"questions": ancient(data_path(corpus.dataset or corpus.corpus))}
    inputs["questions_manifest"] = data_manifest(corpus.dataset or corpus.corpus)
    if is_made_as_planned(corpus):
        # The recipe has the digest of these rows: what changes elsewhere in the dataset is no change here. Where the
        # recipe has changed, the file may not be ancient: behind a job that is to run, Snakemake looks at no params.
        inputs["questions_manifest"] = ancient(inputs["questions_manifest"])
    for part, endpoint in (("served", corpus.endpoint), ("judge", corpus.judge)):
        if served := cfg.find("endpoints", endpoint).serve:
            inputs |= weights_of(part, served, corpus)
    return inputs


def weights_of(part, name, user):
    """Return the inputs of what loads a model's full weights. Within rounds these are there for a while only, and made
    again without a change to what was made with them; the adapter's manifest is what tells of one."""
    if cfg.is_within_rounds(name, user):
        weights, vouched = artefact("students", name), manifest("students", name)
        return {
            part: ancient(weights),
            f"{part}_manifest": ancient(vouched),
            f"{part}_made_by": manifest("adapters", name),
        }
    return {part: ancient(artefact("models", name)), f"{part}_manifest": manifest("models", name)}


@cache
def questions_now(dataset, *splits):
    """Return a digest for each row of a dataset's splits, None where they cannot be known before it is prepared."""
    found = row_digests(cfg, dataset)
    return found and [row for split in splits for row in found.get(split, [])]


def planned_rows(corpus):
    """Return the digest of the rows of a corpus' slice, None where it has none or they cannot be known yet."""
    rows = questions_now(corpus.dataset, *corpus.splits) if corpus.slice and corpus.dataset else None
    return rows and digest(rows[slice(*corpus.slice)])


def is_made_as_planned(corpus):
    """Tell whether a slice is there, refined by the recipe of today out of the rows of today."""
    made = Path("results", cfg.name, "corpora", f"{corpus.name}.manifest.json")
    return planned_rows(corpus) and made.exists() and digest(read_json(made)["recipe"]) == digest(refined_from(corpus))


def training_data(wildcards):
    """Return the data sources of a trained model, in the order of its recipe."""
    return [ancient(data_path(name)) for name in cfg.find("models", wildcards.model).training.data]


def training_manifests(wildcards):
    """Return the manifests of the data sources of a trained model."""
    return [data_manifest(name) for name in cfg.find("models", wildcards.model).training.data]


def training_leakage(wildcards):
    """Return the leakage tables of the data sources: where the config says that leakage fails, nothing trains."""
    data = cfg.find("models", wildcards.model).training.data
    names = dict.fromkeys(recipes.training_dataset(cfg, name).name for name in data)
    return [ancient(f"<results>/leakage/{name}.csv") for name in names]


def exported_data(wildcards):
    """Return the dataset or corpus that is exported."""
    return ancient(data_path(wildcards.export))


def exported_manifest(wildcards):
    """Return the manifest of the dataset or corpus that is exported."""
    return data_manifest(wildcards.export)


def adapter_base(wildcards):
    """Return the base that an adapter is trained on."""
    model = cfg.find("models", wildcards.model)
    return weights_of("base", model.finetune.base, model)


def folded_into(wildcards):
    """Return the base that an adapter is folded into, for rounds together with all adapters before."""
    return artefact("models", cfg.before_rounds(wildcards.model))


def folded_into_manifest(wildcards):
    """Return the manifest of the base that an adapter is folded into."""
    return manifest("models", cfg.before_rounds(wildcards.model))


def base_model(wildcards):
    """Return the base of a trained model."""
    return artefact("models", cfg.find("models", wildcards.model).training.base)


def base_manifest(wildcards):
    """Return the manifest of the base of a trained model."""
    return f"{base_model(wildcards)}.manifest.json"


def parent_models(wildcards):
    """Return the parents of a merge, and its base."""
    return [ancient(artefact("models", name)) for name in cfg.find("models", wildcards.model).parents]


def parent_manifests(wildcards):
    """Return the manifests of the parents of a merge, and of its base."""
    return [manifest("models", name) for name in cfg.find("models", wildcards.model).parents]


def parent_names(wildcards):
    """Return the names of the parents of a merge, and of its base."""
    return cfg.find("models", wildcards.model).parents


def asked_datasets(wildcards):
    """Return the datasets of a suite that a model predicts or that something is scored on, in the suite's order."""
    return [ancient(artefact("datasets", name)) for name in _asked(wildcards)]


def asked_manifests(wildcards):
    """Return the manifests of those datasets."""
    return [manifest("datasets", name) for name in _asked(wildcards)]


def _asked(wildcards):
    if "model" in wildcards.keys():
        return cfg.predicted[wildcards.suite, wildcards.model]
    return cfg.measured[wildcards.suite, wildcards.measured]


def answers(wildcards):
    """Return the predictions of the models that stand for a model or a setting."""
    models = dict.fromkeys(cfg.measured[wildcards.suite, wildcards.measured].values())
    return [f"<results>/predictions/{wildcards.suite}/{model}.jsonl" for model in models]


def answer_manifests(wildcards):
    """Return the manifests of those predictions."""
    return [f"{path.removesuffix('.jsonl')}.manifest.json" for path in answers(wildcards)]


def suite_datasets(wildcards):
    """Return the datasets of a judged suite, in its order."""
    return [ancient(artefact("datasets", name)) for name in cfg.find("suites", wildcards.suite).judge.datasets]


def suite_manifests(wildcards):
    """Return the manifests of the datasets of a judged suite."""
    return [manifest("datasets", name) for name in cfg.find("suites", wildcards.suite).judge.datasets]


def judged_answers(wildcards):
    """Return the two files of answers that a judge compares, and the judge, if it is ours."""
    pair = wildcards.suite, wildcards.measured
    served = judge_at_work(cfg, wildcards.suite)
    folder = f"answers/{wildcards.suite}" if cfg.evaluation_of[pair].models else "corpora"
    inputs = {}
    for side, name in (("ours", wildcards.measured), ("theirs", cfg.judged[pair])):
        inputs[side] = f"<results>/{folder}/{name}.jsonl"
        inputs[f"{side}_manifest"] = manifest(folder, name)
    if served:
        inputs["served"] = ancient(artefact("models", served))
        inputs["served_manifest"] = manifest("models", served)
    return inputs


def compared_with(wildcards):
    """Return whose judgements a score is made of: the model's own, or all that set another against it."""
    pairs = [pair for pair in JUDGEMENTS if pair[0] == wildcards.suite]
    return [pair for pair in pairs if pair[1] == wildcards.measured] or pairs


def judgements(wildcards):
    """Return the judgements that a score is made of."""
    return [f"<results>/judgements/{suite}/{name}.jsonl" for suite, name in compared_with(wildcards)]


def judgement_manifests(wildcards):
    """Return the manifests of the judgements that a score is made of."""
    return [manifest(f"judgements/{suite}", name) for suite, name in compared_with(wildcards)]


def report_manifests(wildcards):
    """Return the manifests of everything the config names: what the report tells of."""
    made = [("datasets", name) for name in cfg.names("datasets")]
    made += [("corpora", name) for name in cfg.names("corpora")]
    made += [("adapters", name) for name in LORA]
    made += [("models", name) for name in cfg.kept_models]
    measured = {"predictions": PREDICTED, "answers": ANSWERED, "judgements": JUDGEMENTS, "scores": SCORED}
    made += [(kind, f"{suite}/{name}") for kind, pairs in measured.items() for suite, name in pairs]
    return [manifest(kind, name) for kind, name in made]


# ---- settings


def recipe_of(build):
    """Return the params function of a rule: the recipe of the artefact that its wildcards name."""

    def recipe(wildcards):
        return build(cfg, *wildcards)

    return recipe


def client_of(wildcards, threads):
    """Return how the endpoint of a corpus is dealt with. Params that depend on `threads` are no reason to rerun."""
    return recipes.client(cfg, cfg.find("corpora", wildcards.corpus).endpoint)


def judge_client(wildcards, threads):
    """Return how the endpoint of a judge is dealt with; see `client_of`."""
    return recipes.client(cfg, cfg.find("suites", wildcards.suite).judge.endpoint)


def refining_clients(wildcards, threads):
    """Return how both endpoints of a refined corpus are dealt with, and of which round it is; see `client_of`."""
    corpus = cfg.find("corpora", wildcards.corpus)
    clients = {part: recipes.client(cfg, getattr(corpus, part)) for part in ("endpoint", "judge")}
    return clients | {"round": corpus.round.model_dump() if corpus.round else None}


def refining_recipe(wildcards):
    """Return the recipe of a refined corpus, with the digest of its slice where it is known."""
    return refined_from(cfg.find("corpora", wildcards.corpus))


def refined_from(corpus):
    """Return the recipe of a refined corpus, with the digest of its slice where it is known."""
    rows = planned_rows(corpus)
    return recipes.refined(cfg, corpus.name) | ({"rows": rows} if rows else {})


def card_of(wildcards):
    """Return what a model card says beside the recipe."""
    return recipes.card(cfg, wildcards.model)


# ---- needs


def cluster():
    """Return the cluster that jobs go to, or None where they stay on this machine; stop if a job fits nowhere there."""
    # The slurm profile names an account: that is what a cluster is known by. Which partitions it has is not said in the
    # profile, because there a path is one of the working directory.
    asked = workflow.resource_settings._parsed_default_resources
    if "slurm_account" not in asked or not workflow.is_main_process:
        return None
    os.environ.setdefault(VARIABLE, str(SHIPPED))
    if asked["slurm_account"].raw == "$SLURM_ACCOUNT" and "SLURM_ACCOUNT" not in os.environ:
        raise WorkflowError(
            "SLURM_ACCOUNT is not set: export the account that your jobs are charged to (`sacctmgr show associations "
            "user=$USER format=account` lists yours), or export it empty where the cluster has no accounts."
        )
    try:
        site = Site(os.environ[VARIABLE])
        site.refuse_what_fits_nowhere(cfg)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    return site


CLUSTER = cluster()


# Not in a dry run, which has no start.
onstart:
    try:
        if CLUSTER:
            cancel_leftovers(logger.warning)
            keep_to_squeue()
    except UserError as error:
        raise WorkflowError(str(error)) from None


if CLUSTER is None and workflow.is_main_process and "gpu" not in workflow.global_resources:
    # One job a GPU; on a machine without, one job that would rather have had one. `--resources gpu=2` says otherwise.
    workflow.register_resource("gpu", max(1, len(visible_devices())))


def needs_of(stage):
    """Return the resources of a rule: for each, how much a job needs, by what it works on and by the attempt."""

    @cache
    def placed(names, attempt):
        names = dict(names)
        at = stage(names) if callable(stage) else stage
        asked = job_needs(cfg, at, names, attempt)
        if CLUSTER:
            asked, _ = CLUSTER.place(asked, attempt=attempt)
        return as_resources(asked)

    def amount(resource):
        return lambda wildcards, attempt: placed(tuple(wildcards.items()), attempt)[resource]

    return {resource: amount(resource) for resource in RESOURCES}


def preparation(names):
    """Return the stage that prepares a dataset: videos take longer than tables."""
    return "videos" if cfg.find("datasets", names["dataset"]).videos else "tables"


def decoding_threads(wildcards):
    """Return the processes that decode a dataset's videos; what they decode does not depend on their number."""
    return 4 if cfg.find("datasets", wildcards.dataset).videos else 1


def threads_of(wildcards):
    """Return the CPU threads of a job that loads a model; they are in its recipe too."""
    name = model_at_work(cfg, wildcards)
    return cfg.compute_of(name).threads if name else 1


def judging_threads(wildcards):
    """Return the CPU threads of a job that judges."""
    name = judge_at_work(cfg, wildcards.suite)
    return cfg.compute_of(name).threads if name else 1


def training_threads(wildcards):
    """Return the CPU threads of a training job: those of a model, for each device."""
    return threads_of(wildcards) * cfg.find("models", wildcards.model).training.devices


# ---- rounds


if workflow.is_main_process:
    for entry in cfg.rounds:
        if found := questions_now(entry.dataset, "train"):
            first = cfg.find("corpora", f"{entry.name}-r1").round
            try:
                check_rounds(first.model_dump(), len(found), entry.dataset)
            except UserError as error:
                raise WorkflowError(str(error)) from None
