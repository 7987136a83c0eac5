"""Datasets: raw files, columns, labels, videos."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from moult.base.errors import nearest
from moult.base.paths import RESOURCES
from moult.base.rows import LabelSet
from moult.base.section import Name, Section, Sha256, Variable, exactly_one
from moult.data.fields import Prompt, Split
from moult.data.formats import BY_NAME, FORMATS
from moult.data.formats.dataset_info import dataset_of_info

LABELS = RESOURCES / "labels"


class Source(Section):
    """One raw file: a local path, a URL with its SHA-256, or a file of a hub dataset at a revision."""

    path: str | None = Field(None, description="A file on this machine, relative to the working directory.")
    url: str | None = Field(None, pattern=r"^https?://")
    sha256: Sha256 | None = Field(None, description="Of the file; null until `make pin` records it.")
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="A hub dataset, owner/name.")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="Commit of the hub dataset.")
    file: str | None = Field(None, description="Path of the file in the hub dataset.")
    token: Variable | None = None
    category: str | None = Field(None, description="Stack Overflow category; default: the file's name.")

    @model_validator(mode="after")
    def one_place(self) -> Self:
        exactly_one(self, "path", "url", "hub")
        if self.hub and not self.file:
            raise ValueError("a hub source needs `file`: the path of the file in the hub dataset")
        return self

    @property
    def basename(self) -> str:
        """The file's own name, e.g. `ml.tsv`."""
        return Path(self.path or self.file or (self.url or "").split("?")[0]).name


def _as_sources(value):
    value = value if isinstance(value, list) else [value]
    return [{"path": item} if isinstance(item, str) else item for item in value]


class Leakage(Section):
    """What to do about rows of one split that stand in another too."""

    found: Literal["report", "fail"] = "report"
    near: float = Field(0.9, gt=0, le=1, description="Cosine of character 5-grams from which rows are near duplicates.")


class Videos(Section):
    """The videos that a table's rows speak of, and which of their frames a model sees, in training and inference."""

    path: str | None = Field(None, description="A folder on this machine, relative to the working directory.")
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="A hub dataset, owner/name.")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="Commit of the hub dataset.")
    folder: str | None = Field(None, description="Folder of the videos in the hub dataset.")
    token: Variable | None = None
    frames: int = Field(4, ge=1, description="Spread evenly over a video; two of them are up to 192 tokens.")
    max_pixels: int = Field(151_200, ge=1, description="Pixels of a frame at the most, e.g. 360 × 420.")
    min_pixels: int = Field(3136, ge=1, description="Pixels of a frame at the least.")
    multiple: int = Field(28, ge=1, description="Sides are multiples of it: the model's patch times its merge.")

    @model_validator(mode="after")
    def one_place(self) -> Self:
        exactly_one(self, "path", "hub")
        if self.hub and not self.folder:
            raise ValueError("a hub source needs `folder`: where the videos are in the hub dataset")
        if self.multiple**2 > self.max_pixels or self.min_pixels > self.max_pixels:
            raise ValueError(f"max_pixels: {self.max_pixels} leaves no frame of min_pixels and of multiple × multiple")
        return self


class Dataset(Section):
    """Raw tables that become one parquet per split."""

    name: Name
    format: Literal[tuple(one.name for one in FORMATS)]  # type: ignore[valid-type]
    files: dict[Split, Annotated[list[Source], BeforeValidator(_as_sources)]] = Field(min_length=1)
    columns: dict[str, str] = Field({}, description="Field of the format → column of your file.")
    tags: dict[str, str] = Field({}, description="Of sharegpt: LLaMA-Factory's tags → how your file spells them.")
    dataset_info: str | None = Field(None, description="A dataset_info.json of LLaMA-Factory, instead of the above.")
    entries: dict[Split, str] = Field({}, description="Split → its entry in `dataset_info`.")
    videos: Videos | None = Field(None, description="Where rows have a video: its folder, and which frames are seen.")
    labels: str | list[str] | None = Field(None, description="A file of resources/labels, or the labels themselves.")
    task: str | None = None
    prompt: Prompt | None = Field(None, description="How a row is put to a model, in training and in evaluation.")
    dev_fraction: float = Field(0.1, ge=0, lt=1, description="Carved out of train where there is no dev file.")
    test_fraction: float = Field(0, ge=0, lt=1, description="Carved out of train where there is no test file.")
    leakage: Leakage = Leakage()
    license: str | None = None

    @model_validator(mode="before")
    @classmethod
    def as_dataset_info_says(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("dataset_info") is None:
            return values
        if given := next((key for key in ("format", "columns", "tags") if key in values), None):
            raise ValueError(f"{given}: the entries of dataset_info say it; leave it out")
        entries, files = values.get("entries"), values.get("files", {})
        if not (isinstance(entries, dict) and entries and isinstance(files, dict)):
            raise ValueError("entries: name the entry of each split, e.g. `entries: {train: my_data}`")
        return values | dataset_of_info(values["dataset_info"], entries, files)

    @model_validator(mode="after")
    def fits_its_format(self) -> Self:
        form = BY_NAME[self.format]
        if form.shape != "conversations" and (self.tags or (self.entries and not self.dataset_info)):
            raise ValueError("tags and entries belong to the formats of LLaMA-Factory; leave them out")
        if self.prompt and not form.prompt:
            raise ValueError(f"prompt: a row of {self.format} has its own prompt; leave it out")
        if self.labels is not None and form.shape != "labelled":
            raise ValueError(f"labels: rows of format {self.format} have none; leave them out")
        if self.videos and not form.videos:
            raise ValueError(f"videos: rows of format {self.format} have none")
        form.check(self)
        return self

    @model_validator(mode="after")
    def labels_are_there(self) -> Self:
        if self.shape == "labelled" and self.labels is None:
            raise ValueError(f"labels: name a file of resources/labels, one of {shipped_labels()}, or list them")
        if isinstance(self.labels, str) and self.labels not in shipped_labels():
            raise ValueError(
                f"labels: {self.labels!r} is not in resources/labels/{nearest(self.labels, shipped_labels())}"
            )
        if isinstance(self.labels, list) and not self.task:
            raise ValueError("task: with labels of your own, say what they label, e.g. `task: emotion`")
        return self

    @property
    def shape(self) -> str:
        """What one row is: questions, prompts, labelled, conversations, ...; see `Format`."""
        return BY_NAME[self.format].shape

    @property
    def answers(self) -> str:
        """Whether all, some or none of the rows have an answer to train on."""
        return BY_NAME[self.format].answers

    @property
    def label_set(self) -> LabelSet | None:
        """The labels as data: dataset, task, task_words, language, labels; None where rows have none."""
        if self.labels is None:
            return None
        if isinstance(self.labels, str):
            return _shipped_label_set(self.labels)
        task = self.task or ""
        return {
            "dataset": self.name,
            "task": task,
            "task_words": task.replace("_", " "),
            "language": "und",
            "labels": self.labels,
        }

    @property
    def template(self) -> str | None:
        """Name of the prompt template of this dataset's rows; None where a row has its own prompt."""
        form = BY_NAME[self.format]
        return self.prompt or (form.video_prompt if self.videos else form.prompt)


@cache
def shipped_labels() -> list[str]:
    """Return the names of the label sets in resources/labels."""
    return sorted(path.stem for path in LABELS.glob("*.yaml"))


@cache
def _shipped_label_set(name):
    return yaml.safe_load((LABELS / f"{name}.yaml").read_text(encoding="utf-8"))
