# The bare side of planning.py: the shape of its experiment in plain strings, what Snakemake itself costs.

UNITS = range(int(config["units"]))
VARIANTS = ["a", "b", "c"]
DATASETS = [f"{kind}-{n}" for n in UNITS for kind in ("questions", "labels")]
CORPORA = [f"{kind}-{n}" for n in UNITS for kind in ("guidelines", "distilled")]
TUNED = [f"tuned-{variant}-{n}" for n in UNITS for variant in VARIANTS]
MERGED = [f"merged-{n}" for n in UNITS]
EVALUATED = [
    f"suite-{n}/{model}"
    for n in UNITS
    for model in ["base", *(f"tuned-{variant}-{n}" for variant in VARIANTS), f"merged-{n}"]
]


wildcard_constraints:
    n=r"\d+",
    variant="[abc]",
    dataset=r"(questions|labels)-\d+",


localrules:
    all,


rule all:
    default_target: True
    input:
        "results/report/index.html",
        expand("results/datasets/{dataset}", dataset=DATASETS),
        expand("results/leakage/{dataset}.csv", dataset=DATASETS),
        expand("results/corpora/{corpus}.jsonl", corpus=CORPORA),
        expand("results/adapters/{model}", model=TUNED),
        expand("results/models/{model}", model=["base", *TUNED, *MERGED]),
        "results/scores/summary.csv",
        "results/scores/differences.csv",


rule fetch_dataset:
    input:
        local=["data/{dataset}/train.tsv", "data/{dataset}/dev.tsv", "data/{dataset}/test.tsv"],
    output:
        raw=directory("results/raw/{dataset}"),
        manifest="results/raw/{dataset}.manifest.json",
    log:
        "logs/fetch_dataset/{dataset}.log",
    benchmark:
        "benchmarks/fetch_dataset/{dataset}.tsv"
    retries: 2
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{dataset}",
    message:
        "fetch_dataset: fetching the raw files of {wildcards.dataset} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule prepare_dataset:
    input:
        raw=ancient("results/raw/{dataset}"),
        raw_manifest="results/raw/{dataset}.manifest.json",
    output:
        dataset=directory("results/datasets/{dataset}"),
        manifest="results/datasets/{dataset}.manifest.json",
    log:
        "logs/prepare_dataset/{dataset}.log",
    benchmark:
        "benchmarks/prepare_dataset/{dataset}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{dataset}",
    message:
        "prepare_dataset: preparing {wildcards.dataset}: canonical rows, rejects, profile "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule check_leakage:
    input:
        dataset=ancient("results/datasets/{dataset}"),
        dataset_manifest="results/datasets/{dataset}.manifest.json",
    output:
        table="results/leakage/{dataset}.csv",
    log:
        "logs/check_leakage/{dataset}.log",
    benchmark:
        "benchmarks/check_leakage/{dataset}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{dataset}",
    message:
        "check_leakage: looking for rows of {wildcards.dataset} that stand in two splits "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule fetch_model:
    input:
        local=["data/base"],
    output:
        model=directory("results/models/base"),
        manifest="results/models/base.manifest.json",
    log:
        "logs/fetch_model/base.log",
    benchmark:
        "benchmarks/fetch_model/base.tsv"
    retries: 2
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="base",
        card="base",
    message:
        "fetch_model: fetching the model base ({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule generate_guidelines:
    input:
        questions=ancient("results/datasets/questions-{n}"),
        questions_manifest="results/datasets/questions-{n}.manifest.json",
        served=ancient("results/models/base"),
        served_manifest="results/models/base.manifest.json",
    output:
        corpus="results/corpora/guidelines-{n}.jsonl",
        rejects="results/corpora/guidelines-{n}.rejects.jsonl",
        usage="results/corpora/guidelines-{n}.usage.json",
        manifest="results/corpora/guidelines-{n}.manifest.json",
    log:
        "logs/generate_guidelines/guidelines-{n}.log",
    benchmark:
        "benchmarks/generate_guidelines/guidelines-{n}.tsv"
    priority: 10
    retries: 2
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        gpu=0,
        gpu_mem_gb=0,
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{n}",
    message:
        "generate_guidelines: writing the guidelines guidelines-{wildcards.n} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule distill_answers:
    input:
        guidelines="results/corpora/guidelines-{n}.jsonl",
        guidelines_manifest="results/corpora/guidelines-{n}.manifest.json",
        served=ancient("results/models/base"),
        served_manifest="results/models/base.manifest.json",
    output:
        corpus="results/corpora/distilled-{n}.jsonl",
        rejects="results/corpora/distilled-{n}.rejects.jsonl",
        usage="results/corpora/distilled-{n}.usage.json",
        manifest="results/corpora/distilled-{n}.manifest.json",
    log:
        "logs/distill_answers/distilled-{n}.log",
    benchmark:
        "benchmarks/distill_answers/distilled-{n}.tsv"
    priority: 10
    retries: 2
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        gpu=0,
        gpu_mem_gb=0,
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{n}",
    message:
        "distill_answers: distilling the answers distilled-{wildcards.n} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule finetune_lora:
    input:
        base=ancient("results/models/base"),
        base_manifest="results/models/base.manifest.json",
        data=[ancient("results/corpora/distilled-{n}.jsonl"), ancient("results/datasets/labels-{n}")],
        data_manifests=[
            "results/corpora/distilled-{n}.manifest.json",
            "results/datasets/labels-{n}.manifest.json",
        ],
        leakage=[ancient("results/leakage/questions-{n}.csv"), ancient("results/leakage/labels-{n}.csv")],
    output:
        adapter=directory("results/adapters/tuned-{variant}-{n}"),
        manifest="results/adapters/tuned-{variant}-{n}.manifest.json",
    log:
        "logs/finetune_lora/tuned-{variant}-{n}.log",
    benchmark:
        "benchmarks/finetune_lora/tuned-{variant}-{n}.tsv"
    priority: 5
    retries: 2
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        gpu=0,
        gpu_mem_gb=0,
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{variant}-{n}",
    message:
        "finetune_lora: training the adapter of tuned-{wildcards.variant}-{wildcards.n} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule fold_adapter:
    input:
        adapter=ancient("results/adapters/tuned-{variant}-{n}"),
        adapter_manifest="results/adapters/tuned-{variant}-{n}.manifest.json",
        base=ancient("results/models/base"),
        base_manifest="results/models/base.manifest.json",
    output:
        model=directory("results/models/tuned-{variant}-{n}"),
        manifest="results/models/tuned-{variant}-{n}.manifest.json",
    log:
        "logs/fold_adapter/tuned-{variant}-{n}.log",
    benchmark:
        "benchmarks/fold_adapter/tuned-{variant}-{n}.tsv"
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{variant}-{n}",
        card="{variant}-{n}",
    message:
        "fold_adapter: folding the adapter of tuned-{wildcards.variant}-{wildcards.n} into full weights "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule merge_models:
    input:
        models=[
            ancient("results/models/tuned-a-{n}"),
            ancient("results/models/tuned-b-{n}"),
            ancient("results/models/base"),
        ],
        model_manifests=[
            "results/models/tuned-a-{n}.manifest.json",
            "results/models/tuned-b-{n}.manifest.json",
            "results/models/base.manifest.json",
        ],
    output:
        model=directory("results/models/merged-{n}"),
        manifest="results/models/merged-{n}.manifest.json",
    log:
        "logs/merge_models/merged-{n}.log",
    benchmark:
        "benchmarks/merge_models/merged-{n}.tsv"
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{n}",
        names="{n}",
        card="{n}",
    message:
        "merge_models: merging {params.names} into merged-{wildcards.n} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule predict_labels:
    input:
        model=ancient("results/models/{model}"),
        model_manifest="results/models/{model}.manifest.json",
        datasets=[ancient("results/datasets/labels-{n}")],
        dataset_manifests=["results/datasets/labels-{n}.manifest.json"],
    output:
        predictions="results/predictions/suite-{n}/{model}.jsonl",
        manifest="results/predictions/suite-{n}/{model}.manifest.json",
    log:
        "logs/predict_labels/suite-{n}/{model}.log",
    benchmark:
        "benchmarks/predict_labels/suite-{n}/{model}.tsv"
    retries: 2
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        gpu=0,
        gpu_mem_gb=0,
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{n}/{model}",
    message:
        "predict_labels: predicting the labels of suite-{wildcards.n} with {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule score_labels:
    input:
        predictions=["results/predictions/suite-{n}/{model}.jsonl"],
        prediction_manifests=["results/predictions/suite-{n}/{model}.manifest.json"],
        datasets=[ancient("results/datasets/labels-{n}")],
        dataset_manifests=["results/datasets/labels-{n}.manifest.json"],
    output:
        scores="results/scores/suite-{n}/{model}.csv",
        manifest="results/scores/suite-{n}/{model}.manifest.json",
    log:
        "logs/score_labels/suite-{n}/{model}.log",
    benchmark:
        "benchmarks/score_labels/suite-{n}/{model}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{n}/{model}",
    message:
        "score_labels: scoring {wildcards.model} on suite-{wildcards.n} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule tabulate_scores:
    input:
        scores=[f"results/scores/{evaluated}.csv" for evaluated in EVALUATED],
        predictions=[f"results/predictions/{evaluated}.jsonl" for evaluated in EVALUATED],
    output:
        summary=report("results/scores/summary.csv", category="Scores"),
        differences=report("results/scores/differences.csv", category="Scores"),
    log:
        "logs/tabulate_scores.log",
    benchmark:
        "benchmarks/tabulate_scores.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="",
        predicted="",
    message:
        "tabulate_scores: tabulating all scores ({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule plot_scores:
    input:
        summary="results/scores/summary.csv",
    output:
        plot=report("results/plots/suite-{n}.svg", category="Scores"),
    log:
        "logs/plot_scores/suite-{n}.log",
    benchmark:
        "benchmarks/plot_scores/suite-{n}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "plot_scores: plotting the scores of suite-{wildcards.n} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule plot_confusion:
    input:
        predictions=["results/predictions/suite-{n}/{model}.jsonl"],
        datasets=[ancient("results/datasets/labels-{n}")],
        dataset_manifests=["results/datasets/labels-{n}.manifest.json"],
    output:
        plot=report("results/plots/confusion/suite-{n}/{model}.svg", category="Scores"),
    log:
        "logs/plot_confusion/suite-{n}/{model}.log",
    benchmark:
        "benchmarks/plot_confusion/suite-{n}/{model}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="{n}/{model}",
    message:
        "plot_confusion: plotting which labels {wildcards.model} takes for which on suite-{wildcards.n} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule write_report:
    input:
        summary="results/scores/summary.csv",
        differences="results/scores/differences.csv",
        plots=expand("results/plots/suite-{n}.svg", n=UNITS),
        confusion=[f"results/plots/confusion/{evaluated}.svg" for evaluated in EVALUATED],
        manifests=[
            *expand("results/datasets/{dataset}.manifest.json", dataset=DATASETS),
            *expand("results/corpora/{corpus}.manifest.json", corpus=CORPORA),
            *expand("results/adapters/{model}.manifest.json", model=TUNED),
            *expand("results/models/{model}.manifest.json", model=["base", *TUNED, *MERGED]),
            *expand("results/predictions/{evaluated}.manifest.json", evaluated=EVALUATED),
            *expand("results/scores/{evaluated}.manifest.json", evaluated=EVALUATED),
        ],
        leakage=expand("results/leakage/{dataset}.csv", dataset=DATASETS),
    output:
        report="results/report/index.html",
    log:
        "logs/write_report.log",
    benchmark:
        "benchmarks/write_report.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        recipe="",
    message:
        "write_report: writing the report ({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"
