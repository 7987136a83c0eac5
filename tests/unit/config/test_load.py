"""A wrong config is told in sentences that name entry, field and remedy; the shipped ones are right."""

import copy
import json
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.config import pins
from moult.config.entries import datasets
from moult.config.expansion import expand
from moult.config.load import load, load_file
from moult.config.schema import schema
from moult.stages import BY_RULE
from moult.stages import models as model_stages
from moult.stages import report as report_stages
from moult.weights.methods import METHODS, description

ROOT = Path(__file__).parents[3]
CONFIGS = sorted([ROOT / "config" / "config.yaml", *(ROOT / "config").glob("*/*.yaml")])


@pytest.fixture
def raw():
    return {
        "name": "tiny",
        "datasets": [
            {"name": "questions", "format": "stackoverflow", "files": {"train": "ml.tsv"}},
            {"name": "moods", "format": "mmla", "files": {"train": "a.tsv", "test": "b.tsv"}, "labels": "MOSI"},
        ],
        "endpoints": [{"name": "student", "serve": "base"}],
        "corpora": [
            {"name": "guidelines", "kind": "guidelines", "dataset": "questions", "endpoint": "student"},
            {"name": "distilled", "kind": "distilled", "guidelines": "guidelines", "endpoint": "student"},
        ],
        "models": [
            {"name": "base", "fetch": {"path": "models/base"}, "parameters": 0.1},
            {"name": "tuned", "finetune": {"base": "base", "data": ["distilled", "moods"]}},
            {
                "name": "merged",
                "merge": {
                    "method": "ties",
                    "base": "base",
                    "parents": [{"model": "tuned", "weight": 0.5}, {"model": "other", "weight": 0.5}],
                },
            },
            {"name": "other", "finetune": {"base": "base", "data": ["moods"]}},
        ],
        "suites": [{"name": "labels", "labels": {"datasets": ["moods"]}}],
        "evaluations": [{"suite": "labels", "models": ["base", "tuned", "merged"], "against": "base"}],
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    assert load_file(path).name


def test_the_json_schema_is_current():
    assert json.loads((ROOT / "config" / "schema.json").read_text()) == schema()


def test_a_right_config_loads(raw):
    cfg = load(raw)
    assert cfg.names("models", "finetune") == ["tuned", "other"]
    assert cfg.inherited("merged", "parameters") == 0.1


def change(raw, where, value):
    raw = copy.deepcopy(raw)
    *path, last = where
    node = raw
    for part in path:
        node = node[part]
    node[last] = value
    return raw


@pytest.mark.parametrize(
    ("where", "value", "sentence"),
    [
        (["sead"], 1, "sead: unknown key; did you mean 'seed'?"),
        (
            ["models", 1, "finetune", "learnin_rate"],
            1,
            "models, entry 2 (tuned), finetune, learnin_rate: unknown key; did you mean 'learning_rate'?",
        ),
        (["models", 1, "finetune", "lora"], {"ranc": 4}, "lora, ranc: unknown key; did you mean 'rank'?"),
        (
            ["models", 1, "finetune"],
            {"base": "base", "data": ["moods"], "method": "full", "lora": {"rank": 4}},
            "lora: with `method: full` there is no adapter; leave out one of the two",
        ),
        (
            ["models", 1],
            {
                "name": "tuned",
                "finetune": {"base": "base", "data": ["moods"], "method": "full"},
                "compute": {"dtype": "float16"},
            },
            "models 'tuned': float16 would need loss scaling",
        ),
        (
            ["corpora", 0, "truncate"],
            "x",
            "corpora, entry 1 (guidelines), truncate: unknown key; did you mean 'truncated'?",
        ),
        (["corpora", 0, "gate"], {}, "corpora, entry 1 (guidelines): gate is no setting of guidelines; leave it out"),
        (["corpora", 0, "kind"], "guideline", "entry 1 (guidelines), kind: 'guideline' is no kind; did you mean"),
        (["corpora", 0], {"name": "x"}, "corpora, entry 1 (x), kind: is missing; there is contrasts, distilled,"),
        (["corpora", 0, "promt"], "x", "corpora, entry 1 (guidelines), promt: unknown key; did you mean 'prompt'?"),
        (
            ["models", 1, "finetune", "base"],
            "bsae",
            "models 'tuned', base or parents: 'bsae' is not there; did you mean 'base'?",
        ),
        (
            ["models", 1, "finetune", "data"],
            ["distiled"],
            "models 'tuned', data: 'distiled' is not there; did you mean 'distilled'?",
        ),
        (["models", 1, "finetune", "data"], ["guidelines"], "models 'tuned', data: 'guidelines' is not there"),
        (
            ["corpora", 0, "endpoint"],
            "studnet",
            "corpora 'guidelines', endpoint: 'studnet' is not there; did you mean 'student'?",
        ),
        (
            ["corpora", 0, "dataset"],
            "moods",
            "dataset: the rows of 'moods' are labelled, not questions; there is questions",
        ),
        (
            ["suites", 0, "labels", "datasets"],
            ["questions"],
            "suites 'labels', datasets: the rows of 'questions' are questions, not labelled; there is moods",
        ),
        (["corpora", 0, "prompt"], "meteor/guidline", "did you mean 'meteor/guideline'?"),
        (
            ["datasets", 1, "labels"],
            "MOSY",
            "labels: 'MOSY' is not in resources/labels/ or labels/; did you mean 'MOSI'?",
        ),
        (["datasets", 1, "columns"], {"txt": "t"}, "columns: 'txt' is not a field of mmla; did you mean 'text'?"),
        (
            ["datasets", 1, "files"],
            {"train": "a.tsv"},
            "suites 'labels', split: dataset 'moods' has no file for 'test'",
        ),
        (["datasets", 1, "name"], "distilled", "datasets and corpora: the name 'distilled' stands twice"),
        (["datasets", 1, "name"], "a/b", "datasets, entry 2 (a/b), name: is 'a/b'; write letters, digits,"),
        (["datasets", 1, "name"], "mean", "the score tables call their means so"),
        (["models", 1, "name"], "tuned.manifest", "a name may not end in .manifest"),
        (["evaluations", 0, "against"], "other", "against: 'other' is not measured by this suite"),
        (["evaluations", 0, "models"], ["base", "base"], "model or setting 'base' stands twice under suite 'labels'"),
        (["models", 2, "merge", "base"], "other", "other is base and parent: its task vector is zero"),
        (["models", 2, "merge", "method"], "linear", "linear takes no `base`"),
        (
            ["models", 2, "merge", "method"],
            "tease",
            "method: 'tease' is none of what may stand here; did you mean 'ties'?",
        ),
        (
            ["models", 1, "merge"],
            {"method": "linear", "parents": [{"model": "a", "weight": 1}, {"model": "b", "weight": 1}]},
            "write exactly one of fetch, finetune, optimise, merge",
        ),
        (["models", 0, "parameters"], None, "say how many billions a fetched model has"),
        (["models", 1, "finetune", "learning_rate"], -1, "learning_rate: is -1; write a number above 0."),
        (["seed"], "x", "seed: is 'x'; write a whole number"),
        (["endpoints", 0, "url"], "http://x", "write exactly one of serve, url"),
        (["endpoints", 0, "api_key"], "x", "endpoints[0].api_key: keys do not stand in a config"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_mistake_is_told_with_its_remedy(raw, where, value, sentence):
    with pytest.raises(UserError) as error:
        load(change(raw, where, value), "my.yaml")
    assert sentence in str(error.value)
    assert all(line.startswith("my.yaml: ") for line in str(error.value).splitlines())


def merge(method, base, *parents, **parameters):
    return {"method": method, "base": base, "parents": list(parents), "parameters": parameters}


TUNED, OTHER = {"model": "tuned", "weight": 0.5}, {"model": "other", "weight": 0.5}
ENDS = {"model": "base"}, {"model": "other"}


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (merge("linear", "base", TUNED, OTHER), "linear takes no `base`; leave out `base: base`"),
        (merge("ties", None, TUNED, OTHER), "ties needs `base`: the model that the parents were trained from"),
        (merge("slerp", None, *ENDS, t=0.5), "slerp needs `base`: one of the two models"),
        (merge("slerp", "tuned", *ENDS, t=0.5), "base tuned is not one of the parents base, other, as slerp needs it"),
        (merge("slerp", "base", *ENDS, {"model": "tuned"}, t=0.5), "slerp takes 2 models, not 3"),
        (merge("linear", None, TUNED, TUNED), "tuned stands twice among the parents; name it once"),
        (merge("slerp", "base", *ENDS), "parameters: t is missing; slerp needs a number from 0 (base) to 1"),
        (merge("slerp", "base", *ENDS, t=1.5), "parameters: t is 1.5; slerp takes a number from 0 (base) to 1"),
        (merge("slerp", "base", *ENDS, t=[0, -0.1, 1]), "parameters: t is [0, -0.1, 1]; slerp takes a number from 0"),
        (merge("slerp", "base", *ENDS, t=[]), "parameters: t is []; slerp takes a number from 0"),
        (merge("slerp", "base", *ENDS, t=True), "parameters: t is True; slerp takes a number from 0"),
        (merge("slerp", "base", *ENDS, t=[{"filter": "mlp", "value": [0, 2]}, {"value": 0.5}]), "slerp takes a number"),
        (merge("slerp", "base", *ENDS, t=[{"filtre": "mlp", "value": 0.5}]), "slerp takes a number"),
        (
            merge("ties", "base", TUNED, OTHER, t=0.5),
            "parameters: ties takes no 't'; there is density, int8_mask",
        ),
        (merge("linear", None, TUNED, OTHER, int8_mask=True), "parameters: linear takes no 'int8_mask'; there is norm"),
        (merge("ties", "base", TUNED, OTHER, normalise=True), "takes no 'normalise'; did you mean 'normalize'?"),
        (merge("ties", "base", TUNED, OTHER, normalize=0.5), "normalize is 0.5; ties takes true or false"),
        (merge("ties", "base", TUNED, OTHER, **{"lambda": float("inf")}), "lambda is inf; ties takes a number"),
        (
            merge("ties", "base", TUNED, OTHER | {"density": 0}),
            "parent other: density is 0.0; ties takes a number",
        ),
        (
            merge("ties", "base", TUNED, OTHER | {"density": [1, 1.1]}),
            "parent other: density is [1.0, 1.1]; ties",
        ),
        (merge("linear", None, TUNED, OTHER | {"density": 0.5}), "parent other: linear takes no 'density'; there is w"),
        (merge("slerp", "base", ENDS[0], OTHER, t=0.5), "parent other: slerp takes no 'weight'; there is none"),
        (merge("della", "base", TUNED, OTHER | {"density": 0.9}), "parent other: density 0.9 and epsilon 0.15: della"),
        (merge("della", "base", TUNED, OTHER | {"density": [0.5, 0.1]}), "density [0.5, 0.1] and epsilon 0.15: della"),
        (merge("della", "base", TUNED, OTHER | {"density": 0.2}, epsilon=[0.1, 0.2]), "density 0.2 and epsilon 0.2: d"),
        (merge("della", "base", TUNED, OTHER, epsilon=0.5), "epsilon is 0.5; della takes a number from 0 to below 0.5"),
        (merge("dare_ties", "base", TUNED, OTHER, epsilon=0.1), "parameters: dare_ties takes no 'epsilon'; there is"),
        (merge("task_arithmetic", "base", TUNED, {"model": "other"}), "parent other: weight is missing; task_arith"),
    ],
)
def test_a_merge_that_would_fail_after_all_training_is_refused_at_planning(raw, section, sentence):
    with pytest.raises(UserError) as error:
        load(change(raw, ["models", 2, "merge"], section))
    assert "models, entry 3 (merged), merge: " in str(error.value) and sentence in str(error.value)


@pytest.mark.parametrize(
    "section",
    [
        merge("slerp", "base", *ENDS, t=0),
        merge("slerp", "base", *ENDS, t=[0, 0.5, 1]),
        merge("slerp", "base", *ENDS, t=[{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}]),
        merge("linear", None, TUNED, OTHER | {"weight": -1}, normalize=False),
        merge("della", "base", TUNED, OTHER | {"density": [0.4, 0.6]}, epsilon=0.39),
        merge("dare_ties", "base", TUNED, OTHER | {"density": [1, 0.5]}, int8_mask=True, **{"lambda": [1, 2]}),
    ],
)
def test_a_merge_that_its_method_can_do_is_planned(raw, section):
    cfg = load(change(raw, ["models", 2, "merge"], section))
    recipe = model_stages.merge(cfg, "merged")
    assert {key: recipe[key] for key in section} == section


def test_several_mistakes_of_a_merge_are_told_at_once(raw):
    section = merge("ties", "other", TUNED, OTHER, t=0.5)
    with pytest.raises(UserError, match="other is base and parent: .*trained from. parameters: ties takes no 't'"):
        load(change(raw, ["models", 2, "merge"], section))


def test_the_readme_says_of_each_merge_method_what_the_table_says():
    readme = (ROOT / "config" / "README.md").read_text()
    assert "".join(f"  - {description(name)}\n" for name in METHODS) in readme


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        ({"kind": "dpo", "margin": 1}, "optimise, loss: margin is no setting of dpo; leave it out"),
        ({"beta": 0.1}, "optimise, loss: beta is no setting of contrastive; leave it out"),
        ({"kind": "dpo", "bata": 1}, "optimise, loss, bata: unknown key; did you mean 'beta'?"),
        ({"kind": "dpq"}, "optimise, loss, kind: 'dpq' is no kind; did you mean 'dpo'?"),
        ({"kind": "dpo", "beta": -1}, "optimise, loss, beta: is -1; write a number above 0."),
        ("dpo", "optimise, loss: is 'dpo'; write keys with values"),
    ],
)
def test_a_mistake_in_a_loss_is_told_with_its_remedy(raw, loss, sentence):
    raw["models"][1] = {"name": "tuned", "optimise": {"base": "base", "data": ["pairs"], "loss": loss}}
    with pytest.raises(UserError) as error:
        load(raw)
    assert f"models, entry 2 (tuned), {sentence}" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 2e-4),
        ({"method": "lora"}, 2e-4),
        ({"method": "full"}, 1e-5),
        ({"method": "full", "learning_rate": 2e-4}, 2e-4),
    ],
)
def test_the_learning_rate_follows_from_the_method(raw, settings, rate):
    raw["models"][1]["finetune"] = {"base": "base", "data": ["moods"]} | settings
    assert model_stages.finetune(load(raw), "tuned")["learning_rate"] == rate


def test_a_loss_stands_in_a_recipe_with_its_own_settings_alone(raw):
    raw["corpora"].append({"name": "pairs", "kind": "contrasts", "dataset": "questions", "endpoint": "student"})
    for loss, told in (
        (None, {"kind": "contrastive", "nll_weight": 0.0, "margin": 0.0}),
        ({"nll_weight": 0.5}, {"kind": "contrastive", "nll_weight": 0.5, "margin": 0.0}),
        ({"kind": "dpo"}, {"kind": "dpo", "nll_weight": 0.0, "beta": 0.1}),
        (
            {"kind": "dpo", "label_smoothing": 0.1},
            {"kind": "dpo", "nll_weight": 0.0, "beta": 0.1, "label_smoothing": 0.1},
        ),
    ):
        raw["models"][1] = {"name": "tuned", "optimise": {"base": "base", "data": ["pairs"]}}
        raw["models"][1]["optimise"] |= {"loss": loss} if loss else {}
        assert list(model_stages.optimise(load(raw), "tuned")["loss"].items()) == list(told.items())


def test_a_loss_that_learns_from_sources_wants_pairs_that_have_some(raw):
    raw["corpora"].append({"name": "pairs", "kind": "contrasts", "dataset": "questions", "endpoint": "student"})
    raw["models"][1] = {"name": "tuned", "optimise": {"base": "base", "data": ["pairs"], "loss": {"kind": "wrpo"}}}
    with pytest.raises(
        UserError, match="loss: wrpo learns from answers of sources, and the pairs of 'pairs' have none"
    ):
        load(raw)


@pytest.mark.parametrize(("setting", "shared"), [({}, False), ({"shared_prompt": True}, True)])
def test_a_recipe_says_that_answers_share_their_prompt_only_where_they_do(raw, setting, shared):
    raw["corpora"].append({"name": "pairs", "kind": "contrasts", "dataset": "questions", "endpoint": "student"})
    raw["models"][1] = {"name": "tuned", "optimise": {"base": "base", "data": ["pairs"]} | setting}
    assert model_stages.optimise(load(raw), "tuned").get("shared_prompt", False) is shared


def test_several_mistakes_are_told_at_once(raw):
    wrong = change(change(raw, ["sead"], 1), ["limt"], 2)
    with pytest.raises(UserError) as error:
        load(wrong)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("secret", ["sk-" + "a1" * 12, "hf_" + "Ab1" * 8, "https://me:pass@host/v1"])
def test_a_secret_is_refused_and_not_repeated(raw, secret):
    with pytest.raises(UserError, match="looks like a secret") as error:
        load(change(raw, ["title"], secret))
    assert secret not in str(error.value)


def test_a_cycle_is_shown(raw):
    raw["endpoints"][0]["serve"] = "tuned"
    with pytest.raises(UserError, match="a cycle.*model tuned"):
        load(raw)


def test_for_writes_one_entry_per_combination():
    entry = {"for": {"size": [1, 2], "task": ["a", "b"]}, "name": "{task}-{size}", "rank": "{size}", "data": ["{task}"]}
    written = expand({"models": [entry, {"name": "plain"}]})["models"]
    assert [one["name"] for one in written] == ["a-1", "b-1", "a-2", "b-2", "plain"]
    assert written[2] == {"name": "a-2", "rank": 2, "data": ["a"]}


@pytest.mark.parametrize("axes", [{"size": []}, ["a"], {"unused": [1]}])
def test_a_wrong_for_is_told(axes):
    with pytest.raises(UserError, match="for"):
        expand({"models": [{"for": axes, "name": "x"}]})


def test_a_rank_changes_its_own_adapter_only(raw):
    before, after = load(raw), load(change(raw, ["models", 1, "finetune", "lora"], {"rank": 4}))
    assert model_stages.finetune(before, "tuned") != model_stages.finetune(after, "tuned")
    assert model_stages.finetune(before, "other") == model_stages.finetune(after, "other")
    assert model_stages.merge(before, "merged") == model_stages.merge(after, "merged")


def test_a_pin_fills_what_is_null(raw, tmp_path, monkeypatch):
    raw["models"][0]["fetch"] = {"hub": "me/model", "revision": None}
    monkeypatch.setattr(pins, "PINS", tmp_path / "pins.json")
    assert load(raw).unpinned() == ["me/model"]
    (tmp_path / "pins.json").write_text(json.dumps({"model me/model": "a" * 40}))
    cfg = load(raw)
    assert cfg.unpinned() == [] and cfg.find("models", "base").fetch.revision == "a" * 40


def test_a_file_that_is_no_yaml_is_told(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(UserError, match="x.yaml, line 1, column 5: not YAML"):
        load_file(tmp_path / "x.yaml")
    with pytest.raises(UserError, match="does not exist"):
        load_file(tmp_path / "y.yaml")


def test_labels_of_every_shipped_set_are_distinct_and_lower_case():
    for name in datasets.label_sets():
        labels = datasets.load_label_set(name)
        assert set(labels) == {"dataset", "task", "task_words", "language", "labels"}, name
        assert all(isinstance(one, str) and one == one.lower() for one in labels["labels"]), name
        assert len(set(labels["labels"])) == len(labels["labels"]), name


def test_new_keys_of_training_change_no_recipe_that_does_not_use_them(raw):
    before = model_stages.finetune(load(raw), "tuned")
    assert not {"method", "devices", "zero"} & before.keys()
    finetune = {key: value for key, value in raw["models"][1]["finetune"].items() if key != "lora"}
    full = model_stages.finetune(load(change(raw, ["models", 1, "finetune"], finetune | {"method": "full"})), "tuned")
    assert before.keys() - full.keys() == {"lora"}
    two = model_stages.finetune(load(change(raw, ["models", 1, "finetune"], finetune | {"devices": 2})), "tuned")
    assert (two["devices"], two["zero"]) == (2, 2)


def test_a_setting_is_measured_by_a_model_per_dataset_and_predicts_nothing_twice(raw):
    raw["datasets"].append(raw["datasets"][1] | {"name": "acts"})
    raw["models"] += [
        {"name": f"{name}-sft", "finetune": {"base": "base", "data": [name]}} for name in ("moods", "acts")
    ]
    raw["suites"][0]["labels"]["datasets"] = ["moods", "acts"]
    raw["evaluations"].append(
        {"suite": "labels", "settings": [{"name": "sft", "models": "{dataset}-sft"}], "against": ["base", "tuned"]}
    )
    cfg = load(raw)
    assert cfg.measured["labels", "sft"] == {"moods": "moods-sft", "acts": "acts-sft"}
    assert cfg.predicted["labels", "moods-sft"] == ["moods"]
    assert cfg.predicted["labels", "base"] == ["moods", "acts"]
    assert ("labels", "sft") not in cfg.predicted
    assert list(BY_RULE["predict_labels"].recipe(cfg, "labels", "acts-sft")["datasets"]) == ["acts"]
    pairs = report_stages.tabulate_scores(cfg)["pairs"]
    assert ["labels", "sft", "base"] in pairs and ["labels", "sft", "tuned"] in pairs and len(pairs) == 4


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"name": "base", "models": "base"}, "a model has this name; give the setting another"),
        ({"name": "sft", "models": "{dataset}-sft"}, "setting 'sft', moods: model 'moods-sft' is not there"),
        ({"name": "sft", "models": {"acts": "tuned"}}, "no model for the dataset 'moods'"),
    ],
)
def test_a_setting_needs_a_model_for_every_dataset(raw, setting, sentence):
    raw["evaluations"].append({"suite": "labels", "settings": [setting]})
    with pytest.raises(UserError) as error:
        load(raw)
    assert sentence in str(error.value)


def test_a_reference_is_one_that_the_table_has(raw):
    raw["evaluations"][0]["reference"] = {"model": "LLaMA-3-8B", "setting": "sft"}
    assert load(raw)
    raw["evaluations"][0]["reference"]["model"] = "Llama-3-8B"
    with pytest.raises(UserError, match="has no 'Llama-3-8B, sft'; did you mean 'LLaMA-3-8B, sft'"):
        load(raw)


def test_mmla_is_whole():
    text, video = (load_file(ROOT / "config" / "experiments" / f"{name}.yaml") for name in ("mmla", "mmla-video"))
    assert (len(text.datasets), len(video.datasets)) == (12, 9)
    assert {dataset.name for dataset in text.datasets} - {dataset.name for dataset in video.datasets} == {
        "IEMOCAP",
        "IEMOCAP-DA",
        "MOSI",
    }
    for cfg, settings in ((text, 6), (video, 3)):
        assert len(cfg.measured) == settings
        assert all(list(model_of) == cfg.names("datasets") for model_of in cfg.measured.values())
        trained = [model.finetune for model in cfg.models if model.finetune]
        assert len(trained) == settings // 3 * (len(cfg.datasets) + 1)
        assert all(one.selection == "accuracy" for one in trained)
        assert cfg.unpinned()
    (it,) = (model.finetune for model in video.models if model.name.endswith("-it"))
    assert (it.learning_rate, it.epochs, it.batch_size, it.accumulation, it.warmup_ratio) == (1e-4, 5, 8, 4, 0.3)


def test_planning_says_what_is_fetched_and_whose_token_is_needed(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    text, video = (load_file(ROOT / "config" / "experiments" / f"{name}.yaml") for name in ("mmla", "mmla-video"))
    told = text.hub_needs()
    assert told[0] == "THUIAR/MMLA-Datasets: 36 files of this hub dataset will be fetched"
    assert told[1] == "Qwen/Qwen2-1.5B-Instruct: this hub model will be fetched, 1.54 billion parameters"
    assert told[-1].startswith("meta-llama/Meta-Llama-3-8B-Instruct: asks for your token")
    assert told[-1].endswith("HF_TOKEN, which you must set first")
    assert video.hub_needs()[1] == "THUIAR/MMLA-Datasets: 9 folders of videos of this hub dataset will be fetched"
    # What is there already is not spoken of.
    assert text.hub_needs(lambda kind, name: True) == []
    assert len(text.hub_needs(lambda kind, name: name == "LLaMA-3-8B")) == 2


def with_rounds(raw, **more):
    entry = {"name": "m", "base": "base", "dataset": "questions", "rows": 10, "interval": 4, "judge": "student"}
    return raw | {"rounds": [entry | more]}


def test_rounds_become_corpora_and_models_with_all_that_these_have(raw):
    cfg = load(with_rounds(raw, finetune={"learning_rate": 1e-5}))
    assert cfg.names("corpora")[-3:] == ["m-r1", "m-r2", "m-r3"]
    assert cfg.find("models", "m-r3").finetune.learning_rate == 1e-5
    assert cfg.corpus_dataset("m-r2").name == "questions" and cfg.inherited("m-r3", "parameters") == 0.1
    assert {cfg.before_rounds(name) for name in ("m-r1", "m-r2", "m-r3", "tuned")} == {"base"}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"rows": 0}, "rounds, entry 1 (m), rows: is 0; write a number from 1 on"),
        ({"interwal": 3}, "rounds, entry 1 (m), interwal: unknown key; did you mean 'interval'?"),
        ({"finetune": {"method": "full"}}, "finetune: rounds keep an adapter each; leave out `method`"),
        ({"finetune": {"base": "x"}}, "finetune: base follows from the round; leave it out"),
        ({"finetune": {"epoch": 1}}, "rounds, entry 1 (m), finetune, epoch: unknown key; did you mean 'epochs'?"),
        ({"judge": "studnet"}, "rounds 'm', judge: 'studnet' is not there; did you mean 'student'?"),
        (
            {"dataset": "moods"},
            "dataset: the rows of 'moods' are labelled, not questions; there is questions",
        ),
        ({"base": "bsae"}, "rounds 'm', base: 'bsae' is not there; did you mean 'base'?"),
        ({"max_iterations": 0}, "rounds, entry 1 (m), max_iterations: is 0; write a number from 1 on"),
        ({"prompt": "meteor/anser"}, "prompt 'meteor/anser' is not in resources/prompts/ or prompts/; did you mean"),
    ],
)
def test_a_mistake_in_rounds_is_told_once(raw, more, sentence):
    with pytest.raises(UserError) as caught:
        load(with_rounds(raw, **more))
    told = str(caught.value).splitlines()
    assert sentence in told[0]
    assert len(told) == 1, told


def test_full_weights_are_kept_of_the_last_round_and_of_what_something_else_names(raw):
    own = ["base", "tuned", "merged", "other"]
    assert load(with_rounds(raw)).kept_models == [*own, "m-r3"]
    measured = with_rounds(raw)
    measured["evaluations"] = [{"suite": "labels", "models": ["base", "m-r1"]}]
    assert load(measured).kept_models == [*own, "m-r1", "m-r3"]
    trained = with_rounds(raw)
    trained["models"] = [*raw["models"], {"name": "more", "finetune": {"base": "m-r2", "data": ["moods"]}}]
    assert load(trained).kept_models == [*own, "more", "m-r2", "m-r3"]
    asked = with_rounds(raw)
    asked["endpoints"] = [*raw["endpoints"], {"name": "second", "serve": "m-r2"}]
    asked["corpora"] = [
        *raw["corpora"],
        {"name": "more", "kind": "refined", "dataset": "questions", "endpoint": "second", "judge": "student"},
    ]
    assert load(asked).kept_models == [*own, "m-r2", "m-r3"]


def test_a_cycle_through_a_judge_is_told(raw):
    raw["corpora"].append(
        {"name": "refined", "kind": "refined", "dataset": "questions", "endpoint": "student", "judge": "itself"}
    )
    raw["endpoints"].append({"name": "itself", "serve": "tuned"})
    raw["models"][1]["finetune"]["data"] = ["refined"]
    with pytest.raises(UserError, match="a cycle.* endpoint itself ← model tuned ← corpus refined ← endpoint itself"):
        load(raw)


def test_a_slice_without_a_row_is_refused(raw):
    raw["corpora"].append(
        {
            "name": "r",
            "kind": "refined",
            "corpus": "distilled",
            "slice": [4, 4],
            "endpoint": "student",
            "judge": "student",
        }
    )
    with pytest.raises(UserError, match=r"slice: \[4, 4\] has no row"):
        load(raw)


def test_a_judge_needs_a_price_where_there_is_a_budget(raw):
    raw["endpoints"].append({"name": "gpt", "url": "http://127.0.0.1:1", "model": "gpt"})
    with pytest.raises(UserError, match="endpoints 'gpt', price: is missing, but there is a `budget`"):
        load(with_rounds(raw, judge="gpt") | {"budget": 1})


def test_a_thousand_rounds_are_checked_and_looked_through_without_recursion(raw):
    """At Python's own limit: each round is three steps of a chain."""
    cfg = load(with_rounds(raw, rows=10_276, interval=10))
    last = "m-r1028"
    assert len(cfg.lineage(last)) == 1029 and cfg.inherited(last, "parameters") == 0.1
    assert cfg.compute_of(last) == cfg.compute and cfg.before_rounds(last) == "base"
    assert BY_RULE["refine_answers"].recipe(cfg, last)["slice"] == [10_270, 10_280]
