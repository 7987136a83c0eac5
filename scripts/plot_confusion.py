"""Draw the confusion matrices of a model or a setting on the datasets of a suite."""

from moult.base.files import read_json, read_jsonl, write_text_atomic
from moult.evaluation.scores import confusion_tables
from moult.jobs.job import job
from moult.report.plots import draw_confusion

if __name__ == "__main__":
    with job(snakemake) as running:
        predictions = [row for path in snakemake.input.predictions for row in read_jsonl(path)]
        names = zip(running.recipe["datasets"], snakemake.input.datasets, strict=True)
        labels = {name: read_json(f"{folder}/labels.json")["labels"] for name, folder in names}
        write_text_atomic(snakemake.output.plot, draw_confusion(confusion_tables(running.recipe, predictions, labels)))
