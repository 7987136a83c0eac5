"""Whether the parts of a model's folder are of one model: its tokens and its embeddings, its config and its tensors.

What cannot work later is refused here, before any work. `check_parts` reads JSON and headers alone,
`check_architecture` builds the model without its values (on torch's meta device).
"""

import re
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.outside import in_a_sentence
from moult.weights.architectures import auto_class, is_bert_like, is_reward_model, is_vision_language
from moult.weights.compatibility import chat_template
from moult.weights.folding import EMBEDDINGS, check_foldable
from moult.weights.headers import HEAD, check_model_folder, read_object, read_tensor, tensor_headers

ROLES = ("bos", "eos", "pad")
_BESIDE = "take the tokenizer that belongs to these weights, or widen the embeddings (resize_token_embeddings)"


def check_parts(folder: str | Path) -> list[str]:
    """Check all that headers and JSON tell of a folder: `check_model_folder`, its kind, its tokens; return warnings."""
    folder = Path(folder)
    check_model_folder(folder)
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder}: is an adapter without its base; fold it into the base first.")
    config = read_object(path)
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"{path}: {config.get('model_type')} is an encoder with a decoder; take a causal language model."
        )
    return check_tokens(folder)


# ---------------------------------------------------------------- tokens


def check_tokens(folder: str | Path) -> list[str]:
    """Return warnings about a model's tokens; UserError when one lies past the embeddings, or a role is of none."""
    folder = Path(folder)
    rows = _embedding_rows(folder, read_object(folder / "config.json"))
    warnings, known = [], None
    if (folder / "tokenizer.json").exists():
        known, added = _vocabulary(folder)
        _refuse_roles(folder, known, rows)
        warnings = _tokens_past(folder, known, added, rows)
    elif not any(file for pattern in ("*.model", "vocab.*", "*.tiktoken") for file in folder.glob(pattern)):
        raise UserError(f"{folder}: holds no tokenizer.json; save the tokenizer beside the weights.")
    for name in ("config.json", "generation_config.json"):
        for role, token in _ids(folder / name):
            where = f"{folder / name}: {role}_token_id {token}"
            if rows and token >= rows:
                raise UserError(f"{where} lies past the {rows} embeddings; correct it, or {_BESIDE}.")
            if known and token not in known.values():
                warnings.append(f"{name}: {role}_token_id {token} is the id of no token in tokenizer.json")
    return warnings


def _embedding_rows(folder, config):
    """Return how many tokens a model has embeddings for; None where neither tensors nor config say so."""
    shapes = {name: shape for name, (_, _, shape) in tensor_headers(folder).items()}
    stored = next((shapes[name][0] for name in sorted(shapes) if name.endswith(EMBEDDINGS)), None)
    return stored or config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))


def _vocabulary(folder):
    """Return (token → id of the whole vocabulary, token → whether it is special of those that were added)."""
    from tokenizers import Tokenizer

    try:
        core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{folder / 'tokenizer.json'}: is no whole tokenizer ({error}); fetch it again.") from error
    known = core.get_vocab(with_added_tokens=True)
    added = {token.content: token.special for token in core.get_added_tokens_decoder().values()}
    settings = _settings(folder / "tokenizer_config.json")
    for number, token in settings.get("added_tokens_decoder", {}).items():
        known.setdefault(token["content"], int(number))
        added.setdefault(token["content"], bool(token.get("special")))
    for token, number in _settings(folder / "added_tokens.json").items():
        known.setdefault(token, number)
        added.setdefault(token, False)
    return known, added


def _settings(path):
    return read_object(path) if path.exists() else {}


def _refuse_roles(folder, known, rows):
    """Raise a UserError for a token with a role that the vocabulary lacks, or that has no embedding."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = _settings(folder / file)
        for role in ROLES:
            token = settings.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is None:
                continue
            where = f"{folder / file}: {role}_token {token!r}"
            if token not in known:
                raise UserError(f"{where} is not in the vocabulary of tokenizer.json; name a token that is.")
            if rows and known[token] >= rows:
                raise UserError(f"{where} has id {known[token]}, past the {rows} embeddings; {_BESIDE}.")


def _tokens_past(folder, known, added, rows):
    """Raise a UserError for a token past the embeddings that a text or the template can hold; return warnings."""
    past = sorted((token for token in known if rows and known[token] >= rows), key=known.get)
    template = chat_template(folder) or ""
    for token in past:
        if not added.get(token) or token in str(template):
            raise UserError(
                f"{folder / 'tokenizer.json'}: token {token!r} has id {known[token]}, past the {rows} embeddings "
                f"({len(past)} tokens are); {_BESIDE}."
            )
    if past:
        return [f"{len(past)} special tokens lie past the {rows} embeddings ({past[0]!r} first): they must not be used"]
    if rows and 2 * len(known) < rows:
        return [f"tokenizer.json has {len(known)} tokens for {rows} embeddings: is it the tokenizer of this model?"]
    return []


def _ids(path):
    """Yield (role, id) of a config's token ids, its text's among them; negative ids are an old way to say none."""
    settings = _settings(path)
    for part in (settings, settings.get("text_config") or {}):
        for role in ROLES:
            value = part.get(f"{role}_token_id")
            for token in value if isinstance(value, list) else [value]:
                if token is not None and type(token) is not int:
                    raise UserError(f"{path}: {role}_token_id is {str(token)[:80]!r}, no whole number; correct it.")
                if token is not None and token >= 0:
                    yield role, token


# ---------------------------------------------------------------- architecture


def check_architecture(folder: str | Path) -> list[str]:
    """Raise a UserError when config.json describes no causal language model, or another than the tensors are of.

    Returns warnings: what this model cannot be used for, with what works in its place.
    """
    folder = Path(folder)
    path = folder / "config.json"
    config = read_object(path)
    _refuse_unreadable_tokenizer(folder)
    warnings = _other_dtype(config, tensor_headers(folder))
    if packed := config.get("quantization_config"):
        kind = packed.get("quant_method")
        remedy = "train and merge the model that they were made of"
        return [
            *warnings,
            f"the weights are quantized ({kind}): they can neither be merged nor take an adapter; {remedy}",
        ]
    model, loaded = _without_values(folder)
    if (is_bert_like(model) and not model.config.is_decoder) or not getattr(model.config, "causal", True):
        raise UserError(f"{path}: this {config.get('model_type')} reads both ways; take a causal language model.")
    _refuse_other_tensors(folder, config, loaded)
    _refuse_other_head(folder, model)
    for name in sorted(loaded["unexpected_keys"])[:1]:
        count = len(loaded["unexpected_keys"])
        warnings.append(f"{count} tensors are of no part of the model that config.json describes ({name} first)")
    if is_reward_model(folder):
        return [*warnings, "it is a reward model: it scores answers, and can neither write one nor be trained here"]
    return warnings + _unfoldable(model, folder)


def _refuse_unreadable_tokenizer(folder):
    """Raise a UserError where transformers can make no tokenizer of a folder's files."""
    from transformers import AutoTokenizer

    settings = folder / "tokenizer_config.json"
    file = settings if settings.exists() else folder / "tokenizer.json"
    if not file.exists():
        return
    with in_a_sentence(file, "correct it, or fetch it again"):
        longest = AutoTokenizer.from_pretrained(folder, local_files_only=True).model_max_length
        if not isinstance(longest, int | float):
            raise ValueError(f"model_max_length is {longest!r}, no number")


def _without_values(folder):
    """Return a folder's model on the meta device, and how its names and shapes fit the tensors."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return auto_class(folder).from_pretrained(
            folder,
            device_map="meta",
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # each architecture has errors of its own
        reason = f"{type(error).__name__}: {' '.join(str(error).split()).split('. ')[0][:200]}"
        raise UserError(
            f"{folder / 'config.json'}: transformers can make no language model of it ({reason}); correct it, or take "
            "another model."
        ) from error
    finally:
        logging.set_verbosity(level)


def _refuse_other_tensors(folder, config, loaded):
    again = "correct config.json, or fetch the model again"
    for name, stored, described in sorted(loaded["mismatched_keys"]):
        raise UserError(
            f"{folder}: tensor {name} is {list(stored)}, by config.json it would be {list(described)}; {again}."
        )
    for name in sorted(loaded["missing_keys"]):
        raise UserError(f"{folder}: lacks tensor {name}, which config.json asks for; {again}.")
    for name in sorted(loaded["unexpected_keys"]):
        if re.search(r"\.\d+\.", name):
            raise UserError(f"{folder}: holds tensor {name}, which is in no layer that config.json describes; {again}.")


def _refuse_other_head(folder, model):
    """Raise a UserError when the config ties weights that are stored with different values."""
    held = tensor_headers(folder)
    for target, source in model.all_tied_weights_keys.items():
        if target in held and source in held:
            first, second = (read_tensor(folder / held[name][0], name) for name in (target, source))
            if not first.equal(second):
                raise UserError(
                    f"{folder / 'config.json'}: tie_word_embeddings is set, but {target} and {source} differ; write "
                    '"tie_word_embeddings": false there.'
                )


def _other_dtype(config, held):
    said = config.get("dtype", config.get("torch_dtype"))
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    stored = sorted({dtype for _, dtype, _ in held.values()})
    if said in names and names[said] not in stored:
        return [f"config.json says dtype {said}, the tensors are stored as {', '.join(stored)}: that counts"]
    return []


# ---------------------------------------------------------------- adapters


def refuse_unfoldable(adapted: Any, base: str | Path) -> None:
    """Raise a UserError when the LoRA adapter of a model under peft cannot be trained, or folded into its base."""
    settings = next(iter(adapted.peft_config.values())).to_dict()
    shapes = {
        re.sub(r"\.default(?=\.|$)", "", name): tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    try:
        check_foldable(settings, shapes, base)
        for name, module in adapted.named_modules():
            if name.endswith(".base_layer") and not _is_plain(module):
                raise UserError(f"{name.removesuffix('.base_layer')} computes more than a linear layer")
    except UserError as error:
        reason = str(error).removesuffix(".")
        raise UserError(
            f"an adapter of these lora.targets could not be folded ({reason}); {_instead(adapted, base)}."
        ) from None


def _is_plain(module):
    """Whether a module computes what its weight says: not a router, which is a linear layer with more in it."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return not isinstance(module, torch.nn.Linear | Conv1D) or type(module).forward in (
        torch.nn.Linear.forward,
        Conv1D.forward,
    )


def _instead(model, base):
    """Return what works in place of an adapter over all linear layers: those that it can be folded into, by name."""
    import torch
    from transformers.pytorch_utils import Conv1D

    modules = {
        name.removeprefix("base_model.model.").removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and "lora_" not in name
    }
    # A base may be stored without the name of the model inside of it.
    names = {spelt: name for name in modules for spelt in (f"{name}.weight".partition(".")[2], f"{name}.weight")}
    fits = {}
    for stored, (_, _, shape) in tensor_headers(base).items():
        # peft takes the name of an expert's weight, which is no module of its own, for the experts.
        module = modules.pop(names.get(stored), None)
        if stored != HEAD and len(shape) == 2:
            layer = stored.removesuffix(".weight").rpartition(".")[2]
            fits[layer] = fits.get(layer, True) and module is not None and _is_plain(module)
    lacking = {name.rpartition(".")[2] for name in modules}
    layers = sorted(layer for layer, all_fit in fits.items() if all_fit and layer not in lacking)
    return f"write `lora.targets: [{', '.join(layers)}]` or `method: full`" if layers else "write `method: full`"


def _unfoldable(model, folder):
    """Return a warning when an adapter over all linear layers cannot be trained, or not be folded."""
    from peft import LoraConfig, get_peft_model

    sees = r".*\bvisual\..*" if is_vision_language(folder) else None
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", exclude_modules=sees)
    try:
        refuse_unfoldable(get_peft_model(model, settings), folder)
    except UserError as error:
        return [f"method lora with lora.targets all-linear will be refused: {str(error).removesuffix('.')}"]
    except ValueError as error:  # peft's own
        reason = " ".join(str(error).split())[:200]
        return [f"method lora with lora.targets all-linear will be refused ({reason}): name others, or `method: full`"]
    return []
