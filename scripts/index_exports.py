"""Write one dataset_info.json for all exports of an experiment."""

from moult.data.exports import index_exports
from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake):
        index_exports(snakemake.input.exports, snakemake.output.index)
