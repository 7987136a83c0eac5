"""Merges of weights: of whole models, of slices of their layers, and mixtures of experts."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from moult.base.section import DType, Section
from moult.config.entries.sweeps import MASKS, Masks
from moult.weights.methods import DRAWING, METHODS, description, groups, refusals
from moult.weights.mixtures import GATE_MODES, mixture_refusals


class ByName(Section):
    """Value of a setting for some tensors; of several entries the first counts whose filter meets the name."""

    filter: str | None = Field(
        None, description="Part of the names of the tensors that this is for; null: all that no earlier filter met."
    )
    value: bool | float | list[float] = Field(
        description="Value for these tensors; a list is a gradient over the layers, first to last."
    )


# One value, a gradient over the layers, or values by names of tensors.
Value = bool | float | list[float] | list[ByName]


class Parent(Section):
    """One model of a merge, with settings of its own; which there are depends on `method`."""

    # Further settings of a method: `refusals` knows them all.
    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    __pydantic_extra__: dict[str, Value]

    model: str = Field(description="Name of the model that is merged.")
    weight: float | list[float] | list[ByName] | None = Field(
        None,
        description=(
            "Weight of this parent in the merge; a list is a gradient over the layers, first to last, or has entries "
            "of `filter` and `value`."
        ),
    )
    density: float | list[float] | list[ByName] | None = Field(
        None,
        description=(
            "Share of this parent's task vector that is kept, above 0 and at most 1; a list is a gradient over the "
            "layers, or has entries of `filter` and `value`."
        ),
    )


class Layers(Parent):
    """Layers of one model, with settings of their own; which there are depends on `method`."""

    layer_range: tuple[int, int] = Field(description="First layer, and the one behind the last.")

    @model_validator(mode="after")
    def forward(self) -> Self:
        if not 0 <= self.layer_range[0] < self.layer_range[1]:
            raise ValueError("layer_range: write the first layer and the one behind the last, e.g. [0, 16]")
        return self


class Slice(Section):
    """Layers of the merged model: of one source, or merged of equally many layers of several."""

    sources: list[Layers] = Field(min_length=1, description="Layers that are taken, or merged with each other.")
    base: str | None = Field(None, description="Model that this slice starts from; null: the base of the merge.")
    parameters: dict[str, Value] = Field({}, description="Settings of this slice, before those of the whole merge.")


class Module(Section):
    """How one module of a model with several (such as a vision tower) is merged."""

    parents: list[Parent] | None = Field(None, min_length=1, description="Models that are merged, with their settings.")
    slices: list[Slice] | None = Field(None, min_length=1, description="Layers of the merged module, in order.")
    parameters: dict[str, Value] = Field({}, description="Settings of this module, before those of the whole merge.")

    @model_validator(mode="after")
    def one_way(self) -> Self:
        if (self.parents is None) == (self.slices is None):
            raise ValueError("write exactly one of parents, slices")
        return self


class Token(Section):
    """Where the embedding of one token comes from."""

    source: str = Field(description="Model whose embedding of this token is taken; zero: a row of zeros.")
    force: bool = Field(False, description="Whether this source counts even where other models know the token.")


class MergedTokenizer(Section):
    """The merged model's tokenizer, if not simply that of the base."""

    source: str = Field(
        "union",
        description="Whose tokens the merged model has: union, those of all models; base; or a model's name.",
    )
    tokens: dict[str, Token] = Field({}, description="Embeddings of single tokens, by the token's text.")
    pad_to_multiple_of: int | None = Field(
        None, ge=2, description="Number of which the rows of the embeddings are a multiple."
    )
    drop_rows: bool = Field(
        False,
        description=(
            "Whether rows of the embeddings that no token stands for may be lost, as mergekit does it with any "
            "tokenizer setting; false: such a merge is refused."
        ),
    )


class Merge(Section):
    """A weight merge by mergekit, of whole models (`parents`), of layers (`slices`) or module by module (`modules`)."""

    # Its method says better which numbers it takes.
    model_config = ConfigDict(allow_inf_nan=True)

    method: Literal[tuple(METHODS)] = Field(  # type: ignore[valid-type]
        description=" ".join(map(description, METHODS))
    )
    base: str | None = Field(
        None, description="Model that the merge starts from; which model that may be depends on `method`."
    )
    parents: list[Parent] = Field([], description="Models that are merged, each with its settings.")
    slices: list[Slice] = Field([], description="Layers of the merged model, in order; in place of `parents`.")
    modules: dict[str, Module] = Field({}, description="Modules of the merged model; in place of `parents`.")
    parameters: dict[str, float | bool | list] = Field(
        {}, description="Settings of the whole merge; which there are depends on `method`."
    )
    dtype: DType = Field("bfloat16", description="Number format that is reckoned in, and of the merged weights.")
    out_dtype: DType | None = Field(
        None, description="Number format of the merged weights, rounded once at the end; null: that of `dtype`."
    )
    tokenizer: MergedTokenizer | None = Field(
        None, description="How tokenizers are merged; null: the models have one, and the base's is taken."
    )
    chat_template: str | None = Field(
        None,
        description=(
            "Name of the model whose chat template is taken; null: the base, or the first parent that has one."
        ),
    )

    masks: Masks = Field("stream", description=MASKS)

    @model_validator(mode="after")
    def fits_method(self) -> Self:
        if (bool(self.parents), bool(self.slices), bool(self.modules)).count(True) != 1:
            raise ValueError("write exactly one of parents, slices, modules")
        if len(self.modules) > 1 and any(part.slices for part in self.modules.values()):
            raise ValueError("modules: slices are possible where a model has one module")
        if found := list(refusals(self.model_dump())):
            raise ValueError(". ".join(found))
        if self.masks == "by_name" and (self.method not in DRAWING or not self.parents or self.tokenizer):
            raise ValueError("masks: by_name is for random masks of whole models of one tokenizer; leave it out")
        tokens = self.tokenizer.tokens if self.tokenizer else {}
        settings = [("chat_template", self.chat_template), ("tokenizer: source", self._tokens_of())]
        settings += [(f"tokenizer: token {key!r}", one.source) for key, one in tokens.items() if one.source != "zero"]
        for setting, named in settings:
            if named is not None and named not in self.models:
                raise ValueError(f"{setting}: {named} is none of the models {', '.join(self.models)}")
        return self

    def _tokens_of(self):
        source = self.tokenizer.source if self.tokenizer else None
        if source == "base" and self.base is None:
            raise ValueError("tokenizer: source is base, but the merge has no `base`")
        return None if source in ("union", "base") else source

    @property
    def sources(self) -> list[str]:
        """Names of the models that are merged, in the order in which they are written."""
        return list(
            dict.fromkeys(parent["model"] for group in groups(self.model_dump()) for parent in group["parents"])
        )

    @property
    def models(self) -> list[str]:
        """Names of all models that the merge reads; a base that is none of its sources comes last."""
        bases = [group["base"] for group in groups(self.model_dump()) if group["base"] is not None]
        return list(dict.fromkeys([*self.sources, *bases]))


class Expert(Section):
    """A model whose feed-forward layers become one expert of a mixture."""

    model: str = Field(description="Name of the model.")
    positive_prompts: list[str] = Field([], description="Texts that are to be sent to this expert.")
    negative_prompts: list[str] = Field([], description="Texts that are not to be sent to this expert.")
    noise_scale: float | None = Field(None, ge=0, description="Noise that is added to its weights; null: none.")
    residual_scale: float | None = Field(
        None, ge=0, description="Factor of what the expert adds to the residual stream; null: 1."
    )


class Mixture(Section):
    """A mixture of experts by mergekit-moe: attention of the base, feed-forward layers of several models, a router."""

    base: str = Field(description="Model that gives everything but the experts, and the tokenizer.")
    experts: list[Expert] = Field(min_length=2, description="Experts between which the router chooses.")
    shared_experts: list[Expert] = Field([], description="Experts that every token passes, where the kind has such.")
    gate_mode: Literal[GATE_MODES] = Field(  # type: ignore[valid-type]
        "hidden",
        description=(
            "How the router begins: hidden: from the base's hidden states of the prompts; cheap_embed: from their "
            "embeddings; random, uniform_random: by the seed."
        ),
    )
    experts_per_token: int = Field(2, ge=1, description="Experts that a token passes.")
    architecture: Literal["mixtral", "deepseek", "qwen", "qwen3"] | None = Field(
        None, description="Kind of the mixture; null: Mixtral where it fits, else the first that does."
    )
    dtype: DType = Field("bfloat16", description="Number format of the weights.")

    @model_validator(mode="after")
    def makes_sense(self) -> Self:
        if found := list(mixture_refusals(self.model_dump())):
            raise ValueError(". ".join(found))
        return self

    @property
    def models(self) -> list[str]:
        """Names of all models that the mixture reads; the base last."""
        return list(dict.fromkeys([*(one.model for one in [*self.experts, *self.shared_experts]), self.base]))
