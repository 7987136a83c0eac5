"""List the rows of one split that stand in another too."""

from moult.data.leakage import check_leakage
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        running.facts = check_leakage(running.recipe, snakemake.input.dataset, snakemake.output.table)
