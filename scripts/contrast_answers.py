"""A model answers each question twice, with much and with little computing: pairs to prefer by (METEOR stage 3)."""

from moult.corpora.contrasts import contrast_answers
from moult.data.questions import asked_rows
from moult.inference.asking import asker_of
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running, asker_of(running, snakemake.input) as asker:
        rows = asked_rows(snakemake.input, running.recipe["splits"])
        running.facts = contrast_answers(running.recipe, rows, asker, snakemake.output)
