"""The disk that an experiment's models take, by hand; and what is deleted when it is no more needed."""

import re

import pytest
from moult.base.errors import UserError
from moult.config.load import load
from moult.planning.disk import adapter_gb, disk, weights_gb
from moult.planning.in_turn import targets_in_turn
from moult.planning.start import checked_config
from moult.stages import STAGES
from pico_build import ROOT

FILE = {"hub": "org/asked", "file": "a.tsv"}
LORA = {"lora": {"rank": 8}, "epochs": 1}


def config(**tuned):
    parents = [{"model": name, "weight": 1} for name in ("base", "tuned")]
    experts = [{"model": name, "positive_prompts": ["x"]} for name in ("base", "tuned")]
    return {
        "name": "study",
        "datasets": [{"name": "asked", "format": "stackoverflow", "files": {"train": FILE}}],
        "models": [
            {"name": "base", "fetch": {"hub": "org/base"}, "parameters": 7},
            {"name": "tuned", "finetune": {"base": "base", "data": ["asked"], **LORA, **tuned}},
            {"name": "merged", "merge": {"method": "linear", "parents": parents, "dtype": "float32"}},
            {"name": "rounded", "merge": {"method": "linear", "parents": parents, "dtype": "float32"} | ROUNDED},
            {"name": "mixed", "moe": {"base": "base", "experts": experts, "gate_mode": "random"}},
        ],
        "suites": [{"name": "quality", "judge": {"datasets": ["asked"], "split": "train", "endpoint": "judge"}}],
        "endpoints": [{"name": "judge", "serve": "base"}],
        "evaluations": [{"suite": "quality", "models": ["base", "merged", "rounded"], "against": "base"}],
    }


ROUNDED = {"out_dtype": "bfloat16"}


def test_weights_by_hand(tmp_path):
    """7 B in 16 bits, folded alike; merged in 32 bits, and rounded; a mixture has at most what its experts have."""
    cfg = load(config())
    sizes = {name: weights_gb(cfg, name) for name in cfg.names("models")}
    assert sizes == {"base": 14, "tuned": 14, "merged": 28, "rounded": 14, "mixed": 28}
    layers = (7e9 / (12 * 128**2)) ** (1 / 3)
    adapter = 4 * 20 * 8 * layers * 128 * layers / 1e9
    assert adapter_gb(cfg, "tuned") == pytest.approx(adapter)
    found = disk(cfg, tmp_path / "results")
    assert found.there == 0 and found.stays == pytest.approx(sum(sizes.values()) + adapter)
    # Three checkpoints of the adapter, with Adam's two moments.
    assert found.passes == pytest.approx(9 * adapter)


def test_what_is_there_is_not_made_and_what_passes_is_there_once(tmp_path):
    raw = config()
    raw["models"][2]["keep"] = raw["models"][3]["keep"] = False
    (tmp_path / "models/base").mkdir(parents=True)
    (tmp_path / "models/base/model.safetensors").write_bytes(b"x" * 5000)
    found = disk(load(raw), tmp_path)
    assert found.there == 5e-6
    assert found.stays == pytest.approx(14 + 28 + adapter_gb(load(raw), "tuned"))
    assert found.passes == 28


def test_a_chosen_model_is_links_to_one_that_stays():
    raw = config()
    raw["models"].append({"name": "best", "select": {"among": ["merged", "rounded"], "suite": "labels"}})
    moods = {"name": "moods", "format": "mmla", "labels": ["a", "b"], "task": "mood"}
    moods["files"] = {"train": FILE, "dev": FILE}
    raw["datasets"].append(moods)
    raw["suites"].append({"name": "labels", "labels": {"datasets": ["moods"], "split": "dev"}})
    raw["evaluations"].append({"suite": "labels", "models": ["merged", "rounded"]})
    assert weights_gb(load(raw), "best") == 0
    raw["models"][2]["keep"] = False
    assert weights_gb(load(raw), "best") == 28


def test_full_training_keeps_three_checkpoints(tmp_path):
    raw = config()
    del raw["models"][1]["finetune"]["lora"]
    raw["models"][1]["finetune"]["method"] = "full"
    assert disk(load(raw), tmp_path).passes == 3 * 3 * 4 * 7


def test_what_does_not_fit_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 200e9}))
    said = []
    checked_config(config(), "study.yaml", said.append, speaks=True)
    assert str(disk(load(config()), tmp_path)).endswith("200.0 GB are free.")
    assert said and not [line for line in said if "GB are free" in line]
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 98e9}))
    checked_config(config(), "study.yaml", said.append, speaks=True)
    (told,) = [line for line in said if "GB are free" in line]
    assert told.startswith("study.yaml: models and adapters: 98.") and "98.0 GB are free: that does not fit." in told


def test_a_rule_deletes_what_its_stage_says_is_there_for_a_while():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    rules = dict(re.findall(r"^use rule \w+ as (\w+) with:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))
    assert {rule for rule, lines in rules.items() if "temp(" in lines} == {one.rule for one in STAGES if one.passing}


def test_a_few_passing_models_at_a_time():
    raw = config()
    for model in raw["models"][2:4]:
        model["keep"] = False
    asked = [f"results/study/answers/quality/{name}.jsonl" for name in ("merged", "rounded")]
    assert list(targets_in_turn(load(raw), 1)) == [asked[:1], asked[1:]]
    assert list(targets_in_turn(load(raw), 8)) == [asked]
    # What passes and is a part of passing models alone is made with these.
    raw["models"][1]["keep"] = False
    del raw["models"][4]
    assert list(targets_in_turn(load(raw), 1)) == [asked[:1], asked[1:]]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [(0, "keep: what is fetched, or trained in all its weights"), (4, "keep: nothing needs")],
)
def test_what_cannot_pass(place, sentence):
    raw = config()
    raw["models"][place]["keep"] = False
    with pytest.raises(UserError, match=sentence):
        load(raw)
