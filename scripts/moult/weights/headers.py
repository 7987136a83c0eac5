"""Checks of a model's or an adapter's folder by the headers of its weight files, before anything else reads it."""

import os
import re
import shutil
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_json
from moult.base.signatures import LFS_POINTER, begins_as_web_page

HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# What is wrong with the file when it begins like this.
_AGAIN = "fetch or make it again"
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


def check_model_folder(folder):
    """Raise a UserError when a folder is no whole model (or adapter) in safetensors; reads only headers."""
    folder = Path(folder)
    for file in sorted(folder.iterdir()):
        if not file.name.startswith("."):
            _refuse_wrong_file(file)
    configs = [folder / name for name in ("config.json", "adapter_config.json") if (folder / name).exists()]
    settings = [read_object(config) for config in configs]
    if not any(settings):
        raise UserError(f"{folder}: holds no config.json; it is no model in Hugging Face layout.")
    held = tensor_headers(folder)
    if not held:
        raise UserError(f"{_weight_files(folder)[0]}: holds no tensors; {_AGAIN}.")
    for name, (file, _, shape) in held.items():
        if 0 in shape:
            raise UserError(
                f"{folder / file}: tensor {name} is empty ({list(shape)}), as DeepSpeed ZeRO-3 leaves what it does not "
                "gather; save it again with stage3_gather_16bit_weights_on_model_save."
            )
    for name, shard in _weight_map(folder).items():
        if name not in held or held[name][0] != shard:
            raise UserError(f"{folder / shard}: lacks tensor {name} of {INDEX}; fetch the model again.")
    _refuse_missing_layer(folder, settings[0], held)


def _refuse_missing_layer(folder, config, held):
    """Raise a UserError for a layer that the config counts and no tensor is of: transformers makes one up at random."""
    count = config.get("num_hidden_layers")
    numbers = {int(found[1]) for name in held if (found := _LAYER.search(name))}
    if isinstance(count, int) and numbers:
        lacking = next((number for number in range(count) if number not in numbers), None)
        if lacking is not None:
            raise UserError(f"{folder}: no tensor is of layer {lacking}, config.json counts {count} layers; {_AGAIN}.")


def _refuse_wrong_file(file):
    """Raise a UserError for a missing file, or one whose first bytes contradict its name."""
    if file.is_symlink():
        _refuse_link(file)
    if file.suffix in (".safetensors", ".json") and not file.is_file():
        raise UserError(f"{file}: is no regular file; put the file itself there.")
    if not file.is_file():
        return
    with open(file, "rb") as handle:
        beginning = handle.read(512)
    if beginning.startswith(LFS_POINTER):
        raise UserError(f"{file}: is a git-LFS pointer, not the file; run git lfs pull where it came from.")
    if file.suffix not in (".safetensors", ".json", ".model"):
        return
    if not beginning:
        raise UserError(f"{file}: is empty (0 bytes); {_AGAIN}.")
    if begins_as_web_page(file):
        raise UserError(f"{file}: is a web page (HTML), not the file; download the file itself, logged in if need be.")


def _refuse_link(file):
    """Raise a UserError for a link out of the folder: its target would be copied into models that are passed on.

    The links of a hub cache, from `snapshots/<commit>/` to `blobs/`, are no such.
    """
    folder = file.parent.resolve()
    first = Path(os.path.normpath(folder / os.readlink(file)))
    in_cache = folder.parent.name == "snapshots" and first.parent == folder.parent.parent / "blobs"
    if not file.exists():
        raise UserError(f"{file}: is a link to {os.readlink(file)}, which is not there; put the file itself there.")
    if not in_cache and not file.resolve().is_relative_to(folder):
        raise UserError(
            f"{file}: is a link that leaves its folder ({os.readlink(file)}); put the file itself there (cp -L)."
        )


def read_object(path):
    """Return the JSON object in a file of a model; UserError when it holds anything else."""
    value = read_json(path, _AGAIN)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object but a {type(value).__name__}; {_AGAIN}.")
    return value


def _weight_map(folder):
    """Return {tensor name: shard} of a folder's index, {} without one; UserError when a shard lies elsewhere."""
    index = folder / INDEX
    if not index.exists():
        return {}
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: holds no weight_map; {_AGAIN}.")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise UserError(f"{index}: {shard!r} of {name} is no weight file of its folder; get the model elsewhere.")
    return weight_map


def _weight_files(folder):
    if weight_map := _weight_map(folder):
        return [folder / shard for shard in sorted(set(weight_map.values()))]
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / name).exists():
            return [folder / name]
    if any(file for pattern in PICKLES for file in folder.glob(pattern)):
        raise UserError(f"{folder}: holds its weights as pickles only; save them as safetensors.")
    raise UserError(f"{folder}: holds no model.safetensors and no {INDEX}; fetch it again.")


def tensor_headers(folder):
    """Return {tensor name: (file name, dtype, shape)} of a model or an adapter, from the safetensors headers.

    dtype is safetensors' own name (`BF16`). UserError when a weight file is missing, truncated or corrupt.
    """
    from safetensors import SafetensorError, safe_open

    held = {}
    for file in _weight_files(Path(folder)):
        try:
            with safe_open(file, framework="np") as weights:
                for name in weights.keys():  # noqa: SIM118
                    tensor = weights.get_slice(name)
                    held[name] = (file.name, tensor.get_dtype(), tuple(tensor.get_shape()))
        except FileNotFoundError:
            raise UserError(f"{file}: is named by the index and missing; fetch the model again.") from None
        except SafetensorError as error:
            raise UserError(f"{file}: {_what_else(file, error)}") from error
    return held


def _what_else(file, error):
    """Return what a file is that is no safetensors: the two forms of torch's pickles, or damaged."""
    with open(file, "rb") as handle:
        beginning = handle.read(4)
    # Asked only now: a whole safetensors file may begin with these bytes of a pickle too.
    if beginning == b"PK\x03\x04" or (beginning[:1] == b"\x80" and beginning[1:2] in b"\x02\x03\x04\x05"):
        return "is a pickle by another name, and pickles are never loaded; save it as safetensors."
    return f"is truncated or corrupt ({error}); {_AGAIN}."


def parameter_count(folder):
    """Return the number of parameters stored in a model's or an adapter's safetensors files."""
    from math import prod

    return sum(prod(shape) for _, _, shape in tensor_headers(folder).values())


def is_tied(config):
    """Whether a model's config says that its head is its embeddings."""
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings")))


def read_tensor(file, name):
    """Return one tensor of a safetensors file."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return weights.get_tensor(name)


def check_finite(folder, remedy):
    """Raise a UserError that names the first tensor of a model which holds NaN or infinite values; reads all of it."""
    from safetensors import safe_open

    for file in _weight_files(Path(folder)):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                refuse_infinite(weights.get_tensor(name), f"{file}, {name}", remedy)


def refuse_infinite(tensor, where, remedy):
    """Raise a UserError when a tensor holds NaN or infinite values."""
    if not tensor.is_floating_point():
        return
    # Smallest and largest: NaN spreads to both. Many times faster than isfinite over all; not there for 8 bits.
    extremes = (tensor.float() if tensor.element_size() == 1 else tensor).aminmax()
    if not all(extreme.isfinite() for extreme in extremes):
        raise UserError(f"{where}: holds NaN or infinite values; {remedy}.")


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


def copy_files(origin, folder, patterns):
    """Copy the files of a folder, not those of its subfolders, that match a pattern."""
    for file in matching(origin, patterns):
        shutil.copyfile(file, folder / file.name)


def matching(folder, patterns):
    files = (file for file in sorted(folder.iterdir()) if file.is_file())
    return [file for file in files if any(file.match(pattern) for pattern in patterns)]
