"""Turn raw tables into one parquet per split, with rejects and a profile."""

from moult.job import job
from moult.tables import prepare_dataset

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = prepare_dataset(
            running.recipe,
            snakemake.input.raw,
            snakemake.output.dataset,
            videos=snakemake.input.get("videos"),
            scratch=running.scratch,
            workers=snakemake.threads,
        )
