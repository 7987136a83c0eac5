"""Turn raw tables into one parquet per split, with rejects and a profile."""

from moult.data.prepare import prepare_dataset
from moult.jobs.job import job

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
