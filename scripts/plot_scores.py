"""Draw the scores of one suite."""

from moult.base.files import read_csv, write_text_atomic
from moult.jobs.job import job
from moult.report.plots import draw_scores

if __name__ == "__main__":
    with job(snakemake):
        rows = [row for row in read_csv(snakemake.input.summary) if row["suite"] == snakemake.wildcards.suite]
        write_text_atomic(snakemake.output.plot, draw_scores(rows))
