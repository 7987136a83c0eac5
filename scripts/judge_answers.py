"""A judge compares the answers of a model, or of a corpus, with those of the one it is set against."""

from collections import Counter

from moult.base.files import write_json, write_jsonl
from moult.evaluation.judging import answers_in, judge_answers, sampled_questions
from moult.inference.asking import asker_of
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running, asker_of(running, snakemake.input) as asker:
        recipe, inputs = running.recipe, snakemake.input
        folders = dict(zip(recipe["questions"]["datasets"], inputs.datasets, strict=True))
        rows, usage = judge_answers(
            recipe,
            sampled_questions(recipe["questions"], folders),
            answers_in(inputs.ours),
            answers_in(inputs.theirs),
            asker,
        )
        write_json(snakemake.output.usage, usage)
        write_jsonl(snakemake.output.judgements, rows)
        running.facts = {"rows": len(rows), "status": dict(sorted(Counter(row["status"] for row in rows).items()))}
