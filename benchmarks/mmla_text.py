"""Zero-shot, SFT and instruction tuning on real MMLA rows: `python benchmarks/mmla_text.py DATA`.

DATA holds MOSI/, MUStARD/, MIntRec/ and AnnoMi-client/ with train.tsv and dev.tsv, and MELD/ with dev.tsv. Builds in
WORK (default: scratch/mmla_text); writes benchmarks/<experiment>.csv and prints it as a table.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COLUMNS = "seed suite model dataset method n accuracy ci_low ci_high against difference diff_low diff_high".split()
COLUMNS += ["p_mcnemar", "majority"]


def build(experiment, data, work, seed):
    """Build one seed of an experiment of this folder; return its results folder."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "mmla").exists():
        (work / "mmla").symlink_to(data.resolve())
    name = f"{experiment.replace('_', '-')}-{seed}"
    command = [sys.executable, "-m", "snakemake", "--snakefile", HERE.parent / "Snakefile", "--directory", work]
    command += ["--configfile", HERE / f"{experiment}.yaml", "--config", f"name={name}", f"seed={seed}"]
    command += ["--cores", "2", "--scheduler", "greedy", "--rerun-incomplete"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    return work / "results" / name


def read(path):
    """Return the rows of a CSV file."""
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def rows_of(results, seed):
    """Yield a row per suite, model, dataset and method, and where it is compared, one per comparison."""
    scores = read(results / "scores" / "summary.csv")
    key = ("suite", "model", "dataset", "method")
    majority = {row["dataset"]: row["value"] for row in scores if row["metric"] == "majority_accuracy"}
    paired = {}
    for row in read(results / "scores" / "differences.csv"):
        told = {"against": row["against"], "difference": row["difference"], "p_mcnemar": row["p_mcnemar"]}
        told |= {"diff_low": row["ci_low"], "diff_high": row["ci_high"]}
        paired.setdefault(tuple(row[name] for name in key), []).append(told)
    for row in scores:
        if row["metric"] == "accuracy":
            place = tuple(row[name] for name in key)
            one = dict(zip(key, place, strict=True)) | {"seed": seed, "n": row["n"], "accuracy": row["value"]}
            one |= {"ci_low": row["ci_low"], "ci_high": row["ci_high"], "majority": majority.get(row["dataset"], "")}
            yield from (one | told for told in paired.get(place, [{}]))


def percent(row, *names):
    """Return numbers of a row in percent."""
    return [100 * float(row[name]) for name in names]


def table(rows):
    """Return Markdown: a line per model, dataset and method, every seed and comparison in it."""
    lines = [
        "| model | dataset | n | method | accuracy [95% interval] | paired difference [95% interval], McNemar's p |"
    ]
    lines.append("|---|---|---|---|---|---|")
    keys = dict.fromkeys((row["dataset"], row["method"], row["model"], row["n"]) for row in rows)
    for dataset, method, model, n in keys:
        # A mean is of the datasets of its suite, which `n` tells apart.
        key = (dataset, method, model, n)
        mine = [row for row in rows if (row["dataset"], row["method"], row["model"], row["n"]) == key]
        seeds = {row["seed"]: percent(row, "accuracy", "ci_low", "ci_high") for row in mine}
        told = "; ".join(f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in seeds.values())
        if len(seeds) > 1:
            told += f"; mean {statistics.mean(value for value, _, _ in seeds.values()):.1f}"
        gains = []
        for row in mine:
            if row.get("against"):
                value, low, high = percent(row, "difference", "diff_low", "diff_high")
                p = f", p {float(row['p_mcnemar']):.3f}" if row["p_mcnemar"] else ""
                gains.append(f"{row['against']}: {value:+.1f} [{low:+.1f}, {high:+.1f}]{p}")
        lines.append(f"| {model} | {dataset} | {n} | {method} | {told} | {'; '.join(gains) or '–'} |")
    majorities = {row["dataset"]: float(row["majority"]) for row in rows if row["majority"]}
    told = ", ".join(f"{dataset} {value:.1%}" for dataset, value in majorities.items())
    return "\n".join([*lines, "", f"Majority class of train, where there is a train file: {told}."])


def short_table(rows):
    """Return Markdown for one seed: a line per dataset and method, a column per model; + or − where the paired interval
    of the difference from the first model leaves out 0.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = ["| dataset | n | method | majority | " + " | ".join(models) + " |", "|---" * (4 + len(models)) + "|"]
    for dataset, method in dict.fromkeys((row["dataset"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["dataset"], row["method"]) == (dataset, method)]
        cells = []
        for model in models:
            of = [row for row in mine if row["model"] == model]
            first = next((row for row in of if row.get("against") == models[0]), None)
            mark = "" if first is None else "+" * (float(first["diff_low"]) > 0) + "−" * (float(first["diff_high"]) < 0)
            cells.append(f"{percent(of[0], 'accuracy')[0]:.1f}{mark}" if of else "–")
        majority = f"{percent(mine[0], 'majority')[0]:.1f}" if mine[0]["majority"] else "–"
        lines.append(f"| {dataset} | {mine[0]['n']} | {method} | {majority} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("scratch/mmla_text"))
    parser.add_argument("--experiment", choices=["mmla_text", "mmla_merging"], default="mmla_text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    found = []
    for seed in options.seeds:
        found += rows_of(build(options.experiment, options.data, options.work, seed), seed)
    with open(HERE / f"{options.experiment}.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    print(table(found))
    if len(options.seeds) == 1:
        print("", short_table(found), sep="\n")
