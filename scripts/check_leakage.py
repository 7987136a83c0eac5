"""List the rows of one split that stand in another too."""

from moult.job import job
from moult.tables import check_leakage

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = check_leakage(running.recipe, snakemake.input.dataset, snakemake.output.table)
