"""What is written tensor by tensor has the bytes of what mergekit writes at once."""

import json

import pytest
import torch
from mergekit.io.tensor_writer import TensorWriter
from moult.weights import placing
from moult.weights.placing import Placed

TENSORS = {
    "model.norm.weight": torch.arange(5, dtype=torch.bfloat16),
    "model.embed_tokens.weight": torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "ä.weight": torch.ones(2, 2, 2, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
}
SHAPES = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
EXPECTED = {
    "what comes": SHAPES,
    "nothing": {},
    "one too many": SHAPES | {"lm_head.weight": (torch.bfloat16, (7, 3))},
    "one too few": {name: one for name, one in SHAPES.items() if name != "empty"},
    "another shape": SHAPES | {"model.embed_tokens.weight": (torch.bfloat16, (8, 3))},
    "another dtype": dict.fromkeys(SHAPES, (torch.float32, (3,))),
}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("most", [0, 40, 1 << 30], ids=["one shard", "several", "large"])
@pytest.mark.parametrize("expected", EXPECTED)
def test_files_are_those_of_mergekit_whatever_was_expected(tmp_path, most, expected):
    ours = Placed(str(tmp_path / "ours"), max_shard_size=most)
    ours.expect(EXPECTED[expected])
    theirs = TensorWriter(str(tmp_path / "theirs"), max_shard_size=most)
    for writer in (ours, theirs):
        for name, tensor in TENSORS.items():
            writer.save_tensor(name, tensor)
        writer.finalize()
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


def test_what_was_expected_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(placing, "serialize_file", None)
    writer = Placed(str(tmp_path), max_shard_size=40)
    writer.expect(SHAPES)
    for name, tensor in TENSORS.items():
        writer.save_tensor(name, tensor)
    writer.finalize()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(TENSORS)
