"""Score one model's judgements: criteria, win shares, consistency of the judge, published values."""

from moult.files import read_jsonl
from moult.job import job
from moult.labelling import COLUMNS, write_csv
from moult.verdicts import score_judgements

if __name__ == "__main__":
    with job(snakemake) as running:
        judgements = [row for path in snakemake.input.judgements for row in read_jsonl(path)]
        write_csv(snakemake.output.scores, score_judgements(running.recipe, judgements), COLUMNS)
