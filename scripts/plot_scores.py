"""Draw the scores of one suite."""

from moult.files import write_text_atomic
from moult.job import job
from moult.pictures import draw_scores
from moult.report import read_csv

if __name__ == "__main__":
    with job(snakemake):
        rows = [row for row in read_csv(snakemake.input.summary) if row["suite"] == snakemake.wildcards.suite]
        write_text_atomic(snakemake.output.plot, draw_scores(rows))
