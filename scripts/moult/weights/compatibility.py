"""Whether models can be merged with each other, and how they differ where they can."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import read_json
from moult.data.chats import default_template
from moult.weights.headers import HEAD, LAYER, is_tied, read_tensor, tensor_headers

# What may differ between the configs of models that merge well.
_FREE_CONFIG = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}

# Entries of two models that are compared at a time.
_PIECE = 1 << 20
_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")


def check_compatible(
    models: Mapping[str, Path], base: str | None, *, layers: bool = True, tokens: bool = True
) -> list[str]:
    """Raise a UserError when models cannot be merged with each other; return warnings where they can, but differ.

    `models` maps names to folders; the others are compared with the first. `base` names the one from which task vectors
    are taken, None where the method takes none: a model equal to it has no task vector. Tokens must not have two ids,
    nor ids two tokens; further tokens, roles and chat templates may differ. Without `layers` the models may have
    other layers, because a merge chooses among them; without `tokens` other vocabularies, because a merge unites them.
    """
    first, *others = models
    warnings = []
    for name in others:
        _refuse_other_weights(name, models[name], first, models[first], layers, tokens)
        warnings += _differences(name, models[name], first, models[first], tokens)
    for name in models:
        if base not in (None, name) and _equal_weights(models[name], models[base]):
            raise UserError(f"{name}: equals base {base} in every tensor (zero task vector); leave it out.")
    return warnings


def check_shapes(models: Mapping[str, Path], *, layers: bool = True, tokens: bool = True) -> None:
    """Raise a UserError when models cannot be merged for their architecture, vocabulary size or shapes; by config and
    headers alone. Arguments as for `check_compatible`."""
    for name in list(models)[1:]:
        first = next(iter(models))
        _refuse_other_weights(name, models[name], first, models[first], layers, tokens)


def _refuse_other_weights(name, folder, first, reference, layers, tokens):
    """Compare architecture, vocabulary size and the names and shapes of the tensors."""
    pair = f"{name} and {first} cannot be merged"
    ours, theirs = read_json(folder / "config.json"), read_json(reference / "config.json")
    for key in ("model_type", "architectures"):
        if ours.get(key) != theirs.get(key):
            raise UserError(f"{pair}: {key} is {ours.get(key)} and {theirs.get(key)}; take models of one kind.")
    sizes = [config.get("vocab_size", config.get("text_config", {}).get("vocab_size")) for config in (ours, theirs)]
    if tokens and sizes[0] != sizes[1]:
        raise UserError(f"{pair}: their vocabularies have {sizes[0]} and {sizes[1]} rows; take one vocabulary.")
    shapes, expected = tensor_shapes(folder, ours), tensor_shapes(reference, theirs)
    if not layers:
        shapes, expected = outside_layers(shapes), outside_layers(expected)
    if not tokens:
        shapes, expected = (
            {tensor: shape[1:] if shape[:1] == (size,) else shape for tensor, shape in one.items()}
            for one, size in zip((shapes, expected), sizes, strict=True)
        )
    for tensor in sorted(shapes.keys() | expected.keys()):
        if shapes.get(tensor) != expected.get(tensor):
            raise UserError(
                f"{pair}: {tensor} is {_spelt(shapes.get(tensor))} and {_spelt(expected.get(tensor))}; "
                "take models of one size."
            )


def tensor_shapes(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor; a head that is tied to the embeddings counts as theirs, stored or not."""
    return {
        name: shape for name, (_, _, shape) in tensor_headers(folder).items() if not (name == HEAD and is_tied(config))
    }


def outside_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors that belong to no layer."""
    return {name: shape for name, shape in shapes.items() if not LAYER.search(name)}


def embedding_rows(folder: Path) -> int:
    """Return the rows of a model's input embeddings; UserError where none of its tensors is called as such."""
    for name, (_, _, shape) in tensor_headers(folder).items():
        if _EMBEDDINGS.search(name):
            return shape[0]
    raise UserError(f"{folder}: no tensor is called as input embeddings; leave out `tokenizer` for this architecture.")


def tokens_of(folder: Path) -> set[str]:
    """Return the tokens that a model's tokenizer.json knows; UserError where it has none."""
    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        raise UserError(f"{folder}: has no tokenizer.json; tokenizers are merged by it.")
    return set(tokenizer["ids"])


def _spelt(shape):
    return "missing" if shape is None else list(shape)


def _differences(name, folder, first, reference, same_tokens):
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
    for token, number in ids.items() if same_tokens else ():
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
        "chat template": chat_template(folder),
    }


def chat_template(folder: Path) -> str | None:
    """Return the chat template of a model folder as text, None where it has none."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.exists():
        return file.read_text(encoding="utf-8")
    return default_template(read_json(config).get("chat_template")) if config.exists() else None


def _equal_weights(folder, reference):
    """Whether two models of the same shapes are equal in every tensor; stops at the first piece that differs."""
    ours, theirs = tensor_headers(folder), tensor_headers(reference)
    for name in sorted(ours.keys() & theirs.keys()):
        pair = read_tensor(folder / ours[name][0], name), read_tensor(reference / theirs[name][0], name)
        if pair[0].shape != pair[1].shape:
            return False
        for one, other in zip(*(tensor.flatten().split(_PIECE) for tensor in pair), strict=True):
            if not one.float().equal(other.float()):
                return False
    return True
