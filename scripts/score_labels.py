"""Score the label predictions of a model or a setting: metrics with intervals, baselines, published values."""

from moult.base.files import read_jsonl, write_csv
from moult.evaluation.scores import COLUMNS, score_labels
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        folders = dict(zip(running.recipe["datasets"], snakemake.input.datasets, strict=True))
        predictions = [row for path in snakemake.input.predictions for row in read_jsonl(path)]
        rows = score_labels(running.recipe, predictions, folders)
        write_csv(snakemake.output.scores, rows, COLUMNS)
