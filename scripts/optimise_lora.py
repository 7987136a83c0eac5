"""Train one LoRA adapter to prefer the chosen answer of each pair, resuming from the last checkpoint."""

from moult.jobs.job import job
from moult.training.finetune import finetune_lora
from moult.training.pairs import read_pairs

if __name__ == "__main__":
    with job(snakemake) as running:
        train, dev = read_pairs(snakemake.input.data, running.recipe["data"], running.recipe["seed"])
        running.facts = finetune_lora(
            running.recipe, snakemake.input.base, train, dev, running.scratch, snakemake.output.adapter
        )
