"""Checks of a model's or an adapter's folder by the headers of its weight files, before anything else reads it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moult.base.errors import UserError
from moult.base.files import read_json
from moult.base.signatures import LFS_POINTER, begins_as_web_page

if TYPE_CHECKING:
    import torch


HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# What is wrong with the file when it begins like this.
_AGAIN = "fetch or make it again"
# Bytes of weights that are looked through at a time.
PIECE = 1 << 24
# What safetensors calls numbers with a point → what torch calls them.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FLOATS |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
# Tensor name → (file name, dtype by its name in safetensors, shape).
Headers = dict[str, tuple[str, str, tuple[int, ...]]]
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
# What transformers takes in place of an index, or on top of the model.
_FIRST = ("model.safetensors", "adapter_model.safetensors")
# Copies of the weights for other programs: Mistral's own format, and transformers' variants (`model.fp16.safetensors`).
_OTHERS = re.compile(r"consolidated.*|model\.[\w-]+(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def check_model_folder(folder: str | Path) -> None:
    """Raise a UserError when a folder is no whole model (or adapter) in safetensors; reads only headers."""
    folder = Path(folder)
    for file in sorted(folder.iterdir()):
        if not file.name.startswith("."):
            _refuse_wrong_file(file)
    configs = [folder / name for name in ("config.json", "adapter_config.json") if (folder / name).exists()]
    settings = [read_object(config) for config in configs]
    if not any(settings):
        raise UserError(f"{folder}: holds no config.json; it is no model in Hugging Face layout.")
    if len(configs) == 2:
        raise UserError(
            f"{folder}: holds a model (config.json) and an adapter (adapter_config.json), and transformers would load "
            "both as one; keep each in a folder of its own."
        )
    held = tensor_headers(folder)
    left_over(folder)
    if not held:
        raise UserError(f"{_weight_files(folder)[0]}: holds no tensors; {_AGAIN}.")
    for name, (shard, _, shape) in held.items():
        if 0 in shape:
            raise UserError(
                f"{folder / shard}: tensor {name} is empty ({list(shape)}), as DeepSpeed ZeRO-3 leaves what it does "
                "not gather; save it again with stage3_gather_16bit_weights_on_model_save."
            )
    weight_map = _weight_map(folder)
    for name, shard in weight_map.items():
        if name not in held or held[name][0] != shard:
            raise UserError(f"{folder / shard}: lacks tensor {name} of {INDEX}; fetch the model again.")
    for name in held if weight_map else ():
        # A constant that old checkpoints store and no model loads.
        if name not in weight_map and not name.endswith("inv_freq"):
            raise UserError(
                f"{folder / held[name][0]}: holds tensor {name}, which {INDEX} does not name: the two are not of one "
                "save; fetch the model again, or save it again."
            )
    _refuse_missing_layer(folder, settings[0], held)


def left_over(folder: str | Path) -> list[Path]:
    """Return the safetensors files of a model's folder that nothing reads; reads only headers.

    UserError when the folder holds two sets of weights, of which one program would take the one, another the other:
    a single file or a shard beside those of the index, a second index, a file that holds tensors of the model again,
    another file that config.json names.
    """
    folder = Path(folder)
    used, index = _weight_files(folder), folder / INDEX
    names = [file.name for file in used]
    source = INDEX if index.exists() else names[0]
    one = "two sets of weights, and programs differ in which they take; keep one of the two"
    if index.exists() and _FIRST[0] in names and len(names) > 1:
        raise UserError(
            f"{index}: names model.safetensors beside other files, and some programs take it alone; rename it."
        )
    for second in sorted(folder.glob("*.safetensors.index.json")):
        if second.name != INDEX and not _OTHERS.fullmatch(second.name):
            raise UserError(f"{second}: is an index beside {source}: {one}.")
    named = (
        read_object(folder / "config.json").get("transformers_weights") if (folder / "config.json").exists() else None
    )
    if named not in (None, source):
        raise UserError(f"{folder / 'config.json'}: transformers_weights names {named}, beside {source}: {one}.")
    mine, unread = None, []
    for file in sorted(folder.glob("*.safetensors")):
        if file.name in names:
            continue
        unread.append(file)
        if _OTHERS.fullmatch(file.name):
            continue
        mine = mine or tensor_headers(folder).keys()
        again = next((name for name in _headers_of(file) if name in mine), None)
        if again or file.name in _FIRST:
            what = f"holds tensor {again}, which {source} has too" if again else f"stands beside {source}"
            raise UserError(f"{file}: {what}: {one}.")
        if _SHARD.fullmatch(file.name):
            raise UserError(
                f"{file}: is a shard that {source} does not name; fetch the model again, or remove the file."
            )
    return unread


def _refuse_missing_layer(folder, config, held):
    """Raise a UserError for a layer that the config counts and no tensor is of: transformers makes one up at random."""
    count = config.get("num_hidden_layers")
    numbers = {int(found[1]) for name in held if (found := LAYER.search(name))}
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


def read_object(path: Path) -> dict[str, Any]:
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


def tensor_headers(folder: str | Path) -> Headers:
    """Return {tensor name: (file name, dtype, shape)} of a model or an adapter, from the safetensors headers.

    dtype is safetensors' own name (`BF16`). UserError when a weight file is missing, truncated or corrupt, or when two
    shards hold a tensor with different values.
    """
    folder, held = Path(folder), {}
    weight_map = _weight_map(folder)
    for file in _weight_files(folder):
        for name, (dtype, shape) in _headers_of(file).items():
            if name in held:
                _refuse_other_values(name, folder / held[name][0], file)
            if name not in held or weight_map.get(name) == file.name:
                held[name] = (file.name, dtype, shape)
    return held


def _headers_of(file):
    """Return {tensor name: (dtype, shape)} of one safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as weights:
            tensors = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            return {name: (tensor.get_dtype(), tuple(tensor.get_shape())) for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise UserError(f"{file}: is named by the index and missing; fetch the model again.") from None
    except SafetensorError as error:
        raise UserError(f"{file}: {_what_else(file, error)}") from error


def _refuse_other_values(name, first, second):
    """Raise a UserError when two files hold a tensor with different values; reads both."""
    if not read_tensor(first, name).equal(read_tensor(second, name)):
        raise UserError(
            f"{second}: holds tensor {name} with other values than {first.name}; fetch or save the model again."
        )


def _what_else(file, error):
    """Return what a file is that is no safetensors: the two forms of torch's pickles, or damaged."""
    with open(file, "rb") as handle:
        beginning = handle.read(4)
    # Asked only now: a whole safetensors file may begin with these bytes of a pickle too.
    if beginning == b"PK\x03\x04" or (beginning[:1] == b"\x80" and beginning[1:2] in b"\x02\x03\x04\x05"):
        return "is a pickle by another name, and pickles are never loaded; save it as safetensors."
    return f"is truncated or corrupt ({error}); {_AGAIN}."


def parameter_count(folder: str | Path) -> int:
    """Return the number of parameters stored in a model's or an adapter's safetensors files."""
    from math import prod

    return sum(prod(shape) for _, _, shape in tensor_headers(folder).values())


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether a model's config says that its head is its embeddings."""
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings")))


def read_tensor(file: Path, name: str) -> torch.Tensor:
    """Return one tensor of a safetensors file."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return weights.get_tensor(name)


def check_finite(folder: str | Path, remedy: str) -> None:
    """Raise a UserError that names the first tensor of a model which holds NaN or infinite values; reads all of it."""
    for file in _weight_files(Path(folder)):
        for name, piece in _pieces(file):
            refuse_infinite(piece, f"{file}, {name}", remedy)


def _pieces(file):
    """Yield (name, piece) of all tensors of a safetensors file, pieces of numbers with a point, flat.

    They are read into one buffer: mapped, each page of a file costs as much as its check.
    """
    import torch

    # Whole, as the library sees it; what else the header holds, under a name of its own, may say anything.
    held = _headers_of(file)
    buffer = torch.empty(PIECE, dtype=torch.uint8)
    with open(file, "rb") as handle:
        begun = 8 + int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(begun - 8))
        for name, (dtype, _) in sorted(held.items()):
            if dtype not in FLOATS:
                continue
            at, end = (begun + place for place in header[name]["data_offsets"])
            handle.seek(at)
            while at < end and (read := handle.readinto(memoryview(buffer.numpy())[: end - at])):
                yield name, buffer[:read].view(getattr(torch, FLOATS[dtype]))
                at += read


def refuse_infinite(tensor: torch.Tensor, where: str, remedy: str) -> None:
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


def copy_files(origin: Path, folder: Path, patterns: Iterable[str]) -> None:
    """Copy the files of a folder, not those of its subfolders, that match a pattern."""
    for file in matching(origin, patterns):
        shutil.copyfile(file, folder / file.name)


def link_files(origin: str | Path, folder: str | Path, but: str) -> None:
    """Put the files of a folder into another one, but those of one name; they share their bytes where the disk can."""
    for file in sorted(path for path in Path(origin).rglob("*") if path.is_file()):
        if file.name not in (but, ".snakemake_timestamp"):
            place = Path(folder, file.relative_to(origin))
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:
                shutil.copyfile(file, place)


def matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    files = (file for file in sorted(folder.iterdir()) if file.is_file())
    return [file for file in files if any(file.match(pattern) for pattern in patterns)]
