"""A stronger endpoint answers each question, following its guideline where there is one."""

from moult.corpora import generate_corpus, question_rows, write_corpus
from moult.files import read_jsonl
from moult.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        splits = running.recipe["splits"]
        if "guidelines" in snakemake.input.keys():
            rows = [row for row in read_jsonl(snakemake.input.guidelines) if row["split"] in splits]
        else:
            rows = question_rows(snakemake.input.questions, splits)
        result = generate_corpus(
            running.recipe,
            rows,
            "answer",
            journal=running.journal,
            endpoint_model=snakemake.input.get("served"),
            endpoint_manifest=snakemake.input.get("served_manifest"),
        )
        out = snakemake.output
        running.facts = write_corpus(out.corpus, out.rejects, out.usage, result)
