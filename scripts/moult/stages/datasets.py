"""Stages of raw files, datasets, videos and exports."""

from typing import Any

from moult.base.files import derive_seed
from moult.base.rows import Recipe, Template
from moult.base.stage import Local, Ref, Stage
from moult.base.text import has_spellings
from moult.config.entries.datasets import Dataset, Source
from moult.config.experiment import Config
from moult.data import exports, fields, splits
from moult.data import fetch as raw_files
from moult.data import leakage as leakage_check
from moult.data import prepare as preparing
from moult.data.fields import SPLITS
from moult.data.formats import BY_NAME
from moult.data.prompts import load_template
from moult.data.videos import attach
from moult.data.videos import fetch as video_files


def raw_sources(dataset: Dataset) -> list[tuple[str, int, Source]]:
    """Return every raw file of a dataset as (split, index, Source), in the order of the splits."""
    return [
        (split, index, source) for split in fields.SPLITS for index, source in enumerate(dataset.files.get(split, []))
    ]


def fetch_dataset(cfg: Config, name: str) -> Recipe:
    """Sources without local paths: those come in as inputs."""
    sources = []
    for split, index, source in raw_sources(cfg.find("datasets", name)):
        kind = "path" if source.path else "hub" if source.hub else "url"
        described = {
            "kind": kind,
            "split": split,
            "index": index,
            "basename": source.basename,
            "sha256": source.sha256,
        }
        if kind == "hub":
            described |= {
                "hub": source.hub,
                "revision": source.revision,
                "file": source.file,
                "token": source.token,
            }
        elif kind == "url":
            described["url"] = source.url
        if source.size is not None:
            described["size"] = source.size
        sources.append(described)
    return {"sources": sources, "version": raw_files.VERSION}


def prepare_dataset(cfg: Config, name: str) -> Recipe:
    """What turns raw rows into canonical ones."""
    dataset = cfg.find("datasets", name)
    label_set = dataset.label_set
    form = BY_NAME[dataset.format]
    return {
        "name": name,
        "format": dataset.format,
        "columns": dict(sorted(dataset.columns.items())),
        **({"tags": dict(sorted(dataset.tags.items()))} if form.tagged else {}),
        "files": {
            split: [source.category or source.basename.split(".")[0].removesuffix("_data") for source in sources]
            for split, sources in sorted(dataset.files.items())
        },
        "label_set": label_set,
        "task": dataset.task or (label_set["task"] if label_set else form.task),
        "language": dataset.language,
        "dev_fraction": dataset.dev_fraction,
        **({"test_fraction": dataset.test_fraction} if dataset.test_fraction else {}),
        "limit": cfg.limit,
        "seed": derive_seed(cfg.seed, "prepare_dataset", name),
        **({"draws": splits.VERSION} if _is_drawn_from(dataset) else {}),
        **({"labels_folded": True} if any(map(has_spellings, (label_set or {}).get("labels", ()))) else {}),
        "version": preparing.VERSION,
        **(sampled_frames(dataset) if dataset.videos else {}),
    }


def _is_drawn_from(dataset):
    """Whether rows of train become those of a split that has no file."""
    fractions = {"dev": dataset.dev_fraction, "test": dataset.test_fraction}
    return "train" in dataset.files and any(fractions[split] for split in fractions.keys() - dataset.files.keys())


def export_dataset(cfg: Config, name: str) -> Recipe:
    """What prompts a data source is exported with."""
    return {"name": name, "template": template_of(training_dataset(cfg, name)), "version": exports.VERSION}


def template_of(dataset: Dataset) -> Template | None:
    """Return the prompt template of a dataset's rows; None where they are whole conversations."""
    return load_template(dataset.template) if dataset.template else None


def fetch_videos(cfg: Config, name: str) -> Recipe:
    """Where the videos of a dataset come from, if not from a local folder."""
    source = cfg.find("datasets", name).videos
    return {
        "hub": source.hub,
        "revision": source.revision,
        "folder": source.folder,
        "token": source.token,
        "version": video_files.VERSION,
    }


def sampled_frames(dataset: Dataset) -> Recipe:
    """Which frames of a dataset's videos a model sees."""
    settings = {key: getattr(dataset.videos, key) for key in ("frames", "max_pixels", "min_pixels", "multiple")}
    return {"videos": settings, "videos_version": attach.VERSION}


def check_leakage(cfg: Config, name: str) -> Recipe:
    """What counts as leakage, and what then."""
    dataset = cfg.find("datasets", name)
    leakage = dataset.leakage
    recipe = {"name": name, "near": leakage.near, "found": leakage.found, "version": leakage_check.VERSION}
    # English and Chinese are written without marks.
    recipe |= {} if dataset.language in ("en", "zh") else {"marks": True}
    # What is asked of several models is asked once.
    recipe |= {"within": True} if dataset.shape == "prompts" else {}
    return recipe | ({"beside": beside} if (beside := _beside(cfg, name)) else {})


def _beside(cfg, name):
    """The datasets that may hold a question of this one: judged items, since one question is graded and compared."""
    judged = [one.name for one in cfg.datasets if one.shape == "judge_items"]
    return [other for other in judged if other != name] if name in judged else []


def _looked_through(cfg, name):
    beside = [Ref("datasets", other) for other in _beside(cfg, name)]
    return {"dataset": Ref("datasets", name)} | ({"beside": beside} if beside else {})


def training_dataset(cfg: Config, source: str) -> Dataset:
    """Return the dataset behind a data source: itself, or the one whose questions a corpus answers."""
    if source in cfg.by_name["datasets"]:
        return cfg.find("datasets", source)
    return cfg.corpus_dataset(source)


def data_ref(cfg: Config, name: str, form: Any = "artefact") -> Ref:
    """Return the reference to a data source: a dataset's folder, or a corpus' file."""
    return Ref("corpora" if name in cfg.by_name["corpora"] else "datasets", name, form)


def _local_sources(cfg, name):
    """The local raw files of a dataset that are there, in the order of its recipe."""
    sources = raw_sources(cfg.find("datasets", name))
    return {"local": [Local(source.path) for _, _, source in sources if source.path and not source.is_awaited]}


def _prepared_from(cfg, name):
    """The raw files of a dataset, and its videos where it has some."""
    videos = cfg.find("datasets", name).videos
    found = {"raw": Ref("raw", name)}
    return found | ({"videos": Local(videos.path) if videos.path else Ref("videos", name)} if videos else {})


def _named(cfg):
    return [(dataset.name,) for dataset in cfg.datasets]


def exportable(cfg: Config) -> list[tuple[str]]:
    """Return the data sources that can be exported: datasets, and corpora of answers."""
    return [*_named(cfg), *((one.name,) for one in cfg.corpora if one.writes == "answers")]


def _exported(cfg):
    """Rows that surely have answers; questions that may have some are exported when asked for by name."""
    unsure = {one.name for one in cfg.datasets if one.answered_rows != "all"}
    return [(name,) for (name,) in exportable(cfg) if name not in unsure]


def _rows_in_words(recipe, facts):
    rows = " · ".join(f"{facts['splits'][split]['rows']:,} {split}" for split in SPLITS if split in facts["splits"])
    return rows, f"{recipe['format']} rows, task {recipe['task']}: {rows}"


STAGES = (
    Stage(
        rule="fetch_dataset",
        makes="raw",
        doing="fetching the raw files of {dataset}",
        run="moult.data.fetch:run",
        wildcards=("dataset",),
        names=_named,
        recipe=fetch_dataset,
        inputs=_local_sources,
        needs="fetch",
    ),
    Stage(
        rule="fetch_videos",
        makes="videos",
        doing="fetching the videos of {dataset}",
        run="moult.data.videos.fetch:run",
        wildcards=("dataset",),
        names=lambda cfg: [(one.name,) for one in cfg.datasets if one.videos and one.videos.hub],
        recipe=fetch_videos,
        needs="videos",
    ),
    Stage(
        rule="prepare_dataset",
        makes="datasets",
        doing="preparing {dataset}: canonical rows, rejects, profile",
        run="moult.data.prepare:run",
        wildcards=("dataset",),
        names=_named,
        recipe=prepare_dataset,
        inputs=_prepared_from,
        # Videos take longer than tables.
        needs=lambda cfg, name: "videos" if cfg.find("datasets", name).videos else "tables",
        # Processes that decode; what they decode does not depend on their number.
        threads=lambda cfg, name: 4 if cfg.find("datasets", name).videos else 1,
        words=_rows_in_words,
    ),
    Stage(
        rule="check_leakage",
        makes="leakage",
        doing="looking for rows of {dataset} that stand in two splits",
        run="moult.data.leakage:run",
        wildcards=("dataset",),
        names=_named,
        recipe=check_leakage,
        inputs=_looked_through,
        sealed=False,
    ),
    Stage(
        rule="export_dataset",
        makes="exports",
        doing="writing {export} as LLaMA-Factory reads it",
        run="moult.data.exports:run",
        wildcards=("export",),
        names=exportable,
        wanted=_exported,
        recipe=export_dataset,
        inputs=lambda cfg, name: {"data": data_ref(cfg, name)},
    ),
    Stage(
        rule="index_exports",
        makes="exports",
        doing="writing one dataset_info.json for all exports",
        run="moult.data.exports:run_index",
        inputs=lambda cfg: {"exports": [Ref("exports", name) for (name,) in _exported(cfg)]},
        file="exports/dataset_info.json",
        sealed=False,
    ),
)
