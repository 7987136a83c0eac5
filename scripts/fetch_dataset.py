"""Bring the raw files of a dataset together, checksums checked."""

from moult.data.fetch import fetch_dataset
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        fetch_dataset(running.recipe["sources"], snakemake.input.local, snakemake.output.raw)
