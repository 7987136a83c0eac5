"""What jobs used of what they had asked for: `python -m moult.planning.efficiency CONFIG`.

Reads the last build's benchmarks. Needs no accounting database, so that it works on one machine too.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

from moult.base.errors import UserError
from moult.config.experiment import Config
from moult.config.load import load_file
from moult.planning.needs import job_needs
from moult.stages import BY_RULE


def used(path: str | Path) -> tuple[float, float, float] | None:
    """Return (minutes, MB, CPU seconds per second) of one benchmark file; None where Snakemake could not measure."""
    with open(path, encoding="utf-8") as handle:
        row = next(csv.DictReader(handle, delimiter="\t"))
    try:
        seconds, memory, cpu = (float(row[key]) for key in ("s", "max_rss", "cpu_time"))
    except ValueError:
        # A job of less than a second.
        return None
    return seconds / 60, memory, cpu / max(seconds, 1e-9)


def efficiency_table(cfg: Config, folder: str | Path) -> list[list[str]]:
    """Return one line of cells per rule: the number of its jobs, and the largest share of time, memory and CPUs that a
    job used of what it had asked for."""
    found = defaultdict(list)
    for path in sorted(Path(folder).rglob("*.tsv")):
        rule, *names = path.relative_to(folder).with_suffix("").parts
        stage = BY_RULE.get(rule)
        if stage is None or tuple(names) not in stage.names(cfg):
            # Of a build whose config named it.
            continue
        asked = job_needs(cfg, stage, names)
        if measured := used(path):
            found[rule].append((measured, asked))
    lines = []
    for rule, jobs in found.items():
        minutes, memory = (max(one[0][place] for one in jobs) for place in (0, 1))
        shares = [
            max(minutes / asked["runtime"] for (minutes, _, _), asked in jobs),
            max(memory / asked["mem_mb"] for (_, memory, _), asked in jobs),
            max(load / asked["cpus"] for (_, _, load), asked in jobs),
        ]
        lines.append(
            [rule, str(len(jobs)), f"{minutes:.1f} min", f"{memory:.0f} MB", *(f"{one:.0%}" for one in shares)]
        )
    return lines


HEADINGS = ["rule", "jobs", "longest", "largest", "of its time", "of its memory", "of its CPUs"]


def main(config: str | Path) -> None:
    """Print the table of a config's last build."""
    cfg = load_file(config)
    lines = efficiency_table(cfg, Path("logs") / cfg.name / "benchmarks")
    if not lines:
        raise UserError(f"logs/{cfg.name}/benchmarks: nothing has been built of {config} in this folder.")
    widths = [max(map(len, column)) for column in zip(HEADINGS, *lines, strict=True)]
    for line in [HEADINGS, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print(
        "\nShares are the largest over a rule's jobs; the rest was asked for in vain, and `needs` of a model lowers it."
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except UserError as error:
        sys.exit(str(error))
