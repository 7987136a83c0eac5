"""Train one LoRA adapter to prefer the chosen answer of each pair, resuming from the last checkpoint."""

from moult.job import job
from moult.preference import read_pairs
from moult.training import finetune_lora

if __name__ == "__main__":
    with job(snakemake) as running:
        train, dev = read_pairs(snakemake.input.data, running.recipe["data"], running.recipe["seed"])
        running.facts = finetune_lora(
            running.recipe, snakemake.input.base, train, dev, running.scratch, snakemake.output.adapter
        )
