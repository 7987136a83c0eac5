"""The script of every rule: the function that its stage names does the job."""

from importlib import import_module

from moult.jobs.job import job

if __name__ == "__main__":
    with job(snakemake) as running:
        module, function = snakemake.params.run.split(":")
        getattr(import_module(module), function)(running)
