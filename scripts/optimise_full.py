"""Train every weight of a model to prefer the chosen answer of each pair, resuming from the last checkpoint."""

from moult.jobs.job import job
from moult.training.finetune import finetune_full
from moult.training.pairs import read_pairs
from moult.weights.card import write_model_card

if __name__ == "__main__":
    with job(snakemake) as running:
        train, dev = read_pairs(snakemake.input.data, running.recipe["data"], running.recipe["seed"])
        running.facts = finetune_full(
            running.recipe, snakemake.input.base, train, dev, running.scratch, snakemake.output.model
        )
        write_model_card(snakemake.output.model, running.card(snakemake.params.card))
