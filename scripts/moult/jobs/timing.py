"""Where the time of a build went: `python -m moult.jobs.timing logs/<experiment>` reads the rules' logs."""

import re
import sys
from collections import defaultdict
from pathlib import Path

# Every log line carries the seconds since the process began; `ready` says that imports and loading are over.
STAMP = re.compile(r"\+(\d+\.\d) s (.*)")


def job_times(log: Path) -> tuple[float, float] | None:
    """Return (seconds until the work began, seconds in all) of one job's log; None for a job that did not end."""
    ready = total = None
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if found := STAMP.search(line):
            if ready is None and found[2].startswith("ready"):
                ready = float(found[1])
            if found[2].startswith("done in"):
                total = float(found[1])
    return None if total is None else (total if ready is None else ready, total)


def startup_table(folder: str | Path) -> list[str]:
    """Return the lines of a table: rule, jobs, seconds, the share of start-up (imports, loading a model)."""
    times = defaultdict(list)
    for log in sorted(Path(folder).rglob("*.log")):
        if found := job_times(log):
            times[log.relative_to(folder).parts[0].removesuffix(".log")].append(found)
    lines = [f"{'rule':22}{'jobs':>5}{'seconds':>9}{'start-up':>10}"]
    for rule, mine in sorted(times.items(), key=lambda item: -sum(total for _, total in item[1])):
        ready, total = (sum(column) for column in zip(*mine, strict=True))
        lines.append(f"{rule:22}{len(mine):5}{total:9.1f}{ready / total:10.0%}")
    every = [pair for mine in times.values() for pair in mine]
    ready, total = (sum(column) for column in zip(*every, strict=True)) if every else (0, 1)
    lines.append(f"{'all, side by side':22}{len(every):5}{total:9.1f}{ready / total:10.0%}")
    return lines


if __name__ == "__main__":
    print("\n".join(startup_table(sys.argv[1])))
