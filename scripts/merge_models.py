"""Merge the weights of several models with mergekit, after checking that they fit together."""

from moult.jobs.job import job
from moult.weights.card import write_model_card
from moult.weights.merging import merge_models

if __name__ == "__main__":
    with job(snakemake) as running:
        folders = dict(zip(snakemake.params.names, snakemake.input.models, strict=True))
        running.facts = merge_models(running.recipe, folders, snakemake.output.model)
        write_model_card(snakemake.output.model, running.card(snakemake.params.card) | running.facts)
