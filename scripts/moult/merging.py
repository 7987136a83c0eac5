"""Fold LoRA adapters into full weights, merge models with mergekit, and say which models cannot be merged."""

import logging
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from moult.errors import UserError
from moult.files import read_json, whole_directory, write_json, write_text_atomic
from moult.models import check_model_folder, copy_files, tensor_headers

# Raise when the same recipe would now give other weights.
VERSION = 1

TASK_VECTOR_METHODS = ("task_arithmetic", "ties", "dare_ties")
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "chat_template*",
)
OTHER_FILES = ("generation_config.json", "*processor_config.json", "LICENSE*")

# Settings of peft under which W + scale * B @ A is not what the adapter computes.
_NOT_FOLDABLE = (
    "use_dora",
    "fan_in_fan_out",
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
_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "word_embeddings.weight", "wte.weight")
# What may differ between the configs of models that merge well.
_FREE_CONFIG = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}

logger = logging.getLogger(__name__)


@dataclass
class _Lora:
    """The two factors of one weight's update; of an embedding they are stored transposed."""

    module: str
    embedding: bool
    factors: dict = field(default_factory=dict)

    def delta(self, settings):
        rank = self.factors["A"].shape[0]
        patterns = (settings.get("alpha_pattern") or {}).items()
        own = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", self.module))
        alpha = next(own, settings["lora_alpha"])
        scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
        product = (self.factors["B"].float() @ self.factors["A"].float()) * scale
        return product.T if self.embedding else product


def fold_adapter(adapter, base, target):
    """Fold a LoRA adapter into full weights: W + scale * B @ A in float32, rounded once to the base's dtype.

    scale is alpha / r, or alpha / sqrt(r) with `use_rslora` (Kalajdzievski 2023, arXiv 2312.03732). Shards are
    those of the base; the tokenizer is the adapter's, where it has one. An adapter that changes the embeddings or
    the head of a base which ties them gives a model which does not. UserError when the adapter is no plain LoRA,
    or a tensor of it does not fit the base. Returns the facts: `folded` and `replaced` (numbers of weights),
    `untied`, and `zero` (every B is 0: the adapter was never trained).
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    adapter, base = Path(adapter), Path(base)
    check_model_folder(adapter)
    check_model_folder(base)
    settings, config, held = _lora_settings(adapter), read_json(base / "config.json"), tensor_headers(base)
    embedding = next((name for name in held if name.endswith(_EMBEDDINGS)), None)
    shapes = {name: shape for name, (_, _, shape) in held.items()}
    if _is_tied(config) and embedding:
        shapes.setdefault(_HEAD, shapes[embedding])
    loras, replaced = _read_adapter(adapter, base, shapes)
    changed = loras.keys() | replaced.keys()
    untied = _is_tied(config) and not changed.isdisjoint({_HEAD, embedding})
    with whole_directory(target) as folder:
        for shard in sorted({file for file, _, _ in held.values()}):
            with safe_open(base / shard, framework="pt") as stored:
                weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                metadata = stored.metadata()
            if untied and embedding in weights:
                weights.setdefault(_HEAD, weights[embedding].clone())
            for name in changed & weights.keys():
                weights[name] = _folded(weights[name], replaced.get(name), loras.get(name), settings)
                _refuse_infinite(weights[name], f"{adapter}, {name}", "its training diverged; train it again")
            save_file(weights, folder / shard, metadata=metadata or {"format": "pt"})
        _write_folded_config(base, folder, config, untied, held.get(embedding))
        owner = adapter if (adapter / "tokenizer_config.json").exists() else base
        copy_files(owner, folder, TOKENIZER_FILES)
        copy_files(base, folder, OTHER_FILES)
    zero = bool(loras) and not any(lora.factors["B"].any() for lora in loras.values())
    return {"folded": len(loras), "replaced": len(replaced), "untied": untied, "zero": zero}


def _lora_settings(adapter):
    """Return the adapter's settings; UserError when folding would not give the model it was trained as."""
    path = adapter / "adapter_config.json"
    settings = read_json(path)
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {settings.get('peft_type')} cannot be folded; only LORA can.")
    for name in _NOT_FOLDABLE:
        if settings.get(name):
            raise UserError(f"{path}: {name} cannot be folded; train the adapter without it.")
    if settings.get("init_lora_weights") not in _FOLDABLE_INITS:
        raise UserError(
            f"{path}: init_lora_weights {settings['init_lora_weights']!r} also changed the base; "
            "convert the adapter to plain LoRA with peft first."
        )
    return settings


def _read_adapter(adapter, base, shapes):
    """Return (weight name: _Lora, weight name: tensor that takes its place); every tensor fits or UserError."""
    from safetensors import safe_open

    path = adapter / "adapter_model.safetensors"
    names = {_stored_name(name): name for name in shapes}
    loras, replaced = {}, {}
    with safe_open(path, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118
            part = _LORA_KEY.fullmatch(key)
            plain = f"{part[1]}.weight" if part else key.removeprefix("base_model.model.")
            name = names.get(_stored_name(plain.replace(".base_layer.", ".")))
            if name is None:
                raise UserError(f"{path}: {key} has no weight in {base}; fold it into the base it was trained on.")
            if part:
                lora = loras.setdefault(name, _Lora(part[1], bool(part[2])))
                lora.factors[part[3]] = tensors.get_tensor(key)
            else:
                replaced[name] = tensors.get_tensor(key)
    for name, lora in loras.items():
        if len(lora.factors) != 2:
            raise UserError(f"{path}: {name} has only one of its two LoRA factors; save the adapter again.")
        rows, columns = lora.factors["B"].shape[0], lora.factors["A"].shape[1]
        _refuse_shape(path, base, name, (columns, rows) if lora.embedding else (rows, columns), shapes)
    for name, tensor in replaced.items():
        _refuse_shape(path, base, name, tuple(tensor.shape), shapes)
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


def _folded(weight, replacement, lora, settings):
    result = (weight if replacement is None else replacement).float()
    if lora:
        result = result + lora.delta(settings)
    return result.to(weight.dtype).contiguous()


def _refuse_infinite(tensor, where, remedy):
    if not tensor.isfinite().all():
        raise UserError(f"{where}: holds NaN or infinite values; {remedy}.")


def _is_tied(config):
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings")))


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
            if content["weight_map"].setdefault(_HEAD, shard) == shard:
                content["metadata"]["total_size"] += math.prod(shape) * int(dtype.strip("BF")) // 8
        write_json(folder / index.name, content)


def check_compatible(models, base):
    """Raise a UserError when models cannot be merged with each other; return warnings where they can, but differ.

    `models` maps names to folders, the first being the one the others are held against. `base` names the one from
    which task vectors are taken, None where the method takes none: a model equal to it has no task vector. Tokens
    must not have two ids, nor ids two tokens; further tokens, roles and chat templates may differ.
    """
    first, *others = models
    warnings = []
    for name in others:
        _refuse_other_weights(name, models[name], first, models[first])
        warnings += _differences(name, models[name], first, models[first])
    for name in models:
        if base not in (None, name) and _equal_weights(models[name], models[base]):
            raise UserError(f"{name}: equals base {base} in every tensor (zero task vector); leave it out.")
    return warnings


def _refuse_other_weights(name, folder, first, reference):
    """Compare architecture, vocabulary size and the names and shapes of the tensors."""
    pair = f"{name} and {first} cannot be merged"
    ours, theirs = read_json(folder / "config.json"), read_json(reference / "config.json")
    for key in ("model_type", "architectures"):
        if ours.get(key) != theirs.get(key):
            raise UserError(f"{pair}: {key} is {ours.get(key)} and {theirs.get(key)}; take models of one kind.")
    sizes = [config.get("vocab_size", config.get("text_config", {}).get("vocab_size")) for config in (ours, theirs)]
    if sizes[0] != sizes[1]:
        raise UserError(f"{pair}: their vocabularies have {sizes[0]} and {sizes[1]} rows; take one vocabulary.")
    shapes, expected = _shapes(folder, ours), _shapes(reference, theirs)
    for tensor in sorted(shapes.keys() | expected.keys()):
        if shapes.get(tensor) != expected.get(tensor):
            raise UserError(
                f"{pair}: {tensor} is {_spelt(shapes.get(tensor))} and {_spelt(expected.get(tensor))}; "
                "take models of one size."
            )


def _shapes(folder, config):
    """Return the shape of each tensor; a head that is tied to the embeddings counts as theirs, stored or not."""
    return {
        name: shape
        for name, (_, _, shape) in tensor_headers(folder).items()
        if not (name == _HEAD and _is_tied(config))
    }


def _spelt(shape):
    return "missing" if shape is None else list(shape)


def _differences(name, folder, first, reference):
    """Return what two models that fit differ in, a sentence each; UserError where one token has two ids."""
    warnings = []
    ours, theirs = read_json(folder / "config.json"), read_json(reference / "config.json")
    keys = [key for key in sorted(ours.keys() & theirs.keys() - _FREE_CONFIG) if ours[key] != theirs[key]]
    if keys:
        warnings.append(f"{name} and {first} differ in their config: {', '.join(keys)}.")
    kinds = [{dtype for _, dtype, _ in tensor_headers(path).values()} for path in (folder, reference)]
    if kinds[0] != kinds[1]:
        warnings.append(f"{name} and {first} are stored as {sorted(kinds[0])} and {sorted(kinds[1])}.")
    tokenizers = [_tokenizer(path) for path in (folder, reference)]
    if None in tokenizers:
        return [*warnings, f"{name} and {first}: tokenizers not compared, one has no tokenizer.json."]
    ids, other_ids = (tokenizer.pop("ids") for tokenizer in tokenizers)
    tokens = {other_ids[token]: token for token in other_ids}
    for token, number in ids.items():
        if other_ids.get(token, number) != number or tokens.get(number, token) != token:
            raise UserError(
                f"{name} and {first} cannot be merged: their tokenizers differ in token {token!r} or id {number}; "
                "take models of one tokenizer."
            )
    if alone := len(ids.keys() ^ other_ids.keys()):
        warnings.append(f"{name} and {first}: {alone} tokens are only in one of the two tokenizers.")
    for part, value in tokenizers[0].items():
        if value != tokenizers[1][part]:
            warnings.append(f"{name} and {first} differ in their {part}.")
    return warnings


def _tokenizer(folder):
    """Return what makes two tokenizers the same one: ids, splits, roles of special tokens, chat template."""
    if not (folder / "tokenizer.json").exists():
        return None
    core = read_json(folder / "tokenizer.json")
    vocabulary = core["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: (token, score) in the order of their ids
        vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.exists() else {}
    roles = {role: settings.get(f"{role}_token") for role in ("bos", "eos", "unk", "pad")}
    return {
        "ids": vocabulary | {token["content"]: token["id"] for token in core["added_tokens"]},
        "tokenizer's normalizer": core.get("normalizer"),
        "tokenizer's pre-tokenizer": core.get("pre_tokenizer"),
        "special tokens": {
            role: token.get("content") if isinstance(token, dict) else token for role, token in roles.items()
        },
        "chat template": _chat_template(folder),
    }


def _chat_template(folder):
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.exists():
        return file.read_text(encoding="utf-8")
    return read_json(config).get("chat_template") if config.exists() else None


def _equal_weights(folder, reference):
    """Whether two models of the same shapes are equal in every tensor; stops at the first difference."""
    ours, theirs = tensor_headers(folder), tensor_headers(reference)
    return all(
        _tensor(folder / ours[name][0], name).float().equal(_tensor(reference / theirs[name][0], name).float())
        for name in sorted(ours.keys() & theirs.keys())
    )


def _tensor(file, name):
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return weights.get_tensor(name)


def mergekit_config(recipe, folder_of):
    """Return mergekit's own configuration for a recipe, as plain data; `folder_of` gives a model's folder.

    UserError for what mergekit would refuse late or, worse, accept: a base among the parents has no task vector.
    """
    method, base = recipe["method"], recipe.get("base")
    names = [parent["model"] for parent in recipe["parents"]]
    parameters = {key: value for key, value in recipe.get("parameters", {}).items() if value is not None}
    if method in TASK_VECTOR_METHODS and (base is None or base in names):
        raise UserError(
            f"merge by {method}: base {base} must be a model that is not among the parents {names} "
            "(its own task vector is zero)."
        )
    if method == "slerp" and (len(names) != 2 or base not in names):
        raise UserError(f"merge by slerp: takes two parents, one of them the base; here {names} and base {base}.")
    if method == "slerp" and parameters.get("t") is None:
        raise UserError("merge by slerp: parameter t is missing; 0 gives the base, 1 the other parent.")
    if method == "linear" and base is not None:
        raise UserError(f"merge by linear: takes no base; leave out base: {base}.")
    config = {
        "merge_method": method,
        "models": [_mergekit_parent(parent, folder_of) for parent in recipe["parents"]],
        "parameters": parameters,
        "dtype": recipe["dtype"],
    }
    return config if base is None else config | {"base_model": folder_of(base)}


def _mergekit_parent(parent, folder_of):
    settings = {key: value for key, value in parent.items() if key != "model" and value is not None}
    return {"model": folder_of(parent["model"]), "parameters": settings}


def merge_models(recipe, folders, target):
    """Merge models with mergekit on the CPU; the same recipe gives the same bytes.

    `recipe`: method, base, parents (model, weight, density), parameters, dtype, seed, threads. `folders` maps the
    names in it to folders. Config, tokenizer, chat template and generation config come from the base (else the
    first parent), or from the first parent that has a chat template where the base has none. The configuration
    stays beside the weights as `mergekit_config.yml`, its paths relative to where the job runs. UserError when the
    models do not fit each other or the result is not finite. Returns the facts: `tokenizer_from`, `warnings`.
    """
    import torch
    import yaml

    parents = [parent["model"] for parent in recipe["parents"]]
    base, method = recipe.get("base"), recipe["method"]
    config = mergekit_config(recipe, lambda name: _mergekit_path(folders[name]))
    names = list(dict.fromkeys([base, *parents] if base else parents))
    models = {name: Path(folders[name]) for name in names}
    for folder in models.values():
        check_model_folder(folder)
    warnings = check_compatible(models, base if method in TASK_VECTOR_METHODS else None)
    for warning in warnings:
        logger.warning(warning)
    by_template = sorted(names, key=lambda name: not _chat_template(models[name]))
    logger.info("merging %s by %s", ", ".join(parents), method)
    torch.set_num_threads(recipe["threads"])
    with whole_directory(target) as folder:
        _run_mergekit(config, folder, recipe["seed"])
        _check_merged(folder, models[names[0]])
        _write_merged_config(models[names[0]], folder, recipe["dtype"])
        copy_files(models[by_template[0]], folder, TOKENIZER_FILES)
        # Backwards, so that of several files of one name the best owner's stays.
        for name in reversed(by_template):
            copy_files(models[name], folder, OTHER_FILES)
        write_text_atomic(folder / "mergekit_config.yml", yaml.safe_dump(config, sort_keys=False))
    logger.info("merged %s by %s", ", ".join(parents), method)
    return {"tokenizer_from": by_template[0], "warnings": warnings}


def _mergekit_path(folder):
    path = Path(os.path.relpath(folder)).as_posix()
    if not {"@", "+"}.isdisjoint(path):
        raise UserError(f"{path}: mergekit reads @ and + in a path as its own signs; rename the model or the folder.")
    return path


def _run_mergekit(config, folder, seed):
    """Write the merged weights to a folder; what mergekit makes of a configuration it refuses is a UserError."""
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    # Without a base mergekit copies config and tokenizer from a model that it draws from an unordered set, and its
    # card asks the hub for every path that looks like a repository: the caller sees to both.
    logger.info("ready: mergekit is loaded")
    options = MergeOptions(random_seed=seed, quiet=True, copy_tokenizer=False, write_model_card=False)
    try:
        run_merge(MergeConfiguration.model_validate(config), str(folder), options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"mergekit refuses this merge ({reason}); correct its parameters, or take models of a kind it knows."
        ) from error
    finally:
        # It keeps the files of a path open for the next merge of this process, which may find others there.
        LoaderCache().loaders.clear()


def _check_merged(folder, reference):
    """UserError unless the result has every tensor of the reference, in its shape, and finite."""
    config = read_json(reference / "config.json")
    if _shapes(folder, config) != _shapes(reference, config):
        raise UserError(f"merge: lacks tensors of {reference}; mergekit does not know all of this architecture.")
    for name, (file, _, _) in tensor_headers(folder).items():
        remedy = "look for them in the parents, and for weights that sum to zero"
        _refuse_infinite(_tensor(folder / file, name), f"merge, {name}", remedy)


def _write_merged_config(reference, folder, dtype):
    config = read_json(reference / "config.json")
    for settings in (config, *(value for value in config.values() if isinstance(value, dict))):
        if settings is config or "dtype" in settings or "torch_dtype" in settings:
            settings.pop("torch_dtype", None)
            settings["dtype"] = dtype
    write_json(folder / "config.json", config)
