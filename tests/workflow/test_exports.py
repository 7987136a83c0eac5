"""A sharegpt file goes in, trains a model and comes out equal; what was made here comes back in as equal examples."""

import json

from moult.base.files import read_json
from moult.data.examples import training_examples

TALKS = [
    {
        "id": f"talk {index}",
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": f"Is {index} even? 🙂"},
            {"from": "gpt", "value": "yes" if index % 2 == 0 else "no", "loss": 1.0},
            {"from": "human", "value": "And one more?"},
            {"from": "gpt", "value": "no" if index % 2 == 0 else "yes"},
        ],
        "origin": {"file": "näh.txt", "page": None},
    }
    for index in range(8)
]
INSTRUCTED = [
    {"instruction": "Say the word.", "input": word, "output": word} for word in ("sun", "rain", "snow", "fog")
]
INFO = {
    "talks": {"file_name": "talks.json", "formatting": "sharegpt"},
    "instructed": {"file_name": "instructed.jsonl"},
}


def test_what_goes_in_trains_and_comes_out_equal(copied):
    data = copied.path / "data"
    (data / "talks.json").write_text(json.dumps(TALKS, indent=2, ensure_ascii=False))
    (data / "instructed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in INSTRUCTED))
    (data / "dataset_info.json").write_text(json.dumps(INFO))
    config = copied.config
    info = {"dataset_info": "data/dataset_info.json", "dev_fraction": 0}
    config["datasets"] += [{"name": name, "entries": {"train": name}} | info for name in INFO]
    lora = {"lora": {"rank": 2}, "max_steps": 2, "batch_size": 4}
    config["models"].append({"name": "talker", "finetune": {"base": "base", "data": list(INFO), **lora}})
    copied.config = config
    run = copied.snakemake("results/pico/adapters/talker", "exports")
    assert run.returncode == 0, run.stdout + run.stderr

    results = copied.path / "results" / "pico"
    assert read_json(results / "adapters/talker/train.json")["n_train"] == 2 * len(TALKS) + len(INSTRUCTED)
    exports = read_json(results / "exports/dataset_info.json")
    for name, entry in INFO.items():
        file = results / "exports" / exports[f"{name}_train"]["file_name"]
        assert file.read_bytes() == (data / entry["file_name"]).read_bytes()
    assert "Nothing to be done" in copied.snakemake("--dry-run", "exports").stdout

    # What a model was trained on, read as LLaMA-Factory would, trains a model here in the same words.
    config["datasets"] += [
        {"name": "again", "dataset_info": "results/pico/exports/dataset_info.json"}
        | {"entries": {split: f"moods_{split}" for split in ("train", "dev", "test")}}
    ]
    copied.config = config
    run = copied.snakemake("results/pico/datasets/again")
    assert run.returncode == 0, run.stdout + run.stderr
    template = read_json(results / "exports/moods.manifest.json")["recipe"]["template"]
    for split in ("train", "dev", "test"):
        before, _ = training_examples([results / "datasets/moods"], {"moods": template}, split)
        after, _ = training_examples([results / "datasets/again"], {"again": None}, split)
        assert [(one.messages, one.answer) for one in after] == [(one.messages, one.answer) for one in before] != []
    corpus = read_json(results / "exports/distilled/distilled_train.json")
    assert [turn["from"] for turn in corpus[0]["conversations"]] == ["human", "gpt"]
