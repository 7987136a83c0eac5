"""A stronger endpoint answers each question, following its guideline where there is one."""

from moult.corpora.generated import make_corpus
from moult.data.questions import asked_rows
from moult.inference.asking import asker_of
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running, asker_of(running, snakemake.input) as asker:
        rows = asked_rows(snakemake.input, running.recipe["splits"])
        running.facts = make_corpus(running.recipe, rows, "answer", asker, snakemake.output)
