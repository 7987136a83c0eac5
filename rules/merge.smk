# Several models into one. Which merge is best is for the evaluation to say.


rule merge_models:
    input:
        models=parent_models,
        model_manifests=parent_manifests,
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    log:
        "<logs>/merge_models/{model}.log",
    benchmark:
        "<benchmarks>/merge_models/{model}.tsv"
    wildcard_constraints:
        model=one_of(MERGED),
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("weights"),
    params:
        recipe=recipe_of(recipes.merge),
        names=parent_names,
        card=card_of,
    message:
        "merge_models: merging {params.names} into {wildcards.model} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/merge_models.py"


rule models:
    input:
        collect("<results>/models/{model}", model=cfg.kept_models),
