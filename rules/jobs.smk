# What all jobs have in common: log, benchmark, message, script; with the packages for tables, and with those for models.


rule on_tables:
    log:
        "<logs>/<job>.log",
    benchmark:
        "<benchmarks>/<job>.tsv"
    # Each rule that inherits this names its own jobs.
    pathvars:
        job="none",
    conda:
        "../envs/tables.yaml"
    message:
        "{rule}: {params.doing} ({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"


rule on_models:
    log:
        "<logs>/<job>.log",
    benchmark:
        "<benchmarks>/<job>.tsv"
    # Each rule that inherits this names its own jobs.
    pathvars:
        job="none",
    conda:
        "../envs/models.yaml"
    message:
        "{rule}: {params.doing} ({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/run_stage.py"
