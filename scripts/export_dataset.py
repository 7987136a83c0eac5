"""Write a dataset or corpus as LLaMA-Factory's JSON, with the prompts that training gets."""

from moult.data.exports import export_dataset
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = export_dataset(running.recipe, snakemake.input.data, snakemake.output.export)
