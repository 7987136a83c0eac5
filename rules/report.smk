# Tables, pictures and the report, out of score files and manifests. Never touches a model.


rule tabulate_scores:
    input:
        scores=[f"<results>/scores/{suite}/{model}.csv" for suite, model in EVALUATED],
        predictions=[f"<results>/predictions/{suite}/{model}.jsonl" for suite, model in PREDICTED],
        judgements=[f"<results>/judgements/{suite}/{model}.jsonl" for suite, model in JUDGEMENTS],
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
        mem_mb=need("tables", "mem_mb"),
        runtime=need("tables", "runtime"),
    params:
        recipe=recipes.tabulate_scores(cfg),
        evaluated=PREDICTED,
        judged=JUDGEMENTS,
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
        mem_mb=need("tables", "mem_mb"),
        runtime=need("tables", "runtime"),
    message:
        "plot_scores: plotting the scores of {wildcards.suite} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/plot_scores.py"


rule write_report:
    input:
        summary="<results>/scores/summary.csv",
        differences="<results>/scores/differences.csv",
        plots=collect("<results>/plots/{suite}.svg", suite=cfg.names("suites")),
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
        mem_mb=need("tables", "mem_mb"),
        runtime=need("tables", "runtime"),
    params:
        recipe=recipes.write_report(cfg),
    message:
        "write_report: writing the report " "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/write_report.py"


rule report:
    input:
        "<results>/report/index.html",
