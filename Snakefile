"""Moult: raw tables in; distilled data, LoRA adapters, merged weights and evaluation tables out."""

from snakemake.utils import min_version

min_version("9.19")


include: "rules/common.smk"


pathvars:
    results=f"results/{cfg.name}",
    logs=f"logs/{cfg.name}",
    benchmarks=f"logs/{cfg.name}/benchmarks",


# With `--sdm apptainer`, in place of the rules' conda environments.
if "MOULT_CONTAINER" in os.environ:

    container: os.environ.get("MOULT_CONTAINER")


include: "rules/jobs.smk"
include: "rules/prepare.smk"
include: "rules/generate.smk"
include: "rules/train.smk"
include: "rules/merge.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/export.smk"
include: "rules/publish.smk"


# Everything the config names, and the report on it. The models are listed because Snakemake does not rebuild a
# missing intermediate whose results are current.
rule all:
    # A workflow that takes this one as a module has a target of its own.
    default_target: OURS
    input:
        rules.report.input,
        rules.datasets.input,
        rules.corpora.input,
        rules.adapters.input,
        rules.models.input,
        rules.scores.input,
