"""What a job needs: GPUs, their memory, processors, memory, time. Rules state needs, profiles say where they are met.

GB are 10⁹ bytes; N is the number of parameters in billions, so that N × bytes per parameter is GB.

Shape. Layers L and width h follow from N ≈ 12 L h² (Kaplan et al. 2020, arXiv 2001.08361, section 2.1) and h ≈ 128 L:
8 B gives 34 layers of 4,400, where Llama 3 has 32 of 4,096. The vocabulary is 152,000 (Qwen2's), or half the
parameters if less.

Training state, bytes per trained parameter (Rajbhandari et al. 2020, arXiv 1910.02054, sections 3.1 and 5): 16, which
are weight and gradient in 16 bits, and weight and Adam's two moments in 32. Of these a device holds the weights whole
and 1/n of the rest under ZeRO-2, 1/n of all under ZeRO-3. LoRA trains 20 r h parameters per layer (rank r, all linear
layers) beside N frozen ones, which are whole on each device, 1/n under ZeRO-3.

Activations of b rows of s tokens: KEPT s b h bytes per layer, all layers kept; with gradient checkpointing 2 s b h per
layer in 16 bits, and one layer at work. KEPT is what autograd keeps of a layer as Llama 3 has it (an MLP of 3.5 h, a
quarter of the heads for keys and values, fused attention), counted by its hooks; `tests/unit/test_needs.py` counts it
again. LoRA keeps more than full training: each target keeps its input in 32 bits, and dropout a mask of 8. Full
training in bfloat16 on one device keeps a copy in 16 bits of each weight beside (autocast). Scores over the vocabulary:
value and gradient in 32 bits, and the value in the model's dtype.

Inference: weights; keys and values of all tokens, a quarter of the heads (grouped queries); one layer at work, 34 s b h
bytes in 16 bits (Korthikanti et al. 2022, arXiv 2205.05198, equation 2, without the attention map); scores of 128
positions per row (those of the labels).

On top: 15% for the allocator, 1 GB for the driver's context, and 2 GB for the buckets and channels of devices that
train together (measured: `benchmarks/gpu.csv`). Memory of the machine, per process: 3 GB for Python and torch, and the
weights on their way to the GPU, or, without a GPU, what a GPU would hold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moult.base.stage import Stage
from moult.config.experiment import Config

# Below this many billions of parameters a CPU does the work.
CPU_BILLIONS = 0.5
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
VOCABULARY = 152_000
STATE = 16
# Bytes that autograd keeps per token, per unit of width and per layer, by what trains and the bytes of a number.
KEPT = {"lora": {2: 73, 4: 83}, "lora with dropout": {2: 82, 4: 108}, "full": {2: 59, 4: 90}}
# Stages that have a model at work: on GPUs if it is large, or the override says so.
HELD = ("inference", "lora", "full")
# Where a model is split over GPUs because one cannot hold it, it is over so many of this size.
CARD_GB, SPLITS = 80, (1, 2, 4, 8)
# Hours per billion parameters (of at least half a billion), on one GPU where there is one, four times that without.
# Generous: a training that meets its limit goes on from its checkpoint, an inference from its last answer.
HOURS = {"inference": 0.5, "lora": 2.0, "full": 4.0, "weights": 0.25}
# Hours and GB of stages that hold no model.
PLAIN = {"tables": (1 / 6, 2), "fetch": (1, 2), "videos": (4, 4)}
# Tokens of a prompt in inference, beside its frames; a batch of longer ones needs `gpu_mem_gb`.
PROMPT = 1024
# GB on each of several devices, for what DeepSpeed and NCCL hold beside the model.
TOGETHER = 2
# A retry gets this many times the memory; of time it gets twice and three times what the first attempt got.
GROWTH = 1.5


def needs(
    stage: str,
    billions: float = 0.0,
    dtype: str = "bfloat16",
    attempt: int = 1,
    override: Mapping[str, Any] | None = None,
    *,
    models: int = 1,
    devices: int = 1,
    zero: int = 2,
    rank: int = 16,
    dropout: float = 0.05,
    tokens: int = 2048,
    rows: int = 1,
    checkpointing: bool = False,
    threads: int = 1,
    splits: bool = False,
    answers: int = 1,
) -> dict[str, Any]:
    """Return what a job of a stage asks for; memory and time grow with each attempt.

    stage: inference, lora, full (a model on GPUs, or on a CPU if it is small), weights (fetch, fold, merge: CPU,
    `models` of them in memory), tables, fetch and videos (no model). billions: parameters of the model. devices:
    processes that train together, each on a GPU of its own, under the ZeRO stage `zero`. rank, dropout: of LoRA.
    tokens: of a row, those of its frames included. rows: in a forward pass of one device. checkpointing: of gradients.
    threads: of a process. splits: the engine can split a model over GPUs. answers: written to a question in inference,
    beams and samples among them. override: any of gpus, gpu_mem_gb, gpu_model, cpus, mem_gb, hours, nodes.

    Returns gpu (of the whole job), gpu_mem_gb (of each), gpu_model (None: any that is large enough), nodes, cpus and
    mem_mb (of each node), processes (on each node), runtime (minutes).
    """
    override = override or {}
    if stage not in HELD:
        # What fetches, folds and merges has no use for a GPU, nor for several nodes.
        override = {key: value for key, value in override.items() if key in ("cpus", "mem_gb", "hours")}
    grown = GROWTH ** (attempt - 1)
    weights = billions * BYTES[dtype]
    with_model = stage in HELD
    held = _held(stage, billions, dtype, devices, zero, rank, dropout, tokens, rows, checkpointing) if with_model else 0
    asked = devices
    if splits and stage == "inference":
        asked = next((n for n in SPLITS if 1.15 * held / n + 1 <= CARD_GB), SPLITS[-1])
        held /= asked
    gpus = override.get("gpus", asked if with_model and billions >= CPU_BILLIONS else 0)
    nodes = override.get("nodes", 1)
    processes = math.ceil(devices / nodes)
    if stage == "weights":
        memory = 2 + weights * (models + 1)
    elif with_model:
        memory = processes * (3 + (weights if gpus else 1.15 * held))
    else:
        memory = PLAIN[stage][1]
    beside = 1 + (TOGETHER if devices > 1 else 0)
    slower = 1 if gpus or not with_model else 4
    hours = PLAIN[stage][0] if stage in PLAIN else HOURS[stage] * max(billions, 0.5) * answers * slower / devices
    hours = override.get("hours", max(1 / 6, hours))
    # A GPU waits for what prepares its rows: four processors each, unless told otherwise.
    cpus = override.get("cpus", max(threads * processes, 4 * math.ceil(gpus / nodes)))
    return {
        "gpu": gpus,
        "gpu_mem_gb": math.ceil(grown * override.get("gpu_mem_gb", beside + 1.15 * held)) if gpus else 0,
        "gpu_model": override.get("gpu_model") if gpus else None,
        "nodes": nodes,
        "processes": processes,
        "cpus": cpus,
        "mem_mb": math.ceil(override.get("mem_gb", memory) * 1000 * grown),
        "runtime": math.ceil(hours * 60 * attempt),
    }


def job_needs(cfg: Config, stage: Stage, names: Sequence[str], attempt: int = 1) -> dict[str, Any]:
    """Return what one job of a stage needs. names: what it is named by, in the order of the stage's wildcards."""
    asked, name = stage.needed(cfg, *names), stage.model(cfg, *names)
    if name is None:
        return needs(asked, attempt=attempt)
    model, compute, load = cfg.find("models", name), cfg.compute_of(name), stage.workload(cfg, *names)
    settings: dict[str, Any] = {"threads": compute.threads, "models": len(model.parents), "rows": compute.batch_size}
    if asked == "inference":
        frames = max((frame_tokens(one.videos) for one in load["datasets"]), default=0)
        settings["tokens"] = PROMPT + load["answer"] + frames
        settings["rows"] = max(compute.batch_size, load.get("at_least", 1))
        settings |= {"answers": load.get("answers", 1), "splits": compute.engine == "vllm"}
    else:
        settings |= load
    override = model.needs.model_dump(exclude_none=True)
    return needs(asked, cfg.inherited(name, "parameters"), compute.dtype, attempt, override, **settings)


def frame_tokens(videos: Any) -> int:
    """Return how many tokens the frames of a video become at most: two frames share a token, as in Qwen2-VL."""
    return math.ceil(videos.frames / 2) * (videos.max_pixels // videos.multiple**2) if videos else 0


def shape(billions: float) -> tuple[float, float, float]:
    """Return the likely layers, width and vocabulary of a model of so many billions of parameters."""
    parameters = billions * 1e9
    layers = (parameters / (12 * 128**2)) ** (1 / 3)
    width = 128 * layers
    return layers, width, min(VOCABULARY, parameters / (2 * width))


def _held(stage, billions, dtype, devices, zero, rank, dropout, tokens, rows, checkpointing):
    """Return the GB that one device holds of a model at work."""
    size = BYTES[dtype]
    weights = billions * size
    layers, width, vocabulary = shape(billions)
    positions = tokens * rows
    if stage == "inference":
        layer = 34 * positions * width * size / 2 / 1e9
        cache = 2 * layers * positions * width / 4 * size / 1e9
        return weights + cache + layer + rows * 128 * vocabulary * 4 / 1e9
    if stage == "full":
        whole = 0 if zero == 3 else weights
        state = whole + (STATE * billions - whole) / devices + (weights if size == 2 and devices == 1 else 0)
    else:
        state = (weights / devices if zero == 3 else weights) + STATE * 20 * rank * layers * width / 1e9
    layer = KEPT["lora with dropout" if stage == "lora" and dropout else stage][size] * positions * width / 1e9
    kept = 2 * positions * width * size / 2 * layers / 1e9 + layer if checkpointing else layer * layers
    return state + kept + positions * vocabulary * (8 + size) / 1e9
