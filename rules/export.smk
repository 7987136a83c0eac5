# Data on its way to other trainers. No part of `all`: ask for the target `exports`, or for one of its folders.


rule export_dataset:
    input:
        data=exported_data,
        data_manifest=exported_manifest,
    output:
        export=directory("<results>/exports/{export}"),
        manifest="<results>/exports/{export}.manifest.json",
    log:
        "<logs>/export_dataset/{export}.log",
    benchmark:
        "<benchmarks>/export_dataset/{export}.tsv"
    wildcard_constraints:
        export=one_of(cfg.names("datasets") + DISTILLED),
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    params:
        recipe=recipe_of(recipes.export_dataset),
    message:
        "export_dataset: writing {wildcards.export} as LLaMA-Factory reads it "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/export_dataset.py"


rule index_exports:
    input:
        exports=collect("<results>/exports/{export}", export=EXPORTED),
        manifests=collect("<results>/exports/{export}.manifest.json", export=EXPORTED),
    output:
        index="<results>/exports/dataset_info.json",
    log:
        "<logs>/index_exports.log",
    benchmark:
        "<benchmarks>/index_exports.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    message:
        "index_exports: writing one dataset_info.json for all exports "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/index_exports.py"


rule exports:
    input:
        "<results>/exports/dataset_info.json",
