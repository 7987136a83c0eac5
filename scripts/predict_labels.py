"""Predict the labels of every dataset of a suite with one model, by every method, in one model load."""

from moult.base.files import write_jsonl
from moult.data.videos.frames import Frames
from moult.evaluation.labels import predict_labels
from moult.inference.asking import asker_of
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        folders = dict(zip(running.recipe["datasets"], snakemake.input.datasets, strict=True))
        with asker_of(running, snakemake.input, "model", frames=Frames(folders.values())) as asker:
            rows = predict_labels(running.recipe, folders, asker)
        write_jsonl(snakemake.output.predictions, rows)
        running.facts = {"rows": len(rows)}
