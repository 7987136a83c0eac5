"""One model answers the questions that a judge will compare the answers to."""

from moult.base.files import write_jsonl
from moult.evaluation.judging import answer_questions
from moult.inference.asking import asker_of
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running, asker_of(running, snakemake.input, "model") as asker:
        folders = dict(zip(running.recipe["questions"]["datasets"], snakemake.input.datasets, strict=True))
        rows = answer_questions(running.recipe, folders, asker)
        write_jsonl(snakemake.output.answers, rows)
        running.facts = {"rows": len(rows), "failed": sum(row["status"] != "ok" for row in rows)}
