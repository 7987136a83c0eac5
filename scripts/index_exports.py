"""Write one dataset_info.json for all exports of an experiment."""

from moult.job import job
from moult.llamafactory import index_exports

if __name__ == "__main__":
    with job(snakemake):
        index_exports(snakemake.input.exports, snakemake.output.index)
