"""One long table of all scores, and paired differences between models."""

import csv
from pathlib import Path

from moult.base.files import write_csv
from moult.evaluation.scores import COLUMNS, DIFFERENCES
from moult.evaluation.suites import KINDS
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        rows = []
        for path in snakemake.input.scores:
            with open(path, encoding="utf-8") as handle:
                rows += csv.DictReader(handle)
        write_csv(snakemake.output.summary, rows, COLUMNS)
        rows = []
        for kind in KINDS:
            paths = {Path(path).with_suffix("").parts[-2:]: path for path in snakemake.input[kind.measurement]}
            rows += kind.differences(running.recipe, paths)
        write_csv(snakemake.output.differences, rows, DIFFERENCES)
