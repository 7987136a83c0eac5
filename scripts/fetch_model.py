"""Fetch a model into Hugging Face layout, with a card."""

from moult.jobs.job import job
from moult.weights.card import write_model_card
from moult.weights.fetch import fetch_model

if __name__ == "__main__":
    with job(snakemake) as running:
        source = running.recipe["source"] or {"path": snakemake.input.local[0]}
        facts = fetch_model(source, snakemake.output.model, running.recipe.get("dtype"))
        write_model_card(snakemake.output.model, running.card(snakemake.params.card) | facts)
        running.facts = facts
