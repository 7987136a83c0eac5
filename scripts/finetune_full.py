"""Train every weight of a model, resuming from the last whole checkpoint of the same work."""

from moult.data.examples import training_examples
from moult.jobs.job import job
from moult.training.finetune import finetune_full
from moult.weights.card import write_model_card

if __name__ == "__main__":
    with job(snakemake) as running:
        templates = running.recipe["data"]
        (train, no_train), (dev, no_dev) = (
            training_examples(snakemake.input.data, templates, split) for split in ("train", "dev")
        )
        facts = finetune_full(
            running.recipe,
            snakemake.input.base,
            train,
            dev,
            running.scratch,
            snakemake.output.model,
            snakemake.input.data,
        )
        running.facts = facts | {"dropped": no_train + no_dev + facts["dropped"]}
        write_model_card(snakemake.output.model, running.card(snakemake.params.card))
