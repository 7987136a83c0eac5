"""One long table of all scores, and paired differences between models."""

import csv

from moult.base.files import write_csv
from moult.evaluation import pairwise
from moult.evaluation.scores import COLUMNS, DIFFERENCES, differences
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        rows = []
        for path in snakemake.input.scores:
            with open(path, encoding="utf-8") as handle:
                rows += csv.DictReader(handle)
        write_csv(snakemake.output.summary, rows, COLUMNS)
        predicted = map(tuple, snakemake.params.predicted)
        predictions = dict(zip(predicted, snakemake.input.predictions, strict=True))
        judgements = dict(zip(map(tuple, snakemake.params.judged), snakemake.input.judgements, strict=True))
        rows = [*differences(running.recipe, predictions), *pairwise.differences(running.recipe, judgements)]
        write_csv(snakemake.output.differences, rows, DIFFERENCES)
