# One adapter per job, then full weights out of it; or full weights at once.


rule finetune_lora:
    input:
        unpack(adapter_base),
        data=training_data,
        data_manifests=training_manifests,
        leakage=training_leakage,
    output:
        adapter=directory("<results>/adapters/{model}"),
        manifest="<results>/adapters/{model}.manifest.json",
    log:
        "<logs>/finetune_lora/{model}.log",
    benchmark:
        "<benchmarks>/finetune_lora/{model}.tsv"
    wildcard_constraints:
        model=one_of(FINETUNED_LORA),
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: training_threads
    resources:
        **needs_of("lora"),
    params:
        recipe=recipe_of(recipes.finetune),
    message:
        "finetune_lora: training the adapter of {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/finetune_lora.py"


rule finetune_full:
    input:
        base=ancient(base_model),
        base_manifest=base_manifest,
        data=training_data,
        data_manifests=training_manifests,
        leakage=training_leakage,
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    log:
        "<logs>/finetune_full/{model}.log",
    benchmark:
        "<benchmarks>/finetune_full/{model}.tsv"
    wildcard_constraints:
        model=one_of(FINETUNED_FULL),
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: training_threads
    resources:
        **needs_of("full"),
    params:
        recipe=recipe_of(recipes.finetune),
        card=card_of,
    message:
        "finetune_full: training all weights of {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/finetune_full.py"


rule optimise_lora:
    input:
        base=ancient(base_model),
        base_manifest=base_manifest,
        data=training_data,
        data_manifests=training_manifests,
        leakage=training_leakage,
    output:
        adapter=directory("<results>/adapters/{model}"),
        manifest="<results>/adapters/{model}.manifest.json",
    log:
        "<logs>/optimise_lora/{model}.log",
    benchmark:
        "<benchmarks>/optimise_lora/{model}.tsv"
    wildcard_constraints:
        model=one_of(OPTIMISED_LORA),
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: training_threads
    resources:
        **needs_of("lora"),
    params:
        recipe=recipe_of(recipes.optimise),
    message:
        "optimise_lora: optimising the adapter of {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/optimise_lora.py"


rule optimise_full:
    input:
        base=ancient(base_model),
        base_manifest=base_manifest,
        data=training_data,
        data_manifests=training_manifests,
        leakage=training_leakage,
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    log:
        "<logs>/optimise_full/{model}.log",
    benchmark:
        "<benchmarks>/optimise_full/{model}.tsv"
    wildcard_constraints:
        model=one_of(OPTIMISED_FULL),
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: training_threads
    resources:
        **needs_of("full"),
    params:
        recipe=recipe_of(recipes.optimise),
        card=card_of,
    message:
        "optimise_full: optimising all weights of {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/optimise_full.py"


rule fold_adapter:
    input:
        adapter=ancient("<results>/adapters/{model}"),
        adapter_manifest="<results>/adapters/{model}.manifest.json",
        base=ancient(folded_into),
        base_manifest=folded_into_manifest,
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    log:
        "<logs>/fold_adapter/{model}.log",
    benchmark:
        "<benchmarks>/fold_adapter/{model}.tsv"
    wildcard_constraints:
        model=one_of(LORA),
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("weights"),
    params:
        recipe=recipe_of(recipes.fold_adapter),
        card=card_of,
    message:
        "fold_adapter: folding the adapter of {wildcards.model} into full weights "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/fold_adapter.py"


# The full weights of a round, for as long as the next round works with them.
rule fold_round:
    input:
        adapter=ancient("<results>/adapters/{model}"),
        adapter_manifest="<results>/adapters/{model}.manifest.json",
        base=ancient(folded_into),
        base_manifest=folded_into_manifest,
    output:
        model=temp(directory("<results>/students/{model}")),
        manifest=temp("<results>/students/{model}.manifest.json"),
    log:
        "<logs>/fold_round/{model}.log",
    benchmark:
        "<benchmarks>/fold_round/{model}.tsv"
    wildcard_constraints:
        model=one_of(cfg.students),
    priority: 5
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("weights"),
    params:
        recipe=recipe_of(recipes.fold_adapter),
    message:
        "fold_round: folding the adapters up to {wildcards.model} into full weights for the next round "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/fold_round.py"


rule adapters:
    input:
        collect("<results>/adapters/{model}", model=LORA),
