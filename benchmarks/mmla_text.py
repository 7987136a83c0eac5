"""Zero-shot, SFT, instruction tuning and merging on real MMLA rows, three seeds: `python benchmarks/mmla_text.py DATA`.

DATA holds MOSI/ and MUStARD/ with train.tsv and dev.tsv. Builds in WORK (default: scratch/mmla_text), an hour on two
cores; writes benchmarks/mmla_text.csv and prints it as a table.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEEDS = (1, 2, 3)
COLUMNS = "seed model dataset n accuracy ci_low ci_high against_zero_shot diff_low diff_high majority".split()


def build(data, work, seed):
    """Build one seed; return its results folder."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "mmla").exists():
        (work / "mmla").symlink_to(data.resolve())
    command = [sys.executable, "-m", "snakemake", "--snakefile", HERE.parent / "Snakefile", "--directory", work]
    command += ["--configfile", HERE / "mmla_text.yaml", "--config", f"name=mmla-text-{seed}", f"seed={seed}"]
    command += ["--cores", "2", "--scheduler", "greedy", "--rerun-incomplete", "--", "scores"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    return work / "results" / f"mmla-text-{seed}"


def rows_of(results, seed):
    """Yield one table row per model and dataset, intervals as the build wrote them."""
    with open(results / "scores" / "summary.csv", encoding="utf-8") as handle:
        scores = [row for row in csv.DictReader(handle) if row["metric"] in ("accuracy", "majority_accuracy")]
    with open(results / "scores" / "differences.csv", encoding="utf-8") as handle:
        paired = {(row["model"], row["dataset"]): row for row in csv.DictReader(handle)}
    majority = {row["dataset"]: row["value"] for row in scores if row["metric"] == "majority_accuracy"}
    for row in scores:
        if row["metric"] == "accuracy":
            difference = paired.get((row["model"], row["dataset"]), {})
            yield {
                "seed": seed,
                "model": row["model"],
                "dataset": row["dataset"],
                "n": row["n"],
                "accuracy": row["value"],
                "ci_low": row["ci_low"],
                "ci_high": row["ci_high"],
                "against_zero_shot": difference.get("difference", ""),
                "diff_low": difference.get("ci_low", ""),
                "diff_high": difference.get("ci_high", ""),
                "majority": majority.get(row["dataset"], ""),
            }


def table(rows):
    """Return Markdown: mean accuracy over the seeds, and per seed accuracy and its interval."""
    lines = [
        "| model | dataset | n | mean over seeds | per seed: accuracy [95% interval] | seeds whose paired gain over "
    ]
    lines[0] += "zero-shot excludes 0 |"
    lines.append("|---|---|---|---|---|---|")
    for model, dataset in dict.fromkeys((row["model"], row["dataset"]) for row in rows if row["majority"]):
        mine = [row for row in rows if (row["model"], row["dataset"]) == (model, dataset)]
        each = [
            f"{float(row['accuracy']):.1%} [{float(row['ci_low']):.0%}, {float(row['ci_high']):.0%}]" for row in mine
        ]
        gains = sum(bool(row["diff_low"]) and float(row["diff_low"]) > 0 for row in mine)
        mean = statistics.mean(float(row["accuracy"]) for row in mine)
        gained = f"{gains} of {len(mine)}" if mine[0]["diff_low"] else "–"
        lines.append(f"| {model} | {dataset} | {mine[0]['n']} | {mean:.1%} | {'; '.join(each)} | {gained} |")
    majorities = {row["dataset"]: float(row["majority"]) for row in rows if row["majority"]}
    told = ", ".join(f"{dataset} {value:.1%}" for dataset, value in majorities.items())
    return "\n".join([*lines, "", f"Majority class of train: {told}."])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("scratch/mmla_text"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    found = [row for seed in options.seeds for row in rows_of(build(options.data, options.work, seed), seed)]
    with open(HERE / "mmla_text.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    print(table(found))
