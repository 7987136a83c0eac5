"""The model under training writes a guideline for each question (METEOR stage 1)."""

from moult.corpora.generated import make_corpus
from moult.data.questions import question_rows
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        rows = question_rows(snakemake.input.questions, running.recipe["splits"])
        running.facts = make_corpus(running, rows, "guideline", snakemake.input, snakemake.output)
