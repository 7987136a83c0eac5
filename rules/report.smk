# Tables, pictures and the report, out of score files and manifests. Never touches a model.


rule tabulate_scores:
    input:
        **{
            folder: [f"<results>/{folder}/{suite}/{name}.jsonl" for suite, name in names]
            for folder, names in MEASUREMENTS.items()
        },
        scores=[f"<results>/scores/{suite}/{name}.csv" for suite, name in SCORED],
    output:
        summary=report("<results>/scores/summary.csv", category="Scores", caption="../resources/report/summary.rst"),
        differences=report(
            "<results>/scores/differences.csv", category="Scores", caption="../resources/report/differences.rst"
        ),
    log:
        "<logs>/tabulate_scores.log",
    benchmark:
        "<benchmarks>/tabulate_scores.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    params:
        **MEASUREMENTS,
        recipe=recipes.tabulate_scores(cfg),
    message:
        "tabulate_scores: tabulating all scores " "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/tabulate_scores.py"


rule plot_scores:
    input:
        summary="<results>/scores/summary.csv",
    output:
        plot=report("<results>/plots/{suite}.svg", category="Scores", caption="../resources/report/plot.rst"),
    log:
        "<logs>/plot_scores/{suite}.log",
    benchmark:
        "<benchmarks>/plot_scores/{suite}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    message:
        "plot_scores: plotting the scores of {wildcards.suite} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/plot_scores.py"


rule plot_confusion:
    input:
        predictions=answers,
        datasets=asked_datasets,
        dataset_manifests=asked_manifests,
    output:
        plot=report(
            "<results>/plots/confusion/{suite}/{measured}.svg",
            category="Scores",
            caption="../resources/report/confusion.rst",
        ),
    log:
        "<logs>/plot_confusion/{suite}/{measured}.log",
    benchmark:
        "<benchmarks>/plot_confusion/{suite}/{measured}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    params:
        recipe=recipe_of(recipes.plot_confusion),
    message:
        "plot_confusion: plotting which labels {wildcards.measured} takes for which on {wildcards.suite} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/plot_confusion.py"


rule write_report:
    input:
        summary="<results>/scores/summary.csv",
        differences="<results>/scores/differences.csv",
        plots=collect("<results>/plots/{suite}.svg", suite=cfg.names("suites")),
        confusion=[f"<results>/plots/confusion/{suite}/{name}.svg" for suite, name in MEASURED],
        manifests=report_manifests,
        leakage=collect("<results>/leakage/{dataset}.csv", dataset=cfg.names("datasets")),
    output:
        report="<results>/report/index.html",
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    params:
        recipe=recipes.write_report(cfg),
    message:
        "write_report: writing the report " "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/write_report.py"


rule report:
    input:
        "<results>/report/index.html",
