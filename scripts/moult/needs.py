"""What a job needs: GPUs, their memory, memory, time. Rules state needs, profiles state where they are met."""

import math

# Below this many billions of parameters a CPU does the work.
CPU_BILLIONS = 0.5
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# GB per billion parameters on top of the weights, on each device: activations and cache in inference; adapters, their
# optimiser state and activations in LoRA; activations in full fine-tuning.
WORKING = {"inference": 0.6, "lora": 1.5, "full": 1.0}
# And what devices that train together share by ZeRO: gradients, Adam's two moments, float32 master weights (at ZeRO-3
# the weights too). ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054, section 5.
SHARED = {"full": 14.0}
# Hours per billion parameters on one GPU, generous: a job that meets its limit starts again from its checkpoint.
HOURS = {"inference": 0.5, "lora": 2.0, "full": 4.0, "weights": 0.25, "tables": 0.1, "videos": 8.0}


def needs(stage, billions=0.0, dtype="bfloat16", attempt=1, override=None, models=1, devices=1, zero=2):
    """Return what a job of a stage asks for, as plain numbers; memory and time grow with each attempt.

    stage: inference, lora, full (a model on GPU or CPU), weights (fetch, fold, merge: CPU, `models` of them in memory),
    tables (no model), videos (decoding). billions: parameters. devices train together under a ZeRO stage, each process
    on a GPU of its own. Returns gpu, gpu_mem_gb (of each), mem_mb, runtime (minutes).
    """
    override = override or {}
    weights = billions * BYTES[dtype]
    on_gpu = stage in WORKING and billions >= CPU_BILLIONS
    gpus = override.get("gpus", devices if on_gpu else 0)
    shared = billions * SHARED.get(stage, 0) + (weights if zero == 3 else 0)
    held = (0 if zero == 3 else weights) + billions * WORKING.get(stage, 0) + shared / devices
    gpu_mem = override.get("gpu_mem_gb", math.ceil(1.2 * held) if gpus else 0)
    if stage == "weights":
        mem = 2 + weights * (models + 1)
    elif stage in ("tables", "videos"):
        mem = {"tables": 2, "videos": 4}[stage]
    else:
        # For each process Python and torch, and the weights on their way to the device.
        mem = devices * (3 + (weights if gpus else 1.5 * held))
    mem = override.get("mem_gb", mem)
    slower = 1 if gpus or stage not in WORKING else 4
    hours = override.get("hours", HOURS[stage] * max(billions, 0.5) * slower / devices)
    return {
        "gpu": gpus,
        "gpu_mem_gb": gpu_mem,
        "mem_mb": math.ceil(mem * 1000 * 1.5 ** (attempt - 1)),
        "runtime": math.ceil(max(10, hours * 60) * attempt),
    }
