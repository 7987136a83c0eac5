"""Named training settings: written out before the config is checked, and what is written beside them wins."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.config import pins
from moult.config.entries.datasets import label_sets
from moult.config.entries.models import Finetune, Optimise
from moult.config.load import load
from moult.config.presets import fill, load_preset, preset_names


def test_every_preset_is_a_training():
    for name in preset_names():
        settings = load_preset(name)
        training = (Optimise if "loss" in settings else Finetune)(base="b", data=["d"], **settings)
        assert training.selection == "accuracy" or not name.startswith("mmla/")


def test_meteor_s_steps_have_the_rows_that_the_paper_says():
    def of(name, kind=Finetune):
        one = kind(base="b", data=["d"], **load_preset(name))
        return one.method, one.batch_size * one.accumulation * one.devices, one.learning_rate, one.epochs

    assert of("meteor/sft") == ("full", 32, 3e-5, 3)
    assert of("meteor/sft-lora")[:2] == ("lora", 32)
    assert of("meteor/round") == ("lora", 8, 3e-5, 1)
    assert of("meteor/self-training", Optimise) == ("lora", 8, 1e-5, 1)


def test_the_presets_of_fusion_have_the_steps_that_the_paper_says():
    sft = Finetune(base="b", data=["d"], **load_preset("wrpo/sft"))
    assert (sft.batch_size * sft.accumulation * sft.devices, sft.zero, sft.learning_rate) == (128, 3, 7e-6)
    for name, rate in (("wrpo", 3e-7), ("dpo", 3e-7), ("ipo", 3e-7), ("simpo", 1e-6)):
        one = Optimise(base="b", data=["d"], **load_preset(f"wrpo/{name}"))
        assert one.loss.kind == name and (one.method, one.zero, one.learning_rate) == ("full", 3, rate)
        assert one.batch_size * one.accumulation * one.devices == 128 and one.max_length == 2048


def test_a_preference_optimisation_has_presets_too():
    own = {"preset": "meteor/self-training", "loss": {"kind": "dpo"}}
    raw = {"models": [{"name": "m", "optimise": own}]}
    fill(raw)
    assert raw["models"][0]["optimise"]["loss"] == {"kind": "dpo"}
    assert raw["models"][0]["optimise"]["learning_rate"] == 1e-5 and "preset" in own


def test_those_per_dataset_have_every_dataset_of_the_study():
    tasks = {name for name in label_sets() if not name.startswith("demo")}
    assert len(tasks) == 12
    for file in ("paper-mllm-sft", "paper-mllm-72b-sft", "reproduction-mllm-sft"):
        assert {name.split("/")[2] for name in preset_names() if name.startswith(f"mmla/{file}/")} == tasks


def test_numbers_reach_the_training():
    def of(name):
        one = Finetune(base="b", data=["d"], **load_preset(name))
        return one.batch_size, one.accumulation, one.learning_rate, one.epochs, one.warmup_ratio, one.evaluate_every

    assert of("mmla/paper-mllm-sft/MIntRec2.0") == (16, 8, 1.2e-4, 30, 0.3, 5)
    assert of("mmla/reproduction-mllm-sft/MIntRec2.0") == (16, 8, 1.2e-4, 5, 0.3, 200)
    assert of("mmla/paper-mllm-72b-sft/MOSI") == (2, 2, 1e-4, 10, 0.2, 5)
    assert of("mmla/reproduction-llm-it") == (1, 8, 5e-5, 2, 0.03, 600)
    assert load_preset("mmla/paper-llm-it")["lora"]["rank"] == 8


def test_keys_beside_a_preset_win_those_of_lora_one_by_one():
    raw = {"models": [{"name": "m", "finetune": {"preset": "mmla/paper-llm-sft", "epochs": 1, "lora": {"rank": 4}}}]}
    fill(raw)
    written = raw["models"][0]["finetune"]
    assert "preset" not in written
    assert (written["epochs"], written["learning_rate"]) == (1, 5e-5)
    assert (written["lora"]["rank"], written["lora"]["alpha"]) == (4, 32)


def test_a_misspelt_key_is_told_of_presets_too():
    model = {"name": "m", "finetune": {"presett": "mmla/paper-llm-sft", "base": "b", "data": ["d"]}}
    with pytest.raises(UserError, match="presett: unknown key; did you mean 'preset'"):
        load({"name": "x", "models": [model]})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mmla/paper-llm-stf", "did you mean 'mmla/paper-llm-sft'?"),
        ("mmla/paper-mllm-sft/MELT", "did you mean 'mmla/paper-mllm-sft/MELD'?"),
        ("mmla/paper-mllm-sft", "write 'mmla/paper-mllm-sft/AnnoMi-client', or another of its datasets"),
        (3, "preset 3 is not in resources/presets/"),
    ],
)
def test_an_unknown_preset_is_one_sentence(name, told):
    with pytest.raises(UserError, match="models 'm', preset") as error:
        fill({"models": [{"name": "m", "finetune": {"preset": name}}]})
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", preset_names("lm_eval"))
def test_every_preset_of_a_suite_is_one_and_its_repositories_can_be_pinned(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.json")
    raw = {"name": "x", "suites": [{"name": "s", "lm_eval": {"preset": name, "limit": 3}}]}
    cfg = load(raw)
    settings = cfg.find("suites", "s").lm_eval
    assert settings.limit == 3 and cfg.unpinned() == sorted(one.hub for one in settings.data)
    (tmp_path / "pins.json").write_text(json.dumps({f"dataset {one.hub}": "a" * 40 for one in settings.data}))
    assert load(raw).unpinned() == []
    # What was filled in for one config is in no other.
    (tmp_path / "pins.json").unlink()
    assert load(raw).unpinned() == cfg.unpinned()


@pytest.mark.parametrize(
    ("kind", "way", "name"), [("models", "finetune", "lm_eval/mmlu"), ("suites", "lm_eval", "meteor/sft")]
)
def test_a_preset_of_another_kind_is_refused(kind, way, name):
    with pytest.raises(UserError, match=f"{kind} 'm', preset '{name}' is none for `{way}`"):
        fill({kind: [{"name": "m", way: {"preset": name}}]})


def test_the_tasks_of_the_presets_come_with_lm_eval_and_want_no_other_repository():
    tasks = Path(next(iter(importlib.util.find_spec("lm_eval").submodule_search_locations)), "tasks")
    first = "benchmarks/openllm arc/arc_easy hellaswag/hellaswag truthfulqa/truthfulqa_mc1 winogrande/default"
    wanted = {"mmlu": "mmlu/default/*", "gsm8k": "gsm8k/*", "open-llm-leaderboard-v2": "leaderboard/**/*"}
    wanted |= {"open-llm-leaderboard-v1": f"{first} mmlu/default/* gsm8k/*"}
    assert {f"lm_eval/{name}" for name in wanted} == set(preset_names("lm_eval"))
    for name, patterns in wanted.items():
        files = [path for one in patterns.split() for path in tasks.glob(f"{one}yaml" if "*" in one else f"{one}.yaml")]
        text = "\n".join(path.read_text() for path in files)
        assert {one["hub"] for one in load_preset(f"lm_eval/{name}")["data"]} == set(
            re.findall(r"^dataset_path: (\S+)", text, re.MULTILINE)
        )
        assert re.search(rf"^(?:task|group): {load_preset(f'lm_eval/{name}')['tasks'][0]}$", text, re.MULTILINE)


@pytest.mark.parametrize("way", ["merge", "moe"])
def test_every_preset_of_a_merge_is_one_with_two_parents(way):
    assert len(preset_names(way)) >= {"merge": 8, "moe": 1}[way]
    for name in preset_names(way):
        models = [{"name": one, "fetch": {"path": one}, "parameters": 1} for one in ("base", "a", "b")]
        parts = {"merge": {"parents": [{"model": "a"}, {"model": "b"}]}}
        parts["moe"] = {"experts": parts["merge"]["parents"], "shared_experts": [{"model": "base"}]}
        task = name.split("/")[1] not in ("linear", "slerp", "slerp-instruct")
        section = {"preset": name, **parts[way], **({"base": "base"} if task else {})}
        if name.split("/")[1].startswith("slerp"):
            section["base"] = "a"
        cfg = load({"name": "x", "models": [*models, {"name": "m", way: section}]})
        assert cfg.find("models", "m").parents[:2] == ["a", "b"]


def test_settings_of_a_preset_are_laid_under_each_parent():
    own = {"preset": "merging/ties", "base": "c", "parents": [{"model": "a", "weight": 2}, {"model": "b"}]}
    raw = {"models": [{"name": "m", "merge": own}]}
    fill(raw)
    first, second = raw["models"][0]["merge"]["parents"]
    assert first == {"model": "a", "weight": 2, "density": [1, 0.7, 0.1]}
    assert second == {"model": "b", "weight": [0, 0.3, 0.7, 1], "density": 0.5}
