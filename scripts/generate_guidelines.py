"""The model under training writes a guideline for each question (METEOR stage 1)."""

from moult.corpora import generate_corpus, question_rows, write_corpus
from moult.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        result = generate_corpus(
            running.recipe,
            question_rows(snakemake.input.questions, running.recipe["splits"]),
            "guideline",
            journal=running.journal,
            endpoint_model=snakemake.input.get("served"),
            endpoint_manifest=snakemake.input.get("served_manifest"),
        )
        out = snakemake.output
        running.facts = write_corpus(out.corpus, out.rejects, out.usage, result)
