"""The MMLA path on a GPU in bfloat16: a LoRA trained, folded, and asked by both engines; text and video."""

import pytest
from clips import light_pictures, write_clip
from moult.base.files import write_json
from moult.data.formats import mmla
from moult.data.prepare import prepare_dataset
from moult.data.prompts import load_template
from moult.data.videos.frames import Frames
from moult.evaluation.labels import predict_labels
from moult.inference.asking import Asker
from moult.training.finetune import finetune_lora
from moult.weights.folding import fold_adapter
from pico import build_pico_model, build_pico_vlm

pytestmark = pytest.mark.gpu

LABELS = {"dataset": "lamps", "task": "colour", "task_words": "colour", "language": "en", "labels": ["red", "green"]}
VIDEOS = {"videos": {"frames": 4, "max_pixels": 4704, "min_pixels": 3136, "multiple": 28}, "videos_version": 1}
TRAINING = {
    "base": "base",
    "data": {},
    "lora": {"rank": 8, "alpha": 16, "dropout": 0.0, "targets": "all-linear"},
    "learning_rate": 5e-3,
    "epochs": 4,
    "max_steps": None,
    "schedule": "cosine",
    "warmup_ratio": 0.1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "batch_size": 4,
    "accumulation": 1,
    "dtype": "bfloat16",
    "threads": 1,
    "max_length": 256,
    "evaluate_every": None,
    "selection": "accuracy",
    "gradient_checkpointing": True,
    "seed": 3,
    "version": 1,
}


@pytest.fixture(scope="module", autouse=True)
def device():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The same rows twice: with a clip each, and as text in which the colour is named."""
    folder = tmp_path_factory.mktemp("lamps")
    (folder / "video").mkdir()
    prepared = {}
    for kind in ("video", "text"):
        for split, numbers in {"train": range(16), "dev": range(16, 20), "test": range(20, 28)}.items():
            place = folder / kind / "raw" / split
            place.mkdir(parents=True)
            lines = []
            for number in numbers:
                colour = LABELS["labels"][number % 2]
                write_clip(folder / "video" / f"lamps_{number}.mp4", light_pictures(colour, "steady", seed=number))
                lines.append(f"{number}\t{'Look.' if kind == 'video' else f'It is {colour}.'}\t{colour}")
            (place / f"00-{split}.tsv").write_text("\n".join(["id\ttext\tlabel", *lines]) + "\n")
        recipe = {"name": "lamps", "format": "mmla", "columns": {}, "label_set": LABELS, "task": "colour"}
        recipe |= {"files": {split: [split] for split in ("train", "dev", "test")}, "language": "en"}
        recipe |= {"dev_fraction": 0.0, "limit": None, "seed": 1} | (VIDEOS if kind == "video" else {})
        clips = folder / "video" if kind == "video" else None
        prepared[kind] = folder / kind / "lamps"
        prepare_dataset(recipe, folder / kind / "raw", prepared[kind], videos=clips, scratch=folder / "scratch")
    return prepared


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A Llama and a Qwen2-VL with heads of a size that vLLM has kernels for."""
    folder = tmp_path_factory.mktemp("bases")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "initializer_range": 0.1}
    return {
        "text": build_pico_model(folder / "llama", **sizes),
        "video": build_pico_vlm(folder / "qwen2-vl", sizes=sizes),
    }


@pytest.mark.parametrize("kind", ["text", "video"])
def test_train_fold_and_predict(kind, datasets, bases, tmp_path):
    pytest.importorskip("vllm")
    template = load_template({"text": "mmla/text", "video": "mmla/video"}[kind])
    (train, _), (dev, _) = (mmla.FORMAT.examples(datasets[kind], split, template) for split in ("train", "dev"))
    report = finetune_lora(
        TRAINING, bases[kind], train, dev, tmp_path / "scratch", tmp_path / "adapter", [datasets[kind]]
    )
    assert report["n_train"] == 16 and report["dropped"] == []
    assert fold_adapter(tmp_path / "adapter", bases[kind], tmp_path / "model")["folded"] > 0
    write_json(tmp_path / "model.manifest.json", {"content": "0"})
    found = {}
    for engine in ("vllm", "transformers"):
        recipe = {
            "model": "model",
            "suite": "labels",
            "split": "test",
            "methods": ["generate", "likelihood"],
            "max_tokens": 4,
            "datasets": {"lamps": template},
            "compute": {"engine": engine, "dtype": "bfloat16", "batch_size": 4, "threads": 1},
        }
        endpoint = {"name": "model", "serve": "model", "compute": recipe["compute"]}
        served = {"model": tmp_path / "model", "manifest": tmp_path / "model.manifest.json"}
        with Asker(endpoint, tmp_path / f"{engine}.sqlite", **served, frames=Frames([datasets[kind]])) as asker:
            rows = predict_labels(recipe, {"lamps": datasets[kind]}, asker)
        assert len(rows) == 16 and not [row for row in rows if row["status"] == "error"]
        found[engine] = {(row["uid"], row["method"]): row["raw"] for row in rows}
    for (uid, method), raw in found["vllm"].items():
        if method == "likelihood":
            # Sums of a few bfloat16 log-probabilities by two implementations.
            assert raw == pytest.approx(found["transformers"][uid, method], rel=0.05, abs=0.5)
