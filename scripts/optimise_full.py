"""Train every weight of a model to prefer the chosen answer of each pair, resuming from the last checkpoint."""

from moult.job import job
from moult.models import write_model_card
from moult.preference import read_pairs
from moult.training import finetune_full

if __name__ == "__main__":
    with job(snakemake) as running:
        train, dev = read_pairs(snakemake.input.data, running.recipe["data"], running.recipe["seed"])
        running.facts = finetune_full(
            running.recipe, snakemake.input.base, train, dev, running.scratch, snakemake.output.model
        )
        write_model_card(snakemake.output.model, running.card(snakemake.params.card))
