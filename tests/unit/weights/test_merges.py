"""Every method of mergekit, slices, tokenizers and mixtures, written as a config, against mergekit's own commands."""

import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from moult.base.errors import UserError
from moult.config.entries.merges import Merge, Mixture
from moult.stages import models as stages
from moult.weights import contracts
from moult.weights.merging import merge_models
from moult.weights.methods import BY_MAGNITUDE, METHODS, refusals
from moult.weights.mixtures import mix_experts
from pico_build import ROOT

REFERENCE = ROOT / "tests" / "reference" / "mergekit"
RECIPES = sorted(path.stem for path in (REFERENCE / "recipes").glob("*.yml"))
NAMES = ("base", "a", "b", "c", "d")
# Which of two tokens that only one model has comes first is an accident of each of mergekit's runs.
UNORDERED = {"union-linear", "union-ties"}


def model_of(path):
    return path.removeprefix("models/")


def sources(entries):
    return [
        {"model": model_of(one["model"])}
        | {k: one[k] for k in ("layer_range",) if k in one}
        | one.get("parameters", {})
        for one in entries
    ]


def as_config(theirs):
    """Write mergekit's YAML as an entry of our config."""
    if "experts" in theirs:
        experts = {
            kind: [{"model": model_of(one.pop("source_model"))} | one for one in theirs[kind]]
            for kind in ("experts", "shared_experts")
            if kind in theirs
        }
        rest = {key: value for key, value in theirs.items() if key != "base_model"}
        return Mixture(**rest | experts | {"base": model_of(theirs["base_model"])})
    section = {"method": theirs["merge_method"], "dtype": theirs["dtype"], "parameters": theirs.get("parameters", {})}
    if "base_model" in theirs:
        section["base"] = model_of(theirs["base_model"])
    if "models" in theirs:
        section["parents"] = sources(theirs["models"])
    if "slices" in theirs:
        section["slices"] = [{"sources": sources(one["sources"])} for one in theirs["slices"]]
    tokenizer = theirs.get("tokenizer") or {"source": theirs.get("tokenizer_source")}
    if tokenizer["source"]:
        tokens = {key: one | {"source": model_of(one["source"])} for key, one in tokenizer.get("tokens", {}).items()}
        section["tokenizer"] = tokenizer | {"tokens": tokens, "drop_rows": True}
    return Merge(**section)


class OneModel:
    """As much of an experiment as a recipe asks for: one model, merged or mixed."""

    seed = 0

    def __init__(self, section):
        self.merge, self.moe = (section, None) if isinstance(section, Merge) else (None, section)

    def find(self, kind, name):
        return self

    def compute_of(self, name):
        return self

    threads = 1


def made_by_us(section, target, seed=7, threads=1):
    recipe = stages.joined(OneModel(section), "merged") | {"seed": seed, "threads": threads}
    make = mix_experts if "experts" in recipe else merge_models
    return make(recipe, {name: f"models/{name}" for name in NAMES}, target)


def tensors_of(folder):
    """Return {name: tensor} of a model's folder."""
    from safetensors.torch import load_file

    files = sorted(Path(folder).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def hashes(folder):
    """Return {name: (shape, digest of its bytes)} of the tensors of a model's folder."""
    import torch

    found = {}
    for name, tensor in tensors_of(folder).items():
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        found[name] = (tuple(tensor.shape), hashlib.sha256(content).hexdigest())
    return found


def in_numbers(tensor):
    """Return shape, and sum, Euclidean norm, first and last element in float64: equal on any kind of processor."""
    flat = tensor.double().flatten()
    return "x".join(map(str, tensor.shape)), [float(flat.sum()), float(flat.norm()), float(flat[0]), float(flat[-1])]


COMMANDS = """
import sys
from pathlib import Path

import torch
from mergekit.io.tasks import LoaderCache
from mergekit.scripts.moe import main as moe
from mergekit.scripts.run_yaml import main as merge

if sys.argv.pop(1) == "stable":
    argsort, sort = torch.argsort, torch.sort
    torch.argsort = lambda x, *of, **how: argsort(x, *of, **({"stable": True} if x.dim() == 1 else {}), **how)
    torch.sort = lambda x, *of, **how: sort(x, *of, **({"stable": True} if x.dim() == 1 else {}), **how)
    torch.topk = lambda x, k, largest: [one[:k] for one in sort(x, descending=largest, stable=True)]
for path in map(Path, sys.argv[1:]):
    command = moe if "experts:" in path.read_text() else merge
    options = ["--random-seed", "7", "--no-write-model-card", "--quiet", "--device", "cpu"]
    try:
        command.main([str(path), f"theirs/{path.stem}", *options], standalone_mode=False)
    except (Exception, SystemExit) as error:
        print("REFUSED", path.stem, type(error).__name__, flush=True)
    LoaderCache().loaders.clear()
"""


def run_mergekit(folder, paths, order="stable"):
    """Run mergekit's own commands on YAML files, one after another in one process; return the stems it refused.

    order: of equal entries in its sorts, stable or as shipped.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMANDS, order, *map(str, paths)]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return {line.split()[1] for line in run.stdout.splitlines() if line.startswith("REFUSED ")}


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(REFERENCE / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_contracts_are_those_of_the_installed_mergekit():
    written = json.loads((ROOT / "scripts/moult/weights/contracts.json").read_text())
    assert written == contracts.contracts(), "run `make schema`"
    assert set(METHODS) == set(written["methods"]) and len(METHODS) == 20


@pytest.mark.slow
def test_every_recipe_gives_the_tensors_of_mergekit(project):
    theirs = {name: yaml.safe_load((REFERENCE / "recipes" / f"{name}.yml").read_text()) for name in RECIPES}
    assert {one["merge_method"] for one in theirs.values() if "merge_method" in one} == set(METHODS)
    assert run_mergekit(project, [REFERENCE / "recipes" / f"{name}.yml" for name in RECIPES]) == set()
    chosen = {name for name in RECIPES if theirs[name].get("merge_method") in BY_MAGNITUDE}
    expected = {}
    with open(REFERENCE / "expected.csv") as handle:
        for row in csv.DictReader(handle):
            numbers = [float(row[key]) for key in ("sum", "norm", "first", "last")]
            expected.setdefault(row["recipe"], {})[row["tensor"]] = (row["shape"], numbers)
    for name in RECIPES:
        made_by_us(as_config(theirs[name]), project / "ours" / name)
        ours, reference = (hashes(project / one / name) for one in ("ours", "theirs"))
        unordered = set(HEADS) if name in UNORDERED else set()
        assert ours.keys() == reference.keys() == expected[name].keys(), name
        assert {tensor for tensor in ours if ours[tensor] != reference[tensor]} <= unordered, name
        for tensor in unordered:
            assert rows_by_token(project / "ours" / name, tensor) == rows_by_token(project / "theirs" / name, tensor)
        for tensor, values in tensors_of(project / "ours" / name).items():
            shape, numbers = in_numbers(values)
            assert shape == expected[name][tensor][0]
            # Which of equal entries were kept, there, is an accident.
            if tensor not in unordered and name not in chosen:
                assert numbers == pytest.approx(expected[name][tensor][1], rel=1e-5, abs=1e-5), (name, tensor)


HEADS = ("lm_head.weight", "model.embed_tokens.weight")


def rows_by_token(folder, tensor):
    from safetensors import safe_open
    from transformers import AutoTokenizer

    with safe_open(folder / "model.safetensors", "pt") as weights:
        rows = weights.get_tensor(tensor)
    ids = AutoTokenizer.from_pretrained(folder).get_vocab()
    return {token: rows[number].tolist() for token, number in ids.items()}


RANDOM = {"dare_linear", "dare_ties", "della", "della_linear", "moe-random", "moe-shared"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dare_ties", "ties", "slerp", "union-ties", "moe-hidden", "moe-random"])
def test_two_builds_are_equal_and_only_random_masks_change_with_the_seed(project, name):
    theirs = yaml.safe_load((REFERENCE / "recipes" / f"{name}.yml").read_text())
    section = as_config(theirs)
    for target, settings in (("one", {}), ("two", {"threads": 2}), ("other", {"seed": 8})):
        made_by_us(section, project / target, **settings)
    names = {path.name for path in (project / "one").iterdir()}
    assert names == {path.name for path in (project / "two").iterdir()}
    for file in names:
        assert (project / "one" / file).read_bytes() == (project / "two" / file).read_bytes(), file
    assert (hashes(project / "one") != hashes(project / "other")) == (name in RANDOM)


def drawn(draw):
    """Draw a merge of the pico models, wise or not, as mergekit's YAML."""
    method = draw.choice(sorted(METHODS))
    contract = json.loads((ROOT / "scripts/moult/weights/contracts.json").read_text())["methods"][method]
    parents = draw.sample(["a", "b", "c", "base"], draw.randint(1, 3))

    def value(kind):
        if kind == "bool":
            return draw.choice([True, False])
        if kind == "int":
            return draw.choice([1, 3, 10])
        plain = draw.choice([0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 1.2])
        gradient = [plain, draw.choice([0.2, 0.7])]
        by_name = [{"filter": "mlp", "value": draw.choice([plain, gradient])}, {"value": 0.4}]
        return draw.choice([plain, plain, plain, gradient, by_name, by_name[:1]])

    given = {"shared": {}, "own": [{} for _ in parents]}
    for name, one in contract["parameters"].items():
        if draw.random() < 0.2 and "default" in one:
            continue
        if one["scope"] == "shared":
            given["shared"][name] = value(one["type"])
        elif draw.random() < 0.9:
            for own in given["own"]:
                own[name] = value(one["type"])
    theirs = {"merge_method": method, "dtype": "float32", "parameters": given["shared"]}
    if draw.random() < (0.1 if contract["base"] == "ignored" else 0.9):
        theirs["base_model"] = "models/base"
    if draw.random() < 0.2:
        both = zip(parents, given["own"], strict=True)
        layers = [{"model": f"models/{one}", "layer_range": [1, 3], "parameters": own} for one, own in both]
        return theirs | {"slices": [{"sources": layers[:1]}, {"sources": layers}]}
    both = zip(parents, given["own"], strict=True)
    return theirs | {"models": [{"model": f"models/{one}", "parameters": own} for one, own in both]}


@pytest.mark.slow
def test_a_random_merge_is_refused_by_us_or_equal_to_mergekit_s(project):
    draw, drawings = random.Random(5), []
    (project / "drawn").mkdir()
    for number in range(1000 if os.environ.get("MOULT_SOAK") else 60):
        theirs = drawn(draw)
        path = project / "drawn" / f"m{number}.yml"
        path.write_text(yaml.safe_dump(theirs, sort_keys=False))
        try:
            section = as_config(theirs)
        except ValueError:
            continue
        try:
            made_by_us(section, project / "ours" / path.stem)
        except UserError:
            continue
        drawings.append(path)
    assert len(drawings) >= 10
    assert run_mergekit(project, drawings) == set()
    for path in drawings:
        assert hashes(project / "ours" / path.stem) == hashes(project / "theirs" / path.stem), path.read_text()


def section(method, *parents, **settings):
    return {"method": method, "parents": list(parents), "parameters": {}} | settings


A, B = {"model": "a", "weight": 0.5}, {"model": "b", "weight": 0.5}


@pytest.mark.parametrize(
    ("merge", "sentence"),
    [
        (section("model_stock", {"model": "a"}, base="base"), "model_stock takes 3 or more models, not 2"),
        (section("nuslerp", A, B, {"model": "c", "weight": 1}), "nuslerp takes 2 parents besides the base, not 3"),
        (section("ram", {"model": "a"}, {"model": "b"}), "ram needs `base`"),
        (section("sce", A, B, base="base"), "parent a: sce takes no 'weight'"),
        (section("karcher", {"model": "a"}, {"model": "b"}, parameters={"max_iter": 2.5}), "takes a whole number"),
        (section("task_arithmetic", A | {"density": 0.5}, B, base="base"), "takes no 'density'"),
        (section("ties", A | {"lambda": 2}, B, base="base"), "takes no 'lambda'; it belongs under `parameters`"),
        (section("linear", {"model": "a"}, B), "parent a: weight is missing; linear needs a number"),
        (
            section("linear", A | {"weight": [{"filter": "mlp", "value": 1}]}, B),
            "parent a: weight: no entry takes the tensors that no filter meets",
        ),
        (
            section("linear", A | {"weight": [{"value": 1}, {"filter": "mlp", "value": 0}]}, B),
            "further ones do nothing",
        ),
        (section("linear", A), "a alone is no merge"),
        (
            {
                "method": "linear",
                "slices": [{"sources": [A | {"layer_range": (0, 2)}, B | {"layer_range": (0, 3)}]}],
                "parameters": {},
            },
            "slice 1: its sources have layers [(0, 2), (0, 3)]; take equally many of each",
        ),
    ],
)
def test_a_merge_that_cannot_be_is_one_sentence(merge, sentence):
    assert any(sentence in found for found in refusals(merge)), list(refusals(merge))


def test_settings_of_all_parents_may_stand_under_parameters():
    assert list(refusals(section("linear", {"model": "a"}, {"model": "b"}, parameters={"weight": 0.5}))) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"experts_per_token": 3}, "experts_per_token is 3, but there are 2 experts"),
        ({"experts": [{"model": "a"}, {"model": "b"}]}, "expert a: positive_prompts is empty"),
        ({"experts": [{"model": one, "positive_prompts": ["x"]} for one in "ab"]}, "have the same prompts"),
        ({"experts": [{"model": "a", "positive_prompts": [one]} for one in "xy"]}, "are the same model"),
        ({"architecture": "qwen"}, "takes exactly one shared expert, not 0"),
        ({"shared_experts": [{"model": "c"}], "architecture": "mixtral"}, "takes no shared experts"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_sentence(changes, sentence):
    experts = [{"model": one, "positive_prompts": [one]} for one in "ab"]
    with pytest.raises(ValueError, match=sentence):
        Mixture(**{"base": "base", "experts": experts} | changes)


def test_rows_without_a_token_are_not_lost_unasked(project):
    merge = Merge(method="linear", parents=[A, {"model": "d", "weight": 0.5}], tokenizer={"source": "union"})
    with pytest.raises(UserError, match="keep 17 of 98 rows, because no token stands for the others"):
        made_by_us(merge, project / "merged")
    assert not (project / "merged").exists()


def test_a_filter_that_meets_no_tensor_is_named(project):
    weight = [{"filter": "attentive", "value": 1}, {"value": 0.5}]
    with pytest.raises(UserError, match="parent a: weight: filter 'attentive' meets no tensor; names are such as"):
        made_by_us(Merge(method="linear", parents=[A | {"weight": weight}, B]), project / "merged")


def test_a_gradient_outside_of_the_layers_is_said(project):
    facts = made_by_us(Merge(method="linear", parents=[A | {"weight": [0.2, 0.8]}, B]), project / "merged")
    assert facts["warnings"] == [
        "parent a: weight is a gradient over the layers; tensors outside of the layers (embeddings, last norm, head) "
        "get its first value, 0.2."
    ]


@pytest.mark.parametrize("settings", [{"dtype": "float16"}, {"dtype": "float32", "out_dtype": "float16"}])
def test_float16_for_weights_in_bfloat16_is_warned_of(project, settings):
    facts = made_by_us(Merge(method="linear", parents=[A, B], **settings), project / "merged")
    assert (
        "float16 has a smaller range than bfloat16, in which parents are stored; write bfloat16." in facts["warnings"]
    )
    assert made_by_us(Merge(method="linear", parents=[A, B]), project / "usual")["warnings"] == []


def test_float32_arithmetic_is_rounded_once(project):
    import torch
    from safetensors.torch import load_file

    both = {"method": "linear", "parents": [A, B], "dtype": "float32"}
    made_by_us(Merge(**both), project / "exact")
    made_by_us(Merge(**both, out_dtype="bfloat16"), project / "rounded")
    exact, rounded = (load_file(project / name / "model.safetensors") for name in ("exact", "rounded"))
    assert all(rounded[name].equal(weight.to(torch.bfloat16)) for name, weight in exact.items())
    assert json.loads((project / "rounded/config.json").read_text())["dtype"] == "bfloat16"


def test_slices_make_a_deeper_model_that_transformers_loads(project):
    from transformers import AutoModelForCausalLM

    layers = [{"sources": [{"model": one, "layer_range": span}]} for one, span in (("a", (0, 3)), ("b", (1, 4)))]
    made_by_us(Merge(method="passthrough", slices=layers), project / "deep")
    model, found = AutoModelForCausalLM.from_pretrained(project / "deep", output_loading_info=True)
    assert len(model.model.layers) == 6
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_the_tokenizer_of_a_mixture_is_that_of_its_base(project):
    theirs = yaml.safe_load((REFERENCE / "recipes/moe-random.yml").read_text())
    made_by_us(as_config(theirs), project / "mixture")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (project / "mixture" / name).read_bytes() == (REFERENCE / "models/base" / name).read_bytes()


def test_the_template_of_a_chosen_parent_is_taken(project):
    shutil.copytree(REFERENCE / "models/a", project / "chatty")
    (project / "chatty/chat_template.jinja").write_text("{{ messages }}")
    merge = Merge(method="linear", parents=[A, B], chat_template="b")
    recipe = stages.joined(OneModel(merge), "merged") | {"seed": 7}
    facts = merge_models(recipe, {"a": "models/a", "b": "chatty"}, project / "merged")
    assert facts["tokenizer_from"] == "b"
    assert (project / "merged/chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"modules": {"vision": {"parents": [A, B]}}}, "mergekit refuses this merge .there is no 'vision'"),
        (
            {"slices": [{"sources": [A | {"layer_range": (2, 9)}]}]},
            "mergekit refuses this merge .Tensor model.layers.4",
        ),
        ({"parents": [A, B], "chat_template": "b"}, "chat_template names b, which has none"),
    ],
)
def test_what_only_the_models_show_is_one_sentence(project, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        made_by_us(Merge(method="linear", **settings), project / "merged")
    assert not (project / "merged").exists()


def test_a_mixture_that_mergekit_knows_no_kind_for_leads_to_its_reasons(project):
    experts = [{"model": one, "positive_prompts": [one]} for one in "ab"]
    with pytest.raises(UserError, match="mergekit refuses this merge .the lines before this one in the log say why"):
        made_by_us(Mixture(base="base", architecture="qwen3", experts=experts), project / "mixture")


def test_a_token_comes_from_a_model_of_the_merge():
    tokenizer = {"source": "union", "drop_rows": True, "tokens": {"cat": {"source": "nobody"}}}
    with pytest.raises(ValueError, match="tokenizer: token 'cat': nobody is none of the models a, b"):
        Merge(method="linear", parents=[A, B], tokenizer=tokenizer)
