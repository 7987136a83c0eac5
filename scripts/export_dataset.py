"""Write a dataset or corpus as LLaMA-Factory's JSON, with the prompts that training gets."""

from moult.job import job
from moult.llamafactory import export_dataset

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = export_dataset(running.recipe, snakemake.input.data, snakemake.output.export)
