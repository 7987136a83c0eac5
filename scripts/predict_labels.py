"""Predict the labels of every dataset of a suite with one model, by every method, in one model load."""

from moult.base.files import write_jsonl
from moult.evaluation.labels import predict_labels
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        folders = dict(zip(running.recipe["datasets"], snakemake.input.datasets, strict=True))
        rows = predict_labels(
            running.recipe, snakemake.input.model, snakemake.input.model_manifest, folders, running.journal
        )
        write_jsonl(snakemake.output.predictions, rows)
        running.facts = {"rows": len(rows)}
