"""Score one model's judgements: criteria, win shares, consistency of the judge, published values."""

from moult.base.files import read_jsonl, write_csv
from moult.evaluation.pairwise import score_judgements
from moult.evaluation.scores import COLUMNS
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        judgements = [row for path in snakemake.input.judgements for row in read_jsonl(path)]
        write_csv(snakemake.output.scores, score_judgements(running.recipe, judgements), COLUMNS)
