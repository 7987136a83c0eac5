"""Datasets: raw files, columns, labels, videos."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from moult.base.errors import UserError, nearest
from moult.base.outside import one_line
from moult.base.paths import named_files, written_out
from moult.base.rows import LabelSet
from moult.base.section import (
    LINE,
    Address,
    Hub,
    Inside,
    Line,
    LocalPath,
    Name,
    Revision,
    Section,
    Sha256,
    Variable,
    exactly_one,
)
from moult.base.spelling import fits
from moult.base.yaml_files import read_yaml
from moult.data.fields import Prompt, Split
from moult.data.formats import BY_NAME, FORMATS
from moult.data.formats.dataset_info import dataset_of_info
from moult.inference.structured import label_key


class Source(Section):
    """One raw file: a local path, a URL with its SHA-256, or a file of a hub dataset at a revision."""

    path: LocalPath | None = Field(None, description="Raw file on this machine, relative to the working directory.")
    url: Address | None = Field(None, description="Address of the raw file, http or https.")
    sha256: Sha256 | None = Field(
        None,
        description=(
            "SHA-256 of the raw file, 64 hex digits; null: not checked for a local file, to be recorded by "
            "`make pin` for another one."
        ),
    )
    hub: Hub | None = Field(None, description="Dataset repository on the Hugging Face hub, owner/name.")
    revision: Revision | None = Field(
        None,
        description="Commit of the hub repository, 40 hex digits; null until `make pin` records it.",
    )
    file: Inside | None = Field(None, description="Path of the raw file in the hub repository.")
    token: Variable | None = Field(
        None,
        description="Environment variable with your hub token, which a gated dataset needs; null: no token is sent.",
    )
    category: Line | None = Field(
        None,
        description=(
            "Category of the questions in this raw file; null: the file's name up to its first dot, without a"
            " trailing `_data`."
        ),
    )

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

    found: Literal["report", "fail"] = Field(
        "report",
        description=(
            "What follows when rows of one split stand in another: the report shows them, or the build fails "
            "before training."
        ),
    )
    near: float = Field(
        0.9,
        gt=0,
        le=1,
        description=(
            "Cosine similarity of character 5-grams, above 0 to 1, from which two rows count as near duplicates."
        ),
    )


class Videos(Section):
    """The videos that a table's rows speak of, and which of their frames a model sees, in training and inference."""

    path: LocalPath | None = Field(
        None, description="Folder of the videos on this machine, relative to the working directory."
    )
    hub: Hub | None = Field(
        None, description="Dataset repository on the Hugging Face hub that holds the videos, owner/name."
    )
    revision: Revision | None = Field(
        None,
        description="Commit of the hub repository, 40 hex digits; null until `make pin` records it.",
    )
    folder: Inside | None = Field(None, description="Folder of the videos in the hub repository.")
    token: Variable | None = Field(
        None,
        description="Environment variable with your hub token, which a gated dataset needs; null: no token is sent.",
    )
    frames: int = Field(
        4,
        ge=1,
        description=(
            "Frames per video that a model sees, spread evenly over the video; with the default `max_pixels`,"
            " two frames are at most 192 tokens."
        ),
    )
    max_pixels: int = Field(
        151_200, ge=1, description="Largest number of pixels per frame, e.g. 360 × 420; larger frames are scaled down."
    )
    min_pixels: int = Field(
        3136, ge=1, description="Smallest number of pixels per frame; smaller frames are scaled up."
    )
    multiple: int = Field(
        28,
        ge=1,
        description=(
            "Pixels of which both sides of a frame are a multiple: the model's patch size times its merge size."
        ),
    )

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

    name: Name = Field(
        description=(
            "Name of the dataset, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It "
            "is part of paths."
        )
    )
    format: Literal[tuple(one.name for one in FORMATS)] = Field(  # type: ignore[valid-type]
        description="Layout of the raw rows."
    )
    files: dict[Split, Annotated[list[Source], BeforeValidator(_as_sources)]] = Field(
        min_length=1, description="Raw files per split (train, dev, test): a path, a source, or a list of them."
    )
    rows: dict[Split, Annotated[int, Field(ge=1)]] = Field(
        {},
        description=(
            "Rows of the raw files per split, as their publisher says; `make estimate` counts with them until the "
            "files are fetched."
        ),
    )
    columns: dict[str, str] = Field(
        {},
        description=(
            "Field of the format → column of your file. In a table, a field that is left out keeps its own "
            "name; in LLaMA-Factory's formats it then has no column."
        ),
    )
    tags: dict[str, str] = Field(
        {}, description="Tag of LLaMA-Factory → how your file spells the tag; for `format: sharegpt` only."
    )
    dataset_info: LocalPath | None = Field(
        None,
        description="A dataset_info.json of LLaMA-Factory, which says format, files, columns and tags in their stead.",
    )
    entries: dict[Split, str] = Field({}, description="Split → name of its entry in the `dataset_info` file.")
    videos: Videos | None = Field(
        None, description="Where the rows' videos are and which frames a model sees; null: rows have no videos."
    )
    labels: str | list[str] | None = Field(
        None,
        description=(
            "Name of a file of resources/labels or of labels/ in the working directory, or a list of labels; needed "
            "where rows are labelled."
        ),
    )
    task: Line | None = Field(None, description="What the labels say, e.g. emotion; needed where `labels` is a list.")
    prompt: Prompt | None = Field(
        None,
        description=(
            "Template of resources/prompts that turns a row into a prompt, in training and in evaluation; "
            "null: that of the format."
        ),
    )
    dev_fraction: float = Field(
        0.1, ge=0, lt=1, description="Share of the train rows that become dev rows, where there is no dev file."
    )
    test_fraction: float = Field(
        0, ge=0, lt=1, description="Share of the train rows that become test rows, where there is no test file."
    )
    leakage: Leakage = Field(Leakage(), description="What is done about rows of one split that stand in another too.")
    license: Line | None = Field(
        None, description="SPDX name of the data's licence, which model cards name; null: not stated."
    )

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
        return values | dataset_of_info(written_out(str(values["dataset_info"])), entries, files)

    @model_validator(mode="after")
    def fits_its_format(self) -> Self:
        form = BY_NAME[self.format]
        if not form.tagged and (self.tags or (self.entries and not self.dataset_info)):
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
            raise ValueError(f"labels: name a file of resources/labels or labels/, one of {label_sets()}, or list them")
        if isinstance(self.labels, str) and self.labels not in label_sets():
            near = nearest(self.labels, label_sets())
            raise ValueError(f"labels: {self.labels!r} is not in resources/labels/ or labels/{near}")
        if isinstance(self.labels, str):
            load_label_set(self.labels)
        if isinstance(self.labels, list) and (flaw := _flaw_of_labels(self.labels)):
            raise ValueError(f"labels: {flaw}")
        if isinstance(self.labels, list) and not self.task:
            raise ValueError("task: with labels of your own, say what they label, e.g. `task: emotion`")
        return self

    @property
    def shape(self) -> str:
        """What one row is: questions, prompts, labelled, conversations, ...; see `Format`."""
        return BY_NAME[self.format].shape

    @property
    def tagged(self) -> bool:
        """Whether messages are spelt by tags, as in LLaMA-Factory."""
        return BY_NAME[self.format].tagged

    @property
    def answered_rows(self) -> str:
        """Whether all, some or none of the rows have an answer to train on."""
        return BY_NAME[self.format].answered_rows

    @property
    def label_set(self) -> LabelSet | None:
        """The labels as data: dataset, task, task_words, language, labels; None where rows have none."""
        if self.labels is None:
            return None
        if isinstance(self.labels, str):
            return load_label_set(self.labels)
        task = self.task or ""
        return {
            "dataset": self.name,
            "task": task,
            "task_words": task.replace("_", " "),
            "language": "und",
            "labels": self.labels,
        }

    @property
    def language(self) -> str:
        """Language of the texts, as ISO 639 has it; `und` where nobody says it."""
        return self.label_set["language"] if self.label_set else BY_NAME[self.format].language

    @property
    def template(self) -> str | None:
        """Name of the prompt template of this dataset's rows; None where a row has its own prompt."""
        form = BY_NAME[self.format]
        return self.prompt or (form.video_prompt if self.videos else form.prompt)


def label_sets() -> list[str]:
    """Return the names of the label sets, the study's own and the shipped ones."""
    return list(named_files("labels"))


def load_label_set(name: str) -> Any:
    """Return a label set: dataset, task, task_words, language, labels."""
    return _read_label_set(named_files("labels")[name])


@cache
def _read_label_set(path):
    """ValueError where a file lacks task or labels; what else it leaves out is as for labels in the config itself."""
    try:
        found = read_yaml(path)
    except UserError as error:
        raise ValueError(f"labels: {str(error).rstrip('.')}") from None
    task, labels = (found.get("task"), found.get("labels")) if isinstance(found, dict) else (None, None)
    if not (isinstance(task, str) and isinstance(labels, list)):
        raise ValueError(f"labels: {path} needs `task:`, what is labelled, and `labels:`, a list of texts")
    known = ("dataset", "task", "task_words", "language", "labels")
    if unknown := next((key for key in found if key not in known), None):
        raise ValueError(f"labels: {path} has the unknown key {unknown!r}{nearest(unknown, known)}")
    if odd := next((key for key in known[:-1] if not isinstance(found.get(key, ""), str)), None):
        raise ValueError(f"labels: {odd} of {path} is no text; write it in quotes")
    if flaw := _flaw_of_labels(labels):
        raise ValueError(f"labels: {path}: {flaw}")
    usual = {"dataset": path.stem, "task_words": task.replace("_", " "), "language": "und"}
    return found | {key: value for key, value in usual.items() if key not in found}


def _flaw_of_labels(labels):
    """Return why a list of labels cannot be told apart in answers and files, None where it can."""
    if not labels:
        return "none is listed; list those that the rows have"
    seen = {}
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, str):
            return (
                f"label {number} is {str(label).lower()} without quotes, which is no text in YAML; write it in quotes"
            )
        if not fits(LINE, label) or len(label) > 200:
            return f"label {number} ({one_line(label, 40)!r}) is no short line of plain text; correct it"
        if not any(letter.isalnum() for letter in label):
            return f"label {number} ({label!r}) has no letter or digit by which an answer could name it; rename it"
        key = label_key(label)
        if key in seen:
            same = "stands twice" if seen[key] == label else f"and {seen[key]!r} are one label but for case and blanks"
            return f"{label!r} {same}; leave one out"
        seen[key] = label
    return None
