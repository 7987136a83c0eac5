"""Bring the raw files of a dataset together, checksums checked."""

from moult.job import job
from moult.tables import fetch_dataset

if __name__ == "__main__":
    with job(snakemake) as running:
        fetch_dataset(running.recipe["sources"], snakemake.input.local, snakemake.output.raw)
