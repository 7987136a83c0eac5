"""A stronger endpoint answers each question, following its guideline where there is one."""

from moult.corpora import make_corpus, question_rows
from moult.files import read_jsonl
from moult.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        splits = running.recipe["splits"]
        if "guidelines" in snakemake.input.keys():
            rows = [row for row in read_jsonl(snakemake.input.guidelines) if row["split"] in splits]
        else:
            rows = question_rows(snakemake.input.questions, splits)
        running.facts = make_corpus(running, rows, "answer", snakemake.input, snakemake.output)
