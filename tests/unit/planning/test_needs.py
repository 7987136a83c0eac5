"""What jobs ask for follows from documented arithmetic, grows with the attempt, and can be overridden."""

import math
from types import SimpleNamespace

import pytest
from moult.planning.needs import KEPT, frame_tokens, needs


def memory(stage, billions, **settings):
    return needs(stage, billions, **settings)["gpu_mem_gb"]


def test_a_small_model_needs_no_gpu_and_a_large_one_does():
    assert needs("inference", 0.135)["gpu"] == 0
    assert needs("inference", 8)["gpu"] == 1
    assert needs("weights", 8)["gpu"] == needs("tables")["gpu"] == needs("videos")["gpu"] == 0


def test_inference_by_hand():
    """7 B in bfloat16, 8 rows of 1,000 tokens: weights, keys and values, a layer, scores; 15% and 1 GB on top."""
    layers = (7e9 / (12 * 128**2)) ** (1 / 3)
    width = 128 * layers
    cache = 2 * layers * 8000 * width / 4 * 2 / 1e9
    layer = 34 * 8000 * width / 1e9
    scores = 8 * 128 * 152_000 * 4 / 1e9
    assert memory("inference", 7, tokens=1000, rows=8) == math.ceil(1 + 1.15 * (14 + cache + layer + scores))


def test_time_goes_by_the_answers_to_a_question():
    once, eleven = needs("inference", 8, override={}), needs("inference", 8, answers=11)
    assert (once["runtime"], eleven["runtime"]) == (240, 2640) and once["gpu_mem_gb"] == eleven["gpu_mem_gb"]


def test_full_training_by_hand():
    """16 bytes per parameter, of which ZeRO-2 shares 14 and ZeRO-3 all; 2 GB more where devices train together."""
    small = {"tokens": 1, "rows": 1}
    # On one device autocast's copies in 16 bits, too.
    assert memory("full", 8, **small) == math.ceil(1 + 1.15 * (128 + 16))
    assert memory("full", 8, devices=4, zero=2, **small) == math.ceil(3 + 1.15 * (16 + 112 / 4))
    assert memory("full", 8, devices=4, zero=3, **small) == math.ceil(3 + 1.15 * 128 / 4)


def test_lora_by_hand():
    """Frozen weights, 16 bytes for each of 20 r h parameters a layer; ZeRO-3 shares the frozen weights."""
    layers = (8e9 / (12 * 128**2)) ** (1 / 3)
    adapter = 16 * 20 * 16 * layers * 128 * layers / 1e9
    small = {"tokens": 1, "rows": 1, "rank": 16}
    assert memory("lora", 8, **small) == math.ceil(1 + 1.15 * (16 + adapter))
    assert memory("lora", 8, devices=4, **small) == memory("lora", 8, **small) + 2
    assert memory("lora", 8, devices=4, zero=3, **small) == math.ceil(3 + 1.15 * (4 + adapter))


def test_activations_by_hand():
    """82 s b h bytes per layer of LoRA with dropout, or 2 s b h and one layer under checkpointing; and the scores."""
    layers = (8e9 / (12 * 128**2)) ** (1 / 3)
    kept = 82 * 2 * 1024 * 128 * layers / 1e9
    scores = 2 * 1024 * 152_000 * 10 / 1e9
    state = 16 + 16 * 20 * 16 * layers * 128 * layers / 1e9
    work = {"tokens": 1024, "rows": 2}
    assert memory("lora", 8, **work) == math.ceil(1 + 1.15 * (state + kept * layers + scores))
    saved = 2 / 82 * kept * layers + kept
    assert memory("lora", 8, checkpointing=True, **work) == math.ceil(1 + 1.15 * (state + saved + scores))


@pytest.mark.parametrize("what", KEPT)
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_what_autograd_keeps_of_a_layer(what, dtype, size):
    """Counted by its hooks: the difference of one layer of Llama's shape, per token and unit of width."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    width, tokens = 512, 128
    # Full training in bfloat16 is of float32 weights under autocast, which keeps copies of them in 16 bits.
    mixed = what == "full" and size == 2

    def kept(layers):
        config = LlamaConfig(
            vocab_size=8,
            hidden_size=width,
            intermediate_size=7 * width // 2,
            num_attention_heads=4,
            num_key_value_heads=1,
            num_hidden_layers=layers,
        )
        model = LlamaForCausalLM(config).to(torch.float32 if mixed else getattr(torch, dtype))
        weights = sum(parameter.numel() for parameter in model.parameters())
        if what != "full":
            dropout = 0.05 if "dropout" in what else 0.0
            model = get_peft_model(model, LoraConfig(r=8, lora_dropout=dropout, target_modules="all-linear"))
        own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
        found, alive = {}, []

        def keep(tensor):
            alive.append(tensor)
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            model.train()(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
        return sum(found[place] for place in found.keys() - own) - (2 * weights if mixed else 0)

    found = (kept(2) - kept(1)) / (tokens * width)
    # A CPU keeps 32 bits of a mask, a GPU 8. The inputs of the seven targets are 9.5 times as wide as the layer.
    found -= 3 * 9.5 if what == "lora with dropout" else 0
    assert found == pytest.approx(KEPT[what][size], rel=0.02)


@pytest.mark.parametrize("change", [{"tokens": 4096}, {"rows": 4}, {"dtype": "float32"}, {"rank": 256}])
def test_more_work_needs_more_memory(change):
    assert memory("lora", 8, **change) > memory("lora", 8)


def test_frames_are_tokens():
    """Eight frames of 151,200 pixels: four pairs of 192 tokens of 28 × 28 pixels."""
    assert frame_tokens(SimpleNamespace(frames=8, max_pixels=151_200, multiple=28)) == 4 * 192
    assert frame_tokens(None) == 0


def test_an_engine_that_can_split_a_model_gets_as_many_gpus_as_hold_it():
    asked = needs("inference", 72, splits=True)
    assert (asked["gpu"], needs("inference", 8, splits=True)["gpu"]) == (4, 1)
    assert asked["gpu_mem_gb"] <= 80 < needs("inference", 72)["gpu_mem_gb"]


def test_devices_bring_processors_and_memory():
    one, four = needs("lora", 8), needs("lora", 8, devices=4)
    assert (one["cpus"], four["cpus"]) == (4, 16) and four["mem_mb"] == 4 * one["mem_mb"]
    # On a CPU every process has its own memory, and its own threads.
    one, two = (needs("lora", 0.1, devices=n, threads=3) for n in (1, 2))
    assert two["mem_mb"] == pytest.approx(2 * one["mem_mb"], abs=1) and (one["cpus"], two["cpus"]) == (3, 6)


def test_nodes_share_processes():
    asked = needs("full", 8, devices=16, override={"nodes": 2})
    assert (asked["gpu"], asked["nodes"], asked["processes"], asked["cpus"]) == (16, 2, 8, 32)
    assert asked["mem_mb"] == needs("full", 8, devices=8)["mem_mb"]


def test_a_retry_asks_for_more():
    first, second = needs("lora", 1.5), needs("lora", 1.5, attempt=2)
    assert second["mem_mb"] == 1.5 * first["mem_mb"] and second["runtime"] == 2 * first["runtime"]
    assert second["gpu_mem_gb"] == pytest.approx(1.5 * first["gpu_mem_gb"], abs=1.5)


def test_a_merge_holds_all_its_parents():
    assert needs("weights", 8, models=3)["mem_mb"] == (2 + 16 * 4) * 1000


def test_folding_takes_no_gpu_whatever_training_takes():
    asked = needs("weights", 8, override={"gpus": 4, "gpu_mem_gb": 80, "nodes": 2, "mem_gb": 100})
    assert (asked["gpu"], asked["gpu_mem_gb"], asked["nodes"], asked["mem_mb"]) == (0, 0, 1, 100000)


def test_an_override_wins():
    override = {"gpus": 4, "gpu_mem_gb": 80, "gpu_model": "a800", "cpus": 12, "mem_gb": 100, "hours": 2, "nodes": 2}
    asked = needs("lora", 8, override=override, devices=4)
    assert asked == {
        "gpu": 4,
        "gpu_mem_gb": 80,
        "gpu_model": "a800",
        "nodes": 2,
        "processes": 2,
        "cpus": 12,
        "mem_mb": 100000,
        "runtime": 120,
    }
