"""Folding against peft, merging against plain torch, and every reason why models do not fit each other."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from moult.base.errors import UserError
from moult.jobs.manifest import write_manifest
from moult.weights.compatibility import check_compatible
from moult.weights.folding import earlier_adapters, fold_adapter
from moult.weights.headers import check_model_folder, tensor_headers
from moult.weights.merging import merge_models, mergekit_config
from moult.weights.methods import refusals
from pico import build_pico_model

TARGETS = ["q_proj", "v_proj", "down_proj"]


def load(folder):
    """Return all weights of a model folder, sharded or not."""
    from safetensors.torch import load_file

    return {
        name: weight
        for file in sorted({file for file, _, _ in tensor_headers(folder).values()})
        for name, weight in load_file(folder / file).items()
    }


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A pico model whose head is its embedding table."""
    return build_pico_model(tmp_path_factory.mktemp("tied") / "model", tie_word_embeddings=True)


def train_adapter(base, path, **settings):
    """Save an adapter with random factors, B included; return the model peft makes of base and adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": TARGETS} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(path)
    return model.eval()


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.arange(3, 27).reshape(2, 12)).logits


def logits_of(folder):
    import torch
    from transformers import AutoModelForCausalLM

    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


@pytest.mark.parametrize("base", ["pico_model", "tied"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 3, "down_proj": 5}},
    ],
)
def test_a_folded_adapter_equals_what_peft_merges(base, settings, tmp_path, request):
    base = request.getfixturevalue(base)
    trained = train_adapter(base, tmp_path / "adapter", **settings)
    facts = fold_adapter(tmp_path / "adapter", base, tmp_path / "folded")
    assert facts == {"folded": 6, "replaced": 0, "untied": False, "zero": False}
    merged = trained.merge_and_unload().state_dict()
    folded = load(tmp_path / "folded")
    assert folded.keys() == load(base).keys()
    for name, weight in folded.items():
        assert weight.sub(merged[name]).abs().max() <= 1e-6, name
    assert (tmp_path / "folded/config.json").exists() and (tmp_path / "folded/generation_config.json").exists()


def test_a_bfloat16_base_is_rounded_once(pico_model, tmp_path):
    import torch
    from safetensors.torch import save_file

    base = shutil.copytree(pico_model, tmp_path / "base")
    weights = {name: weight.bfloat16() for name, weight in load(base).items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    merged = train_adapter(base, tmp_path / "adapter").merge_and_unload().state_dict()
    fold_adapter(tmp_path / "adapter", base, tmp_path / "folded")
    for name, weight in load(tmp_path / "folded").items():
        assert weight.dtype == torch.bfloat16 and weight.equal(merged[name].bfloat16()), name


def test_a_sharded_base_keeps_its_shards(pico_model, tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(pico_model).save_pretrained(tmp_path / "base", max_shard_size="50KB")
    trained = train_adapter(tmp_path / "base", tmp_path / "adapter")
    fold_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "folded")
    check_model_folder(tmp_path / "folded")
    headers = tensor_headers(tmp_path / "base")
    assert tensor_headers(tmp_path / "folded") == headers and len({file for file, _, _ in headers.values()}) > 3
    assert logits_of(tmp_path / "folded").allclose(logits(trained), atol=1e-5)


@pytest.mark.parametrize("base", ["pico_model", "tied"])
@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"modules_to_save": ["lm_head"]}, (6, 1)),
        ({"modules_to_save": ["embed_tokens"]}, (6, 1)),
        # peft saves a targeted embedding whole, beside its factors.
        ({"target_modules": ["q_proj", "embed_tokens"]}, (3, 1)),
        ({"target_modules": ["q_proj", "lm_head"]}, (3, 1)),
    ],
)
def test_a_changed_head_or_embedding_of_a_tied_base_unties_it(base, settings, counts, tmp_path, request):
    is_tied, base = base == "tied", request.getfixturevalue(base)
    trained = train_adapter(base, tmp_path / "adapter", **settings)
    facts = fold_adapter(tmp_path / "adapter", base, tmp_path / "folded")
    assert (facts["folded"], facts["replaced"], facts["untied"]) == (*counts, is_tied)
    assert logits_of(tmp_path / "folded").allclose(logits(trained), atol=1e-5)


def test_an_adapter_of_a_vision_language_model_finds_its_weights(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rope}
    text |= {"bos_token_id": 0, "eos_token_id": 1}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision)).save_pretrained(
        tmp_path / "base"
    )
    model = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "base")
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "qkv"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    assert fold_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "folded")["folded"] == 3
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = load(tmp_path / "merged")
    for name, weight in load(tmp_path / "folded").items():
        assert weight.allclose(merged[name], atol=1e-6), name


def as_artefact(folder, *parents):
    """Write the manifest of an adapter that was made from others."""
    path = f"{folder}.manifest.json"
    manifests = [f"{parent}.manifest.json" for parent in parents]
    write_manifest(path, rule="finetune_lora", outputs=[folder], parents=manifests, recipe={}, facts={})
    return path


@pytest.fixture
def three_rounds(pico_model, tmp_path, monkeypatch):
    """The adapters of three rounds, each with a manifest that names the one before and the base of another kind."""
    monkeypatch.chdir(tmp_path)
    write_manifest("models.manifest.json", rule="fetch_model", outputs=[], parents=[], recipe={}, facts={})
    (tmp_path / "adapters").mkdir()
    for number in (1, 2, 3):
        train_adapter(pico_model, f"adapters/r{number}", lora_alpha=4 * number)
        as_artefact(f"adapters/r{number}", "models", *([f"adapters/r{number - 1}"] if number > 1 else []))
    return [Path("adapters", f"r{number}") for number in (1, 2, 3)]


def test_a_round_is_folded_with_all_rounds_before_into_what_one_after_the_other_gives(three_rounds, pico_model):
    first, second, third = three_rounds
    assert earlier_adapters("adapters/r3.manifest.json") == [first, second]
    assert earlier_adapters("adapters/r1.manifest.json") == []
    facts = fold_adapter(third, pico_model, "together", earlier_adapters("adapters/r3.manifest.json"))
    assert facts == {"folded": 6, "replaced": 0, "untied": False, "zero": False}
    for base, adapter, target in ((pico_model, first, "one"), ("one", second, "two"), ("two", third, "three")):
        fold_adapter(adapter, base, target)
    apart, together, base = load(Path("three")), load(Path("together")), load(pico_model)
    assert all(weight.sub(apart[name]).abs().max() <= 1e-6 for name, weight in together.items())
    assert sum(not weight.equal(base[name]) for name, weight in together.items()) == 6


def test_a_chain_of_rounds_that_is_broken_is_told(three_rounds, pico_model):
    train_adapter(pico_model, "adapters/r1", lora_alpha=9)
    with pytest.raises(UserError, match="r1/adapter_config.json: has other bytes|r1/.*: has"):
        earlier_adapters("adapters/r3.manifest.json")
    as_artefact("adapters/r1", "models")
    with pytest.raises(UserError, match="adapters/r1: the next round was trained on another adapter of this name"):
        earlier_adapters("adapters/r3.manifest.json")
    Path("adapters/r1.manifest.json").unlink()
    with pytest.raises(UserError, match="adapters/r1.manifest.json: is missing; .*make the adapter adapters/r1 again"):
        earlier_adapters("adapters/r3.manifest.json")


@pytest.fixture(scope="module")
def adapter(pico_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    train_adapter(pico_model, folder)
    return folder


@pytest.fixture
def own_adapter(adapter, tmp_path):
    """A copy of the adapter that a test may change."""
    return shutil.copytree(adapter, tmp_path / "adapter")


def change_tensors(adapter, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(change(tensors) or tensors), adapter / "adapter_model.safetensors", metadata={"format": "pt"})


def test_an_untrained_adapter_is_noted(own_adapter, pico_model, tmp_path):
    change_tensors(own_adapter, lambda tensors: [t.zero_() for name, t in tensors.items() if "lora_B" in name] and None)
    assert fold_adapter(own_adapter, pico_model, tmp_path / "folded")["zero"] is True
    base, folded = load(pico_model), load(tmp_path / "folded")
    assert all(folded[name].equal(base[name]) for name in base)


def test_the_tokenizer_is_the_adapters_where_it_has_one(own_adapter, pico_model, tmp_path):
    fold_adapter(own_adapter, pico_model, tmp_path / "folded")
    original = (pico_model / "chat_template.jinja").read_text()
    assert (tmp_path / "folded/chat_template.jinja").read_text() == original
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pico_model / name, own_adapter)
    (own_adapter / "chat_template.jinja").write_text("other")
    fold_adapter(own_adapter, pico_model, tmp_path / "folded")
    assert (tmp_path / "folded/chat_template.jinja").read_text() == "other"


def rename(tensors):
    return {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}


def drop(tensors):
    return {name: tensor for name, tensor in tensors.items() if "layers.1.self_attn.q_proj.lora_B" not in name}


def narrow(tensors):
    return {name: tensor[:, :7].clone() if "lora_A" in name else tensor for name, tensor in tensors.items()}


def poison(tensors):
    return {name: tensor * float("nan") for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (rename, r"layers.7\S*lora_A.weight has no weight in .*; fold it into the base it was trained on"),
        (drop, "layers.1.self_attn.q_proj.weight has only one of its two LoRA factors"),
        (narrow, r"mlp.down_proj.weight is \[32, 7\], in .* \[32, 64\]; fold it into"),
        (poison, "holds NaN or infinite values; its training diverged"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(own_adapter, pico_model, tmp_path, change, sentence):
    change_tensors(own_adapter, change)
    with pytest.raises(UserError, match=sentence):
        fold_adapter(own_adapter, pico_model, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3 cannot be folded"),
        ({"use_dora": True}, "use_dora cannot be folded"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' also changed the base"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(own_adapter, pico_model, tmp_path, settings, sentence):
    edit_json(own_adapter / "adapter_config.json", **settings)
    with pytest.raises(UserError, match=sentence):
        fold_adapter(own_adapter, pico_model, tmp_path / "folded")


def vary(base, folder, seed):
    """Copy a model and move each weight a little, as training would."""
    import torch
    from safetensors.torch import save_file

    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    moved = {
        name: weight + 0.01 * torch.randn(weight.shape, generator=generator) for name, weight in load(base).items()
    }
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def family(tied, tmp_path_factory):
    """A project folder with a base and two models made of it."""
    home = tmp_path_factory.mktemp("family")
    shutil.copytree(tied, home / "models/base")
    vary(tied, home / "models/left", 1)
    vary(tied, home / "models/right", 2)
    return home


@pytest.fixture
def project(family, monkeypatch):
    """Work in the project's folder, as jobs do."""
    monkeypatch.chdir(family)
    return {name: f"models/{name}" for name in ("base", "left", "right")}


def recipe(method, **settings):
    parents = [{"model": "left", "weight": 0.3}, {"model": "right", "weight": 0.4}]
    plain = {"method": method, "base": None if method == "linear" else "base", "parents": parents, "parameters": {}}
    return plain | {"dtype": "float32", "seed": 7, "threads": 1} | settings


def linear(base, left, right):
    return (0.3 * left + 0.4 * right) / 0.7


def task_arithmetic(base, left, right):
    return base + 0.5 * (0.3 * (left - base) + 0.4 * (right - base))


def slerp(base, left, right):
    """Between base and right at t = 0.25, over the flattened tensor (Shoemake 1985)."""
    import torch

    cosine = torch.nn.functional.cosine_similarity(base.flatten(), right.flatten(), dim=0)
    if cosine > 0.9995:
        return 0.75 * base + 0.25 * right
    angle = torch.acos(cosine)
    return (torch.sin(0.75 * angle) * base + torch.sin(0.25 * angle) * right) / torch.sin(angle)


def ties(base, left, right):
    """Trim each task vector to its larger half, elect a sign, average what agrees (Yadav et al. 2023)."""
    import torch

    deltas = []
    for weight, parent in ((0.3, left), (0.4, right)):
        delta = parent - base
        kept = delta.flatten().abs().argsort(descending=True)[: max(1, delta.numel() // 2)]
        mask = torch.zeros(delta.numel()).index_fill(0, kept, 1).view_as(delta)
        deltas.append((weight, delta * mask * weight))
    sign = torch.where(sum(delta for _, delta in deltas) >= 0, 1.0, -1.0)
    agree = [(weight, delta, delta.sign() == sign) for weight, delta in deltas]
    total = sum(weight * same for weight, _, same in agree)
    return base + sum(delta * same for _, delta, same in agree) / torch.where(total == 0, 1, total)


TIES = {
    "parents": [{"model": "left", "weight": 0.3, "density": 0.5}, {"model": "right", "weight": 0.4, "density": 0.5}]
}
SLERP = {"parents": [{"model": "base"}, {"model": "right"}], "parameters": {"t": 0.25}}


@pytest.mark.parametrize(
    ("reference", "settings"),
    [(linear, {}), (task_arithmetic, {"parameters": {"lambda": 0.5}}), (slerp, SLERP), (ties, TIES)],
)
def test_a_merge_is_what_its_formula_says(project, tmp_path, reference, settings):
    facts = merge_models(recipe(reference.__name__, **settings), project, tmp_path / "merged")
    assert facts == {"tokenizer_from": "left" if reference is linear else "base", "warnings": []}
    base, left, right = (load(Path(project[name])) for name in ("base", "left", "right"))
    merged = load(tmp_path / "merged")
    assert merged.keys() == base.keys()
    for name, weight in merged.items():
        assert weight.allclose(reference(base[name], left[name], right[name]), atol=1e-6), name
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "merged" / name).exists()


def test_t_may_differ_by_layer_and_kind_of_tensor(project, tmp_path):
    t = [{"filter": "self_attn", "value": [0, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.5}]
    merge_models(recipe("slerp", **SLERP | {"parameters": {"t": t}}), project, tmp_path / "merged")
    base, right = (load(Path(project[name])) for name in ("base", "right"))
    merged = load(tmp_path / "merged")
    for name, other in (
        ("model.layers.0.self_attn.q_proj.weight", base),
        ("model.layers.1.self_attn.q_proj.weight", right),
        ("model.layers.0.mlp.up_proj.weight", right),
        ("model.layers.1.mlp.up_proj.weight", base),
    ):
        assert merged[name].allclose(other[name], atol=1e-6), name


def test_a_merge_with_random_masks_repeats_with_its_seed(project, tmp_path):
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        merge_models(recipe("dare_ties", **TIES, seed=seed, dtype="bfloat16"), project, tmp_path / name)
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one != other
    assert json.loads((tmp_path / "one/config.json").read_text())["dtype"] == "bfloat16"


def test_mergekit_can_repeat_the_merge_from_the_kept_configuration(project, family, tmp_path):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    folders = {name: str(family / folder) for name, folder in project.items()}
    merge_models(recipe("dare_ties", **TIES), folders, tmp_path / "merged")
    text = (tmp_path / "merged/mergekit_config.yml").read_text()
    assert str(family) not in text
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(text)),
        str(tmp_path / "again"),
        MergeOptions(random_seed=7, quiet=True, write_model_card=False),
    )
    again, merged = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("again", "merged"))
    assert again == merged


@pytest.mark.parametrize("density", [0.1, 0.15, 0.3, 0.5, 0.84, 0.85, 0.9, 1.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.15, 0.3])
def test_della_is_refused_where_mergekit_would_refuse_it_late(density, epsilon):
    import torch
    from mergekit.sparsify import della_magprune

    parents = [{"model": name, "weight": 0.5, "density": density} for name in ("left", "right")]
    refused = list(refusals(recipe("della", parents=parents, parameters={"epsilon": epsilon})))
    try:
        della_magprune(torch.rand(4, 4), density=density, epsilon=epsilon)
    except ValueError:
        assert len(refused) == 2
    else:
        assert refused == []


def test_the_template_comes_from_a_parent_when_the_base_has_none(project, family, tmp_path):
    shutil.copytree(family / "models/base", tmp_path / "bare")
    (tmp_path / "bare/chat_template.jinja").unlink()
    (tmp_path / "bare/generation_config.json").unlink()
    facts = merge_models(recipe("task_arithmetic"), project | {"base": tmp_path / "bare"}, tmp_path / "merged")
    assert facts["tokenizer_from"] == "left"
    assert facts["warnings"] == [
        "left and base differ in their chat template.",
        "right and base differ in their chat template.",
    ]
    assert (tmp_path / "merged/chat_template.jinja").exists() and (tmp_path / "merged/generation_config.json").exists()


def test_a_merge_that_is_not_finite_is_refused(project, tmp_path):
    parents = [{"model": "left", "weight": 0.5}, {"model": "right", "weight": -0.5}]
    with pytest.raises(UserError, match="holds NaN .*; the parents do not: look for weights"):
        merge_models(recipe("linear", parents=parents), project, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_setting_that_some_tensors_would_lack_is_refused_before_mergekit(project, tmp_path):
    settings = SLERP | {"parameters": {"t": [{"filter": "mlp", "value": 0.5}]}}
    with pytest.raises(UserError, match="parameters: t: no entry takes the tensors that no filter meets"):
        merge_models(recipe("slerp", **settings), project, tmp_path / "merged")


def test_what_mergekit_refuses_becomes_one_sentence(project, family, tmp_path):
    strange = shutil.copytree(family / "models/left", tmp_path / "strange")
    edit_json(strange / "config.json", architectures=["StrangeForCausalLM"])
    folders = {"left": strange, "right": strange}
    with pytest.raises(UserError, match="mergekit refuses this merge .*; correct its parameters, or take models of a"):
        merge_models(recipe("linear"), folders, tmp_path / "merged")


def lose_a_tensor(folder):
    from safetensors.torch import save_file

    weights = load(folder)
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def swap_tokens(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: edit_json(folder / "config.json", model_type="qwen2"), "model_type is qwen2 and llama"),
        (lambda folder: edit_json(folder / "config.json", vocab_size=640), "vocabularies have 640 and 512 rows"),
        (lose_a_tensor, r"model.norm.weight is missing and \[32\]; take models of one size"),
        (swap_tokens, "their tokenizers differ in token 'a' or id"),
    ],
)
def test_models_that_do_not_fit_are_named(family, tmp_path, change, sentence):
    shutil.copytree(family / "models/left", tmp_path / "other")
    change(tmp_path / "other")
    with pytest.raises(UserError, match=f"other and base cannot be merged: .*{sentence}"):
        check_compatible({"base": family / "models/base", "other": tmp_path / "other"}, "base")


def test_models_of_another_size_are_named(family, tmp_path):
    build_pico_model(tmp_path / "other", hidden_size=48, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"model.embed_tokens.weight is \[512, 48\] and \[512, 32\]"):
        check_compatible({"base": family / "models/base", "other": tmp_path / "other"}, "base")


def test_a_model_that_equals_the_base_has_no_task_vector(family, tmp_path):
    shutil.copytree(family / "models/base", tmp_path / "twin")
    models = {name: family / "models" / name for name in ("base", "left")} | {"twin": tmp_path / "twin"}
    with pytest.raises(UserError, match=r"twin: equals base base in every tensor \(zero task vector\)"):
        check_compatible(models, "base")
    assert check_compatible(models, None) == []


def test_differences_that_a_merge_survives_are_warnings(family, tmp_path):
    other = shutil.copytree(family / "models/left", tmp_path / "other")
    edit_json(other / "config.json", rms_norm_eps=1e-5)
    edit_json(other / "tokenizer_config.json", eos_token="<|endoftext|>")
    (other / "chat_template.jinja").write_text("other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"content": "<|more|>", "id": 511})
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert check_compatible({"base": family / "models/base", "other": other}, "base") == [
        "other and base differ in their config: rms_norm_eps.",
        "other and base: 1 tokens are only in one of the two tokenizers.",
        "other and base differ in their special tokens.",
        "other and base differ in their chat template.",
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (recipe("ties", base="left"), "merge by ties: left is base and parent: its task vector is zero"),
        (
            recipe("slerp", **SLERP | {"parameters": {"t": None}}),
            "merge by slerp: parameters: t is missing",
        ),
    ],
)
def test_recipes_that_mergekit_would_refuse_late(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        mergekit_config(settings, str)


def test_published_configurations_come_out_as_published():
    parents = [
        {"model": "pointwise", "weight": 0.3, "density": 0.53},
        {"model": "pairwise", "weight": 0.4, "density": [1, 0.7, 0.1]},
    ]
    settings = recipe("dare_ties", base="llama", parents=parents, parameters={"int8_mask": True}, dtype="float16")
    assert mergekit_config(settings, lambda name: f"results/models/{name}") == {
        "merge_method": "dare_ties",
        "base_model": "results/models/llama",
        "models": [
            {"model": "results/models/pointwise", "parameters": {"weight": 0.3, "density": 0.53}},
            {"model": "results/models/pairwise", "parameters": {"weight": 0.4, "density": [1, 0.7, 0.1]}},
        ],
        "parameters": {"int8_mask": True},
        "dtype": "float16",
    }


def test_a_path_that_mergekit_misreads_is_refused(project, tmp_path):
    with pytest.raises(UserError, match="reads @ and \\+ in a path as its own signs"):
        merge_models(recipe("linear"), project | {"left": "models/left+right"}, tmp_path / "merged")
