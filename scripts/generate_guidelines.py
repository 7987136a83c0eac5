"""The model under training writes a guideline for each question (METEOR stage 1)."""

from moult.corpora.generated import make_corpus
from moult.data.questions import question_rows
from moult.inference.asking import asker_of
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running, asker_of(running, snakemake.input) as asker:
        rows = question_rows(snakemake.input.questions, running.recipe["splits"])
        running.facts = make_corpus(running.recipe, rows, "guideline", asker, snakemake.output)
