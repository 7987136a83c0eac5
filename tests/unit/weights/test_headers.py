"""Every file that is not what it seems is refused in the words of docs/hostile-files.md, and leaves nothing."""

import json
import shutil

import hostile_files
import pytest
import torch
from moult.base.errors import UserError
from moult.weights.fetch import fetch_model
from moult.weights.headers import check_finite
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return hostile_files.build_originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.parametrize("wrong", hostile_files.CASES)
def test_a_hostile_file_is_refused_as_the_page_says(wrong, originals, tmp_path):
    sentence = hostile_files.sentence_of(wrong, originals, tmp_path)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500
    assert hostile_files.row(wrong, sentence) in hostile_files.PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_lists_these_cases_and_no_others():
    text = hostile_files.PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(hostile_files.CASES) and text == hostile_files.page(rows)


def test_code_that_is_not_needed_is_neither_copied_nor_run(originals, tmp_path):
    model = shutil.copytree(originals / "model", tmp_path / "model")
    (model / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    hostile_files.edit(model / "config.json", auto_map={"AutoModelForCausalLM": "code.Model"})
    facts = fetch_model({"path": str(model)}, tmp_path / "target", None)
    sentence = "config.json names code (auto_map), which is never run: transformers' own classes are used"
    assert facts["warnings"] == [sentence]
    assert not (tmp_path / "ran").exists() and not (tmp_path / "target/code.py").exists()
    assert "auto_map" in json.loads((tmp_path / "target/config.json").read_text())


def test_a_folder_of_the_hubs_cache_may_be_given_by_its_path(originals, tmp_path):
    blobs, snapshot = tmp_path / "models--a/blobs", tmp_path / "models--a/snapshots/0123"
    shutil.copytree(originals / "model", blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    fetch_model({"path": str(snapshot)}, tmp_path / "target", None)
    assert not any(file.is_symlink() for file in (tmp_path / "target").iterdir())


def test_what_the_header_says_of_the_file_is_no_tensor(tmp_path):
    """Programs write there what they like, such as the dtype of all tensors."""
    weights = {"a": torch.ones(3), "places": torch.arange(4)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt", "dtype": "F32"})
    check_finite(tmp_path, "make it again")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("place", [0, 4095, 4096, 9999])
def test_a_number_that_is_none_is_found_wherever_it_stands(tmp_path, monkeypatch, dtype, place):
    monkeypatch.setattr("moult.weights.headers.PIECE", 1 << 12)
    weights = {"a": torch.ones(10), "b": torch.ones(10_000).to(getattr(torch, dtype))}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    check_finite(tmp_path, "make it again")
    weights["b"][place] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="model.safetensors, b: holds NaN or infinite values; make it again"):
        check_finite(tmp_path, "make it again")
