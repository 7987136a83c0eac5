"""Architectures of transformers' own classes, with random weights: told before the work, or right to its end.

Each is fetched, trained for one step as LoRA over all linear layers, folded, asked and scored. Where an adapter is
refused, the targets that the sentence names, or all weights, are trained instead. MOULT_SOAK=1 tries all of them.
"""

import json
import os
import re

import pytest
from moult.base.errors import UserError
from moult.data.prompts import Example
from moult.inference.engines.loading import load_engine
from moult.inference.requests import ChatRequest, LabelRequest, Sampling
from moult.training.finetune import finetune_full, finetune_lora
from moult.weights.fetch import fetch_model
from moult.weights.folding import TRANSPOSED, fold_adapter
from pico import build_pico_tokenizer

WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
LLAMA = WIDE | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
STATE = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
HYBRID = {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2, "linear_num_key_heads": 2}
HYBRID |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
# Name → model type and settings. What an architecture cannot do is not said here: it is to be told.
QUICK = {
    "llama": ("llama", LLAMA),
    "gpt2": ("gpt2", OLD),
    "falcon": ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "falcon-alibi": ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "mamba": ("mamba", STATE),
    "rwkv": ("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
    "mixtral": ("mixtral", LLAMA | EXPERTS),
    "gemma3": ("gemma3_text", LLAMA | SLIDING),
    "qwen3_5": ("qwen3_5_text", LLAMA | HYBRID),
    "roberta": ("roberta", WIDE | {"is_decoder": True, "max_position_embeddings": 256}),
    "opt": ("opt", {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "num_hidden_layers": 2}),
}
SOAK = {
    "openai-gpt": ("openai-gpt", OLD),
    "gpt_neox": ("gpt_neox", WIDE),
    "gptj": ("gptj", OLD | {"rotary_dim": 4}),
    "gpt_bigcode": ("gpt_bigcode", OLD),
    "phi": ("phi", WIDE),
    "phi3": ("phi3", LLAMA),
    "phimoe": ("phimoe", LLAMA | EXPERTS),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", LLAMA),
    "qwen3_moe": ("qwen3_moe", LLAMA | EXPERTS),
    "qwen2_moe": ("qwen2_moe", LLAMA | EXPERTS | {"shared_expert_intermediate_size": 16}),
    "olmoe": ("olmoe", LLAMA | EXPERTS),
    "gpt_oss": ("gpt_oss", LLAMA | EXPERTS | SLIDING),
    "granitemoe": ("granitemoe", LLAMA | EXPERTS),
    "laguna": ("laguna", LLAMA | EXPERTS),
    "hy_v3": ("hy_v3", LLAMA | EXPERTS),
    "gemma": ("gemma", LLAMA),
    "gemma2": ("gemma2", LLAMA | SLIDING),
    "mistral": ("mistral", LLAMA | {"sliding_window": 16}),
    "cohere": ("cohere", LLAMA),
    "stablelm": ("stablelm", LLAMA),
    "starcoder2": ("starcoder2", LLAMA),
    "olmo2": ("olmo2", LLAMA),
    "glm4": ("glm4", LLAMA),
    "smollm3": ("smollm3", LLAMA),
    "falcon_mamba": ("falcon_mamba", STATE),
    "mamba2": ("mamba2", STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "qwen3_next": ("qwen3_next", LLAMA | HYBRID | EXPERTS | {"shared_expert_intermediate_size": 16}),
    "olmo_hybrid": ("olmo_hybrid", LLAMA | HYBRID),
    "llama4": ("llama4_text", LLAMA | EXPERTS | {"intermediate_size_mlp": 64}),
    "bert": ("bert", WIDE),
    "xlm": ("xlm", {"emb_dim": 32, "n_layers": 2, "n_heads": 4}),
    "bart": ("bart", {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}),
    "xglm": ("xglm", {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64}),
    "biogpt": ("biogpt", WIDE),
    "ctrl": ("ctrl", OLD | {"dff": 64}),
}
FAMILIES = QUICK | (SOAK if os.environ.get("MOULT_SOAK") else {})
ROWS = [Example(str(row), [{"role": "user", "content": "q" * (row + 1)}], "yes") for row in range(2)]
RECIPE = {
    "base": "tiny",
    "learning_rate": 1e-1,
    "epochs": 1,
    "max_steps": 1,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "batch_size": 2,
    "accumulation": 1,
    "dtype": "float32",
    "max_length": 256,
    "evaluate_every": None,
    "selection": "nll",
    "gradient_checkpointing": False,
    "seed": 7,
    "threads": 1,
}


def build(path, kind, settings):
    """Save a model of a type with random weights, and the pico tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=512, bos_token_id=1, eos_token_id=2, pad_token_id=0, **settings)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(path)
    build_pico_tokenizer().save_pretrained(path)
    return path


def lora(targets):
    return RECIPE | {"lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": targets}}


def trained(home, base):
    """Train one step by LoRA, where that is refused as the sentence says; return (the folder, the adapter or None)."""
    steps, targets = [], "all-linear"
    try:
        finetune_lora(lora(targets), base, ROWS, [], home / "s1", home / "adapter")
    except UserError as error:
        steps = [str(error)]
        assert not (home / "s1").exists() or not any((home / "s1").iterdir())
        named = re.search(r"write `lora.targets: \[(.*?)\]`", steps[0])
        if not named:
            finetune_full(RECIPE, base, ROWS, [], home / "s2", home / "full")
            return home / "full", None
        finetune_lora(lora(named[1].split(", ")), base, ROWS, [], home / "s3", home / "adapter")
    fold_adapter(home / "adapter", base, home / "folded")
    return home / "folded", home / "adapter"


def logits_of(folder, adapter=None):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        return model.eval()(torch.arange(3, 15)[None]).logits


def label_sum(engine, prompt, label):
    """Return the log-likelihood of a label by one forward pass of one row."""
    import torch

    with torch.no_grad():
        found = engine.model(torch.tensor([prompt + label])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return found[range(len(label)), label].double().sum().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_told_before_the_work_or_right_to_its_end(family, tmp_path):
    kind, settings = FAMILIES[family]
    origin = build(tmp_path / "origin", kind, settings)
    try:
        facts = fetch_model({"path": str(origin)}, tmp_path / "base", None)
    except UserError as error:
        assert re.search("causal", str(error)), error
        return
    before = logits_of(tmp_path / "base")
    folder, adapter = trained(tmp_path, tmp_path / "base")
    # What all-linear cannot do was told when the model was fetched.
    told = any("all-linear will be refused" in warning for warning in facts.get("warnings", ()))
    assert told == (adapter is None or (tmp_path / "s3").exists())
    after = logits_of(folder)
    assert (after - before).abs().max() > 1e-3
    if adapter:
        assert (after - logits_of(tmp_path / "base", adapter)).abs().max() < 1e-4

    engine = load_engine(folder, batch_size=2)
    chats = [({"role": "user", "content": text},) for text in ("hi", "a question that is longer than any window here")]
    requests = [LabelRequest(chat, ("joy", "anger", "no joy at all")) for chat in chats]
    scores = dict(pair for part in engine.label_logprobs(requests) for pair in part)
    for row, request in enumerate(requests):
        prompt, labels = engine._labelled(request)
        wanted = [label_sum(engine, prompt, label) for label in labels]
        assert scores[row] == pytest.approx(wanted, abs=1e-3)
    asked = [ChatRequest(chat, Sampling(max_tokens=5)) for chat in chats]
    together = dict(pair for part in engine.answer(asked) for pair in part)
    for row, request in enumerate(asked):
        ((_, alone),) = next(engine.answer([request]))
        assert together[row] == alone


@pytest.mark.parametrize("way", ["lora", "full"])
def test_a_base_that_is_stored_without_the_name_of_its_model(way, tmp_path):
    """As GPT-2 and BLOOM lie on the hub: `h.0.attn…`, where a language model has `transformer.h.0.attn…`."""
    from safetensors.torch import load_file, save_file

    base = build(tmp_path / "base", "gpt2", OLD)
    file = base / "model.safetensors"
    weights = {name.removeprefix("transformer."): weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    fetch_model({"path": str(base)}, tmp_path / "fetched", None)
    before = logits_of(base)
    if way == "lora":
        folder, adapter = trained(tmp_path, base)
        assert (logits_of(folder) - logits_of(base, adapter)).abs().max() < 1e-4
    else:
        finetune_full(RECIPE, base, ROWS, [], tmp_path / "s", folder := tmp_path / "full")
    assert load_file(folder / "model.safetensors").keys() == weights.keys()
    assert (logits_of(folder) - before).abs().max() > 1e-3


@pytest.mark.parametrize("says_tied", [True, False])
@pytest.mark.parametrize("targets", [["c_proj"], ["c_attn", "c_proj", "wte"]])
def test_transposed_weights_fold_as_peft_merges_them(targets, says_tied, tmp_path):
    """Square ones too, of which the shape does not tell that they are stored as (in, out)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = build(tmp_path / "base", "gpt2", OLD)
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, init_lora_weights=False)
    if not says_tied:
        config = json.loads((base / "config.json").read_text())
        assert config.pop("tie_word_embeddings")
        (base / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    fold_adapter(tmp_path / "adapter", base, tmp_path / "folded")
    assert (logits_of(tmp_path / "folded") - logits_of(base, tmp_path / "adapter")).abs().max() < 1e-4
    merged, folded = adapted.merge_and_unload().state_dict(), load_file(tmp_path / "folded/model.safetensors")
    # peft merges what it adds to the embeddings into a head that is tied to them, too; the adapter does not.
    folded.pop("lm_head.weight", None)
    for name, weight in folded.items():
        assert (weight - merged[name]).abs().max() < 1e-6, name


def test_the_types_whose_linear_layers_are_transposed():
    """A causal language model of transformers uses Conv1D if and only if its type is listed."""
    import inspect
    import sys

    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.pytorch_utils import Conv1D

    found = set()
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        source = getattr(transformers, name if isinstance(name, str) else name[0])
        module = sys.modules[source.__module__]
        if getattr(module, "Conv1D", None) is Conv1D and "Conv1D(" in inspect.getsource(module):
            found.add(source.config_class.model_type)
    assert found == set(TRANSPOSED)
