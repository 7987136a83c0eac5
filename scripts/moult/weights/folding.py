"""Fold LoRA adapters into full weights, with safetensors and torch alone: importing more costs more than folding."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moult.base.errors import UserError
from moult.base.files import read_json, whole_directory, write_json
from moult.base.rows import Facts
from moult.base.stage import Job
from moult.jobs.manifest import check_manifest
from moult.weights.card import write_model_card
from moult.weights.headers import (
    HEAD,
    OTHER_FILES,
    TOKENIZER_FILES,
    check_model_folder,
    copy_files,
    is_tied,
    refuse_infinite,
    tensor_headers,
)

if TYPE_CHECKING:
    import torch

# Raise when the same adapter and base would now give other weights.
VERSION = 1
# Settings of peft under which W + scale * B @ A is not what the adapter computes.
_NOT_FOLDABLE = (
    "use_dora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "ensure_weight_tying",
)
# The other initialisations (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base's own weights as well.
_FOLDABLE_INITS = (True, False, None, "gaussian", "orthogonal", "eva")
_LORA_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(embedding_)?([AB])(\.weight)?")
# Model types whose linear layers store their weights as (in, out): transformers' Conv1D. peft's `fan_in_fan_out` tells
# of the last layer that it wrapped alone, and a square weight tells nothing.
TRANSPOSED = ("gpt2", "openai-gpt")
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "word_embeddings.weight", "wte.weight")


@dataclass
class _Lora:
    """The two factors of one weight's update; `transposed`: the weight is stored as (in, out), as embeddings are."""

    module: str
    transposed: bool
    factors: dict = field(default_factory=dict)

    def delta(self, settings: Mapping[str, Any]) -> "torch.Tensor":
        rank = self.factors["A"].shape[0]
        patterns = (settings.get("alpha_pattern") or {}).items()
        own = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", self.module))
        alpha = next(own, settings["lora_alpha"])
        scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
        product = (self.factors["B"].float() @ self.factors["A"].float()) * scale
        return product.T if self.transposed else product


def earlier_adapters(manifest: str | Path) -> list[Path]:
    """Return the adapters of the rounds before one, the first round's first, by the manifest of its adapter.

    An adapter of a round was made from the adapter of the round before, and its manifest says so. UserError where one
    of them is missing, or is not the one that the next was trained on.
    """
    found, path = [], Path(manifest)
    while True:
        parents = read_json(path)["parents"]
        name = next((name for name in sorted(parents) if Path(name).parent == path.parent), None)
        if name is None:
            return found[::-1]
        path = Path(f"{name}.manifest.json")
        if not path.is_file():
            raise UserError(f"{path}: is missing; rounds are folded together: make the adapter {name} again.")
        if check_manifest(path)["content"] != parents[name]:
            raise UserError(
                f"{name}: the next round was trained on another adapter of this name; make the rounds again."
            )
        found.append(Path(name))


def fold_adapter(adapter: str | Path, base: str | Path, target: str | Path, before: Iterable[str | Path] = ()) -> Facts:
    """Fold a LoRA adapter into full weights: W + scale * B @ A in float32, rounded once to the base's dtype.

    `before` are the adapters of earlier rounds, in order, which are folded in the same float32 sum: the weights of a
    round need those of no other round.

    scale is alpha / r, or alpha / sqrt(r) with `use_rslora` (Kalajdzievski 2023, arXiv 2312.03732). Shards are
    those of the base; the tokenizer is the adapter's, where it has one. An adapter that changes the embeddings or
    the head of a base which ties them gives a model which does not. UserError when the adapter is no plain LoRA,
    or a tensor of it does not fit the base. Returns the facts: `folded` and `replaced` (numbers of weights),
    `untied`, and `zero` (every B is 0: the adapter was never trained).
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    adapter, base = Path(adapter), Path(base)
    check_model_folder(base)
    config, held = read_json(base / "config.json"), tensor_headers(base)
    embedding, shapes = _shapes(config, held)
    steps = []
    for one in map(Path, [*before, adapter]):
        check_model_folder(one)
        settings = read_json(one / "adapter_config.json")
        refuse_settings(settings, one / "adapter_config.json")
        steps.append((settings, *_read_adapter(one, base, shapes, config, settings)))
    settings, loras, replaced = steps[-1]
    changed = {name for _, updates, others in steps for name in [*updates, *others]}
    untied = embedding is not None and not changed.isdisjoint({HEAD, embedding})
    with whole_directory(target) as folder:
        for shard in sorted({file for file, _, _ in held.values()}):
            with safe_open(base / shard, framework="pt") as stored:
                weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                metadata = stored.metadata()
            if untied and embedding in weights:
                weights.setdefault(HEAD, weights[embedding].clone())
            for name, weight in weights.items():
                refuse_infinite(weight, f"{base / shard}, {name}", "fetch or make the base again")
            for name in changed & weights.keys():
                weights[name] = _folded(weights[name], name, steps)
                remedy = "fold it into a base in bfloat16 or float32, or train it again"
                refuse_infinite(weights[name], f"{adapter}, {name} folded", remedy)
            save_file(weights, folder / shard, metadata=metadata or {"format": "pt"})
        _write_folded_config(base, folder, config, untied, held.get(embedding) if embedding else None)
        owner = adapter if (adapter / "tokenizer_config.json").exists() else base
        copy_files(owner, folder, TOKENIZER_FILES)
        copy_files(base, folder, OTHER_FILES)
    zero = bool(loras) and not any(lora.factors["B"].any() for lora in loras.values())
    return {"folded": len(loras), "replaced": len(replaced), "untied": untied, "zero": zero}


def _shapes(config, held):
    """Return (name of embeddings that are the head too, or None; shape of each weight by name, that head's too).

    Where a config does not say whether they are tied (GPT-2, Gemma: their class does), a base that stores nothing else
    of the embeddings' shape has no other head.
    """
    embedding = next((name for name in held if name.endswith(EMBEDDINGS)), None)
    shapes = {name: shape for name, (_, _, shape) in held.items()}
    said = "tie_word_embeddings" in {**config, **config.get("text_config", {})}
    alone = embedding and list(shapes.values()).count(shapes[embedding]) == 1
    if not embedding or not (is_tied(config) if said else alone):
        return None, shapes
    return embedding, {HEAD: shapes[embedding]} | shapes


def check_foldable(settings: Mapping[str, Any], adapter: Mapping[str, Any], base: str | Path) -> None:
    """Raise a UserError when an adapter with these peft settings and tensors could not be folded into a base.

    adapter: {name as peft saves it: shape}. base: the folder of the model.
    """
    config = read_json(Path(base) / "config.json")
    _, shapes = _shapes(config, tensor_headers(base))
    refuse_settings(settings, "peft")
    _fit(adapter, "peft", base, shapes, config, settings)


def refuse_settings(settings: Mapping[str, Any], path: str | Path) -> None:
    """Raise a UserError when folding would not give the model that an adapter was trained as."""
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {settings.get('peft_type')} cannot be folded; only LORA can.")
    if not isinstance(settings.get("lora_alpha"), int | float):
        raise UserError(f"{path}: lora_alpha is {settings.get('lora_alpha')!r}, not a number; save the adapter again.")
    for name in _NOT_FOLDABLE:
        if settings.get(name):
            raise UserError(f"{path}: {name} cannot be folded; train the adapter without it.")
    if settings.get("init_lora_weights") not in _FOLDABLE_INITS:
        raise UserError(
            f"{path}: init_lora_weights {settings['init_lora_weights']!r} also changed the base; "
            "convert the adapter to plain LoRA with peft first."
        )


def _read_adapter(adapter, base, shapes, config, settings):
    """Return (weight name: _Lora, weight name: tensor that takes its place); every tensor fits or UserError."""
    from safetensors import safe_open

    path = adapter / "adapter_model.safetensors"
    held = {name: shape for name, (_, _, shape) in tensor_headers(adapter).items()}
    loras, replaced = _fit(held, path, base, shapes, config, settings)
    with safe_open(path, framework="pt") as tensors:

        def read(key):
            refuse_infinite(
                tensor := tensors.get_tensor(key), f"{path}, {key}", "its training diverged; train it again"
            )
            return tensor

        for lora in loras.values():
            lora.factors = {factor: read(key) for factor, key in lora.factors.items()}
        return loras, {name: read(key) for name, key in replaced.items()}


def _fit(adapter, path, base, shapes, config, settings):
    """Return (weight name: _Lora of the adapter's keys, weight name: key of what takes its place), by shapes alone.

    UserError when a tensor of the adapter fits no weight of the base. A base may be stored without the name of the
    model inside of it (`h.0` for `transformer.h.0`), as transformers' bare models are.
    """
    names = {_stored_name(name): name for name in shapes}
    loras, replaced = {}, {}
    for key in adapter:
        part = _LORA_KEY.fullmatch(key)
        plain = f"{part[1]}.weight" if part else key.removeprefix("base_model.model.")
        stored = _stored_name(plain.replace(".base_layer.", "."))
        name = names.get(stored, names.get(stored.partition(".")[2]))
        if name is None:
            raise UserError(f"{path}: {key} has no weight in {base}; fold it into the base it was trained on.")
        if part:
            loras.setdefault(name, _Lora(part[1], bool(part[2]))).factors[part[3]] = key
        else:
            replaced[name] = key
    turned = settings.get("fan_in_fan_out") or config.get("model_type") in TRANSPOSED
    for name, lora in loras.items():
        if len(lora.factors) != 2:
            raise UserError(f"{path}: {name} has only one of its two LoRA factors; save the adapter again.")
        shape_a, shape_b = (list(adapter[lora.factors[factor]]) for factor in "AB")
        if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != shape_b[1]:
            raise UserError(f"{path}: {name} has LoRA factors {shape_a} and {shape_b}; save the adapter again.")
        rows, columns = shape_b[0], shape_a[1]
        lora.transposed |= bool(turned and name != HEAD and (columns, rows) == shapes[name])
        _refuse_shape(path, base, name, (columns, rows) if lora.transposed else (rows, columns), shapes)
    for name, key in replaced.items():
        _refuse_shape(path, base, name, tuple(adapter[key]), shapes)
    return loras, replaced


def _refuse_shape(path, base, name, shape, shapes):
    if shape != shapes[name]:
        raise UserError(
            f"{path}: {name} is {list(shape)}, in {base} {list(shapes[name])}; fold it into the base it was trained on."
        )


def _stored_name(name):
    """Return a weight's name as checkpoints spell it: vision-language models use another one in memory."""
    name = re.sub(r"^(model\.language_model|language_model\.model)\.", "model.", name)
    return name.removeprefix("model.") if name.startswith("model.visual.") else name


def _folded(weight, name, steps):
    result = weight.float()
    for settings, loras, replaced in steps:
        result = replaced[name].float() if name in replaced else result
        result = result + loras[name].delta(settings) if name in loras else result
    return result.to(weight.dtype).contiguous()


def _write_folded_config(base, folder, config, untied, embedding):
    """Write config and shard index of the base; of an untied model with the flag off and the head in it."""
    index = base / "model.safetensors.index.json"
    if untied:
        nested = config.get("text_config", {})
        for settings in (config, nested) if "tie_word_embeddings" in nested else (config,):
            settings["tie_word_embeddings"] = False
    write_json(folder / "config.json", config)
    if index.exists():
        content = read_json(index)
        if untied:
            shard, dtype, shape = embedding
            if content["weight_map"].setdefault(HEAD, shard) == shard and "total_size" in content.get("metadata", {}):
                content["metadata"]["total_size"] += math.prod(shape) * int(dtype.strip("BF")) // 8
        write_json(folder / index.name, content)


def run(job: Job) -> None:
    """Do the job of fold_round."""
    before = earlier_adapters(job.inputs.adapter_manifest)
    job.facts = fold_adapter(job.inputs.adapter, job.inputs.base, job.outputs.model, before)


def run_with_card(job: Job) -> None:
    """Do the job of fold_adapter."""
    run(job)
    write_model_card(job.outputs.model, job.card(job.facts))
