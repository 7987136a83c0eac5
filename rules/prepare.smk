# Raw files into canonical tables; models into Hugging Face layout.


rule fetch_dataset:
    input:
        local=local_sources,
    output:
        raw=directory("<results>/raw/{dataset}"),
        manifest="<results>/raw/{dataset}.manifest.json",
    log:
        "<logs>/fetch_dataset/{dataset}.log",
    benchmark:
        "<benchmarks>/fetch_dataset/{dataset}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("fetch"),
    params:
        recipe=recipe_of(recipes.fetch_dataset),
    message:
        "fetch_dataset: fetching the raw files of {wildcards.dataset} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/fetch_dataset.py"


rule fetch_videos:
    output:
        videos=directory("<results>/videos/{dataset}"),
        manifest="<results>/videos/{dataset}.manifest.json",
    log:
        "<logs>/fetch_videos/{dataset}.log",
    benchmark:
        "<benchmarks>/fetch_videos/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(FETCHED_VIDEOS),
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("videos"),
    params:
        recipe=recipe_of(recipes.fetch_videos),
    message:
        "fetch_videos: fetching the videos of {wildcards.dataset} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/fetch_videos.py"


rule prepare_dataset:
    input:
        unpack(prepared_from),
    output:
        dataset=directory("<results>/datasets/{dataset}"),
        manifest="<results>/datasets/{dataset}.manifest.json",
    log:
        "<logs>/prepare_dataset/{dataset}.log",
    benchmark:
        "<benchmarks>/prepare_dataset/{dataset}.tsv"
    conda:
        "../envs/tables.yaml"
    threads: decoding_threads
    resources:
        **needs_of(preparation),
    params:
        recipe=recipe_of(recipes.prepare_dataset),
    message:
        "prepare_dataset: preparing {wildcards.dataset}: canonical rows, rejects, profile "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/prepare_dataset.py"


rule check_leakage:
    input:
        dataset=ancient("<results>/datasets/{dataset}"),
        dataset_manifest="<results>/datasets/{dataset}.manifest.json",
    output:
        table="<results>/leakage/{dataset}.csv",
    log:
        "<logs>/check_leakage/{dataset}.log",
    benchmark:
        "<benchmarks>/check_leakage/{dataset}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    params:
        recipe=recipe_of(recipes.check_leakage),
    message:
        "check_leakage: looking for rows of {wildcards.dataset} that stand in two splits "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/check_leakage.py"


rule fetch_model:
    input:
        local=local_model,
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    log:
        "<logs>/fetch_model/{model}.log",
    benchmark:
        "<benchmarks>/fetch_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(FETCHED),
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("weights"),
    params:
        recipe=recipe_of(recipes.fetch_model),
        card=card_of,
    message:
        "fetch_model: fetching the model {wildcards.model} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/fetch_model.py"


rule datasets:
    input:
        collect("<results>/datasets/{dataset}", dataset=cfg.names("datasets")),
        collect("<results>/leakage/{dataset}.csv", dataset=cfg.names("datasets")),
