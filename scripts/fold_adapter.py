"""Fold a LoRA adapter into the full weights of its base, for a round's model with those of the rounds before."""

from moult.jobs.job import job
from moult.weights.card import write_model_card
from moult.weights.folding import earlier_adapters, fold_adapter

if __name__ == "__main__":
    with job(snakemake) as running:
        before = earlier_adapters(snakemake.input.adapter_manifest)
        running.facts = fold_adapter(snakemake.input.adapter, snakemake.input.base, snakemake.output.model, before)
        write_model_card(snakemake.output.model, running.card(snakemake.params.card) | running.facts)
