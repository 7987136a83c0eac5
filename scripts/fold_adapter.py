"""Fold a LoRA adapter into the full weights of its base."""

from moult.folding import fold_adapter
from moult.job import job
from moult.models import write_model_card

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = fold_adapter(snakemake.input.adapter, snakemake.input.base, snakemake.output.model)
        write_model_card(snakemake.output.model, running.card(snakemake.params.card) | running.facts)
