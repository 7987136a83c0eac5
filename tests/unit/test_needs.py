"""What jobs ask for grows with the model and with the attempt, and can be overridden."""

from moult.needs import needs


def test_a_small_model_needs_no_gpu_and_a_large_one_does():
    assert needs("inference", 0.135)["gpu"] == 0
    assert needs("inference", 8)["gpu"] == 1
    assert needs("weights", 8)["gpu"] == needs("tables")["gpu"] == 0


def test_training_needs_more_than_inference_and_full_more_than_lora():
    memory = [needs(stage, 8)["gpu_mem_gb"] for stage in ("inference", "lora", "full")]
    assert memory == sorted(memory) and memory[0] > 16
    # An 8 B model in bf16 fits a 24 GB card in inference and a 40 GB card in LoRA training.
    assert memory[0] <= 25 and memory[1] <= 40


def test_devices_share_what_zero_shards():
    alone, two, three = (needs("full", 8, devices=n, zero=zero) for n, zero in ((1, 2), (4, 2), (4, 3)))
    assert (alone["gpu"], two["gpu"], three["gpu"]) == (1, 4, 4)
    assert alone["gpu_mem_gb"] > two["gpu_mem_gb"] > three["gpu_mem_gb"] > alone["gpu_mem_gb"] / 4
    assert needs("full", 8, zero=3) == alone
    # LoRA has little to share but the frozen weights, which ZeRO-2 leaves on every device.
    assert needs("lora", 8, devices=4)["gpu_mem_gb"] == needs("lora", 8)["gpu_mem_gb"]
    assert needs("lora", 8, devices=4, zero=3)["gpu_mem_gb"] < needs("lora", 8)["gpu_mem_gb"]
    # On a CPU every process has its own memory.
    assert needs("lora", 0.1, devices=2)["mem_mb"] == 2 * needs("lora", 0.1)["mem_mb"]


def test_a_retry_asks_for_more():
    first, second = needs("lora", 1.5), needs("lora", 1.5, attempt=2)
    assert second["mem_mb"] > first["mem_mb"] and second["runtime"] > first["runtime"]


def test_a_merge_holds_all_its_parents():
    assert needs("weights", 8, models=3)["mem_mb"] > needs("weights", 8, models=2)["mem_mb"] > 2 * 16000


def test_an_override_wins():
    asked = needs("lora", 8, override={"gpus": 4, "gpu_mem_gb": 80, "mem_gb": 100, "hours": 2})
    assert asked == {"gpu": 4, "gpu_mem_gb": 80, "mem_mb": 100000, "runtime": 120}
