"""Write one dataset_info.json for all exports of an experiment."""

from moult.exports import index_exports
from moult.job import job

if __name__ == "__main__":
    with job(snakemake):
        index_exports(snakemake.input.exports, snakemake.output.index)
