"""A model answers, a judge says what is wrong, the model revises (METEOR stage 2)."""

from moult.corpora.refined import check_rounds, refine_answers, slice_of, write_refined
from moult.data.questions import asked_rows
from moult.inference.asking import asker_of
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        inputs, splits = snakemake.input, running.recipe["splits"]
        rows = asked_rows(inputs, splits)
        if running.client["round"]:
            check_rounds(running.client["round"], len(rows), inputs.questions)
        rows = slice_of(rows, running.recipe)
        with asker_of(running, inputs) as asker, asker_of(running, inputs, "judge", asker.room) as judge:
            result = refine_answers(running.recipe, rows, asker, judge)
        outputs = (snakemake.output.corpus, snakemake.output.rejects, snakemake.output.usage)
        running.facts = write_refined(*outputs, result, may_be_empty=running.recipe["may_be_empty"])
