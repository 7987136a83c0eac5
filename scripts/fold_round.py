"""Fold the adapters of all rounds up to one into the full weights that the next round works with."""

from moult.jobs.job import job
from moult.weights.folding import earlier_adapters, fold_adapter

if __name__ == "__main__":
    with job(snakemake) as running:
        before = earlier_adapters(snakemake.input.adapter_manifest)
        running.facts = fold_adapter(snakemake.input.adapter, snakemake.input.base, snakemake.output.model, before)
