"""Our merges beside mergekit-yaml: `python benchmarks/merging.py [--billions 0.66] [--repeats 1] [--of-forty 40]`.

The parents are made here: a random Llama of so many parameters in bfloat16, and two of it by noise of a hundredth of
its spread. Both sides are fresh processes on one thread that merge the same parents, from settings written by hand
below; ours without the job's hashing and card, mergekit's without its card. Writes benchmarks/merging.csv: seconds of
CPU with imports (of the clock beside them), the largest resident set, and the share of entries that differ: with
methods that select by magnitude, equal ones at the edge.

Then forty merges of the same parents, by five methods, four densities and two weights: ours in one pass, mergekit's
one after another, each hashed and deleted. `--of-forty 5` measures five of mergekit's, spread over methods and
densities, and multiplies. What it takes to write forty such models alone stands beside them.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 11
PARENTS = {"base": 0, "left": 1, "right": 2}
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "breadcrumbs", "sce", "dare_ties")
SELECTING = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")
FORTY = ("ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties")
# A process counts the memory of the one that started it as its own: this one is small.
STARTER = """import json, os, subprocess, sys
_, status, used = os.wait4(subprocess.Popen(sys.argv[2:]).pid, 0)
with open(sys.argv[1], "w") as handle:
    json.dump([status, used.ru_utime + used.ru_stime, used.ru_maxrss], handle)
"""
COLUMNS = ("merge", "moult_cpu_s", "mergekit_cpu_s", "cpu_ratio", "moult_wall_s", "mergekit_wall_s")
COLUMNS += ("moult_gb", "mergekit_gb", "differing", "measured")


def merge_of(method, density=0.5, weight=0.5):
    """Return a merge of the two parents as a recipe of ours."""
    thinned = method not in ("linear", "slerp", "task_arithmetic", "sce")
    own = {} if method in ("slerp", "sce") else {"weight": weight}
    own |= {"density": density} if thinned else {}
    base = {"linear": None, "slerp": "left"}.get(method, "base")
    parameters = {"slerp": {"t": 0.4}, "sce": {"select_topk": density}}.get(method, {})
    recipe = {"method": method, "base": base, "parents": [{"model": name} | own for name in ("left", "right")]}
    recipe |= {"parameters": parameters, "dtype": "bfloat16", "seed": SEED, "threads": 1}
    return recipe | ({"order": "stable"} if method in SELECTING else {})


def as_yaml(recipe):
    """Return the same merge as mergekit's configuration; JSON is YAML."""
    models = [
        {"model": one["model"], "parameters": {key: value for key, value in one.items() if key != "model"}}
        for one in recipe["parents"]
    ]
    base = {"base_model": recipe["base"]} if recipe["base"] else {}
    settings = {"merge_method": recipe["method"], "models": models, "parameters": recipe["parameters"]}
    return json.dumps(settings | base | {"dtype": recipe["dtype"]})


def make_parents(billions, work):
    """Write a random Llama with the vocabulary and the proportions of Qwen2.5-0.5B, and two parents made of it."""
    import torch
    from safetensors.torch import save_file

    width = 896 if billions > 0.1 else 112
    vocabulary = 151_936 if billions > 0.1 else 8_192
    inner, keys = 5 * width, width // 7
    layer = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    size = sum(one[0] * (one[1] if len(one) > 1 else 1) for one in layer.values())
    layers = max(1, round((billions * 1e9 - vocabulary * width) / size))
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 14 if billions > 0.1 else 7,
        "num_key_value_heads": 2 if billions > 0.1 else 1,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    for name, seed in PARENTS.items():
        tensors = {}
        for place, (tensor, shape) in enumerate(sorted(shapes.items())):
            weights = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(place))
            if seed:
                noise = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + place))
                weights = weights + 2e-4 * noise
            tensors[tensor] = weights.to(torch.bfloat16)
        (work / name).mkdir()
        save_file(tensors, work / name / "model.safetensors", {"format": "pt"})
        (work / name / "config.json").write_text(json.dumps(config))
    return sum(tensor.numel() for tensor in tensors.values())


def forty():
    """Return name → recipe of the forty merges."""
    return {
        f"{method}-{density}-{weight}": merge_of(method, density, weight)
        | ({"masks": "by_name"} if "dare" in method else {})
        for density in (0.2, 0.4, 0.6, 0.8)
        for method in FORTY
        for weight in (0.5, 1.0)
    }


def ours(target):
    """Merge as the job does, recipes from standard input; this is what the fresh process of our side runs."""
    sys.path.insert(0, str(HERE.parent / "scripts"))
    recipes, folders = json.load(sys.stdin), {name: name for name in PARENTS}
    if len(recipes) == 1:
        from moult.weights.merging import merge_models

        merge_models(next(iter(recipes.values())), folders, target)
    else:
        from moult.weights.sweeping import merge_sweep

        merge_sweep(recipes, folders, target)


def run(command, work, given=""):
    """Run a command in the folder of the parents; return its CPU and wall seconds, and largest resident set in GB."""
    environment = os.environ | {
        "PYTHONPYCACHEPREFIX": str(work / "caches"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    (work / "given").write_text(given)
    begun = time.monotonic()
    with open(work / "printed", "w") as printed, open(work / "given") as standard_input:
        subprocess.run(
            [sys.executable, "-c", STARTER, "used", *command],
            cwd=work,
            env=environment,
            stdin=standard_input,
            stdout=printed,
            stderr=subprocess.STDOUT,
            check=True,
        )
    status, cpu, size = json.loads((work / "used").read_text())
    if status:
        raise SystemExit((work / "printed").read_text()[-4000:])
    return cpu, time.monotonic() - begun, size * 1024 / 1e9


def run_ours(recipes, work):
    shutil.rmtree(work / "ours", ignore_errors=True)
    return run([sys.executable, str(Path(__file__).resolve()), "--run", "ours"], work, json.dumps(recipes))


def run_theirs(recipe, work):
    shutil.rmtree(work / "theirs", ignore_errors=True)
    (work / "merge.yaml").write_text(as_yaml(recipe))
    command = [str(Path(sys.executable).with_name("mergekit-yaml")), "merge.yaml", "theirs"]
    return run([*command, "--random-seed", str(SEED), "--no-write-model-card"], work)


def differing(one, other):
    """Return the share of entries in which two folders differ."""
    from safetensors import safe_open

    different = total = 0
    with safe_open(one / "model.safetensors", "pt") as ours, safe_open(other / "model.safetensors", "pt") as theirs:
        assert set(ours.keys()) == set(theirs.keys())
        for name in ours.keys():  # noqa: SIM118
            mine = ours.get_tensor(name)
            different += int((mine != theirs.get_tensor(name)).sum())
            total += mine.numel()
    return different / total


def row(name, mine, its, share, measured):
    """Return a row of the table, and print it; mine, its: CPU and wall seconds and GB."""
    values = dict(zip(COLUMNS, [name, *(["?"] * 9)], strict=True))
    for side, (cpu, wall, size) in (("moult", mine), ("mergekit", its)):
        values |= {f"{side}_cpu_s": f"{cpu:.1f}", f"{side}_wall_s": f"{wall:.1f}", f"{side}_gb": f"{size:.2f}"}
    values |= {"cpu_ratio": f"{mine[0] / its[0]:.3f}", "differing": share, "measured": measured}
    print(", ".join(f"{key} {value}" for key, value in values.items()), flush=True)
    return values


def median(runs):
    return sorted(runs)[len(runs) // 2]


def compare(method, repeats, work):
    """Return the row of one merge: both sides in turn."""
    recipe, runs = merge_of(method), []
    for _ in range(repeats):
        runs.append((run_ours({method: recipe}, work), run_theirs(recipe, work)))
    share = differing(work / "ours", work / "theirs")
    mine, its = (median([pair[side] for pair in runs]) for side in (0, 1))
    return row(method, mine, its, f"{share:.2g}", f"{repeats} of {repeats}")


def compare_forty(measured, work):
    """Return the rows of forty merges, and of writing forty models alone."""
    recipes = forty()
    mine = run_ours(recipes, work)
    begun = time.process_time()
    for name in recipes:
        _hash_and_delete(work / "ours" / name)
    hashing = time.process_time() - begun
    names = list(recipes)[:: max(1, len(recipes) // measured)][:measured]
    runs = []
    for name in names:
        runs.append(run_theirs(recipes[name], work))
        _hash_and_delete(work / "theirs")
    scale = len(recipes) / len(runs)
    its = tuple(sum(one[place] for one in runs) * scale for place in (0, 1)) + (max(one[2] for one in runs),)
    print(f"hashing forty took {hashing:.1f} s of CPU, on either side; it is in neither")
    rows = [row("forty merges", mine, its, "", f"{len(runs)} of {len(recipes)}")]
    content = (work / "base" / "model.safetensors").read_bytes()
    begun, clock = time.process_time(), time.monotonic()
    for _ in recipes:
        with open(work / "written", "wb") as handle:
            handle.write(content)
            os.fsync(handle.fileno())
        (work / "written").unlink()
    writing = time.process_time() - begun, time.monotonic() - clock, 0
    return [*rows, row("forty models written, no merge", writing, its, "", "")]


def _hash_and_delete(folder):
    with open(folder / "model.safetensors", "rb") as handle:
        hashlib.file_digest(handle, "sha256")
    shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        ours(*sys.argv[2:])
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--billions", type=float, default=0.66, help="parameters of the parents")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--of-forty", type=int, default=40, help="how many of mergekit's forty are measured; 0: none")
    parser.add_argument("--csv", type=Path, default=HERE / "merging.csv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="merging-", dir=os.environ.get("TMPDIR")) as folder:
        work, rows = Path(folder), []
        print(f"parents of {make_parents(options.billions, work) / 1e9:.3f} B parameters", flush=True)
        for method in options.methods:
            rows.append(compare(method, options.repeats, work))
        if options.of_forty:
            rows += compare_forty(options.of_forty, work)
    with open(options.csv, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
