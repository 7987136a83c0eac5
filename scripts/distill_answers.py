"""A stronger endpoint answers each question, following its guideline where there is one."""

from moult.corpora.generated import make_corpus
from moult.data.questions import asked_rows
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        rows = asked_rows(snakemake.input, running.recipe["splits"])
        running.facts = make_corpus(running, rows, "answer", snakemake.input, snakemake.output)
