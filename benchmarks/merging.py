"""Our merge job beside `mergekit-yaml`: `python benchmarks/merging.py MODEL [--repeats 3]`.

MODEL is a folder in Hugging Face layout; two more parents are made of it by seeded noise. Both sides are fresh
processes that merge the same parents from settings written by hand below; ours without the job's hashing and card,
mergekit's without its card. Compares every tensor, and seconds with imports. Writes benchmarks/merging.csv.

Seconds are of CPU, which neighbours on a machine disturb less than the clock; the clock stands beside them. Bytecode is
cached, as it is where pip installed the packages. Ten minutes with SmolLM2-135M on one core.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 11
PARENTS = {"base": 0, "left": 1, "right": 2}

# mergekit's own configuration, as its users write it, and the same merge as a recipe of ours.
MERGES = {
    "linear": (
        """
merge_method: linear
models:
  - {model: left, parameters: {weight: 0.3}}
  - {model: right, parameters: {weight: 0.7}}
dtype: bfloat16
""",
        {"parents": [{"model": "left", "weight": 0.3}, {"model": "right", "weight": 0.7}]},
    ),
    "slerp": (
        """
merge_method: slerp
base_model: left
models: [{model: left}, {model: right}]
parameters: {t: 0.4}
dtype: bfloat16
""",
        {"base": "left", "parents": [{"model": "left"}, {"model": "right"}], "parameters": {"t": 0.4}},
    ),
    "task_arithmetic": (
        """
merge_method: task_arithmetic
base_model: base
models:
  - {model: left, parameters: {weight: 0.4}}
  - {model: right, parameters: {weight: 0.6}}
dtype: bfloat16
""",
        {"base": "base", "parents": [{"model": "left", "weight": 0.4}, {"model": "right", "weight": 0.6}]},
    ),
    "ties": (
        """
merge_method: ties
base_model: base
models:
  - {model: left, parameters: {weight: 0.5, density: 0.5}}
  - {model: right, parameters: {weight: 0.5, density: 0.5}}
parameters: {normalize: true}
dtype: bfloat16
""",
        {
            "base": "base",
            "parents": [{"model": name, "weight": 0.5, "density": 0.5} for name in ("left", "right")],
            "parameters": {"normalize": True},
        },
    ),
    "dare_ties": (
        """
merge_method: dare_ties
base_model: base
models:
  - {model: left, parameters: {weight: 0.5, density: 0.6}}
  - {model: right, parameters: {weight: 0.5, density: 0.6}}
dtype: bfloat16
""",
        {
            "base": "base",
            "parents": [{"model": name, "weight": 0.5, "density": 0.6} for name in ("left", "right")],
        },
    ),
}


def make_parents(model, work):
    """Write the base and two parents: its tensors and a hundredth of their spread as noise."""
    import torch
    from safetensors.torch import load_file, save_file

    for name, seed in PARENTS.items():
        folder = work / name
        shutil.copytree(model, folder)
        for file in folder.glob("*.safetensors") if seed else []:
            generator = torch.Generator().manual_seed(seed)
            tensors = load_file(file)
            for key, tensor in sorted(tensors.items()):
                noise = torch.randn(tensor.shape, generator=generator)
                tensors[key] = (tensor.float() + 0.01 * tensor.float().std() * noise).to(tensor.dtype)
            save_file(tensors, file, {"format": "pt"})


def ours(method, target):
    """Merge as the job does; this is what the fresh process of our side runs."""
    sys.path.insert(0, str(HERE.parent / "scripts"))
    from moult.weights.merging import merge_models

    recipe = {"method": method, "base": None, "parameters": {}, "dtype": "bfloat16", "seed": SEED, "threads": 1}
    merge_models(recipe | MERGES[method][1], {name: name for name in PARENTS}, target)


def run(command, work, caches):
    """Run a command in the folder of the parents; return its CPU and wall seconds."""
    environment = os.environ | {
        "PYTHONPYCACHEPREFIX": str(caches),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    begun = time.monotonic()
    with open(work / "printed", "w") as printed:
        child = subprocess.Popen(command, cwd=work, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit((work / "printed").read_text()[-4000:])
    return used.ru_utime + used.ru_stime, time.monotonic() - begun


def tensors_of(folder):
    """Return every tensor of a model folder by name."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def equal(one, other):
    """Return whether two folders hold the same tensors, bit for bit."""
    ours, theirs = tensors_of(one), tensors_of(other)
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def compare(method, repeats, work):
    """Return one row: both sides in turn, `repeats` times after a warm-up, and whether their tensors are equal."""
    (work / f"{method}.yaml").write_text(MERGES[method][0])
    mergekit = [str(Path(sys.executable).with_name("mergekit-yaml")), f"{method}.yaml", "theirs"]
    commands = {
        "moult": [sys.executable, str(Path(__file__).resolve()), "--run", method, "ours"],
        "mergekit": [*mergekit, "--random-seed", str(SEED), "--no-write-model-card"],
    }
    runs = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            shutil.rmtree(work / {"moult": "ours", "mergekit": "theirs"}[name], ignore_errors=True)
            runs[name].append(run(command, work, work / "caches"))
    cpu, wall = (
        {name: statistics.median(one[place] for one in kept[1:]) for name, kept in runs.items()} for place in (0, 1)
    )
    same = equal(work / "ours", work / "theirs")
    print(
        f"{method}: ours {cpu['moult']:.1f} s CPU ({wall['moult']:.1f} wall), mergekit-yaml {cpu['mergekit']:.1f} "
        f"({wall['mergekit']:.1f}): {cpu['moult'] / cpu['mergekit']:.2f} x; tensors {'equal' if same else 'DIFFER'}",
        flush=True,
    )
    return [
        method,
        *(f"{value:.1f}" for value in (cpu["moult"], cpu["mergekit"], wall["moult"], wall["mergekit"])),
        f"{cpu['moult'] / cpu['mergekit']:.2f}",
        same,
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        ours(*sys.argv[2:])
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side after the warm-up")
    parser.add_argument("--methods", nargs="+", choices=MERGES, default=list(MERGES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="merging-") as folder:
        make_parents(options.model, Path(folder))
        rows = [compare(method, options.repeats, Path(folder)) for method in options.methods]
    with open(HERE / "merging.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        header = ["method", "moult_cpu_s", "mergekit_cpu_s", "moult_wall_s", "mergekit_wall_s", "cpu_ratio", "equal"]
        writer.writerows([header, *rows])
