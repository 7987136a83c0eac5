"""One HTML file that tells what was built from what, how good it is, and what it cost."""

from moult.jobs.job import job
from moult.report.page import write_report
from moult.stages import STAGES

if __name__ == "__main__":
    with job(snakemake) as running:
        write_report(
            snakemake.output.report,
            summary=snakemake.input.summary,
            differences=snakemake.input.differences,
            plots=snakemake.input.plots,
            confusion=snakemake.input.confusion,
            manifests=snakemake.input.manifests,
            leakage=snakemake.input.leakage,
            title=running.recipe["title"],
            limit=running.recipe["limit"],
            seed=running.recipe["seed"],
            words={stage.rule: stage.words for stage in STAGES},
        )
