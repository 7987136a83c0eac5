# Text that a model or an endpoint generates. Every answer is journalled, nothing is asked twice.


rule generate_guidelines:
    input:
        unpack(corpus_inputs),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    log:
        "<logs>/generate_guidelines/{corpus}.log",
    benchmark:
        "<benchmarks>/generate_guidelines/{corpus}.tsv"
    wildcard_constraints:
        corpus=one_of(GUIDELINES),
    # The longest chain of a build starts here: what waits for it waits for everything.
    priority: 10
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("inference"),
    params:
        recipe=recipe_of(recipes.corpus),
        client=client_of,
    message:
        "generate_guidelines: writing the guidelines {wildcards.corpus} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/generate_guidelines.py"


rule distill_answers:
    input:
        unpack(corpus_inputs),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    log:
        "<logs>/distill_answers/{corpus}.log",
    benchmark:
        "<benchmarks>/distill_answers/{corpus}.tsv"
    wildcard_constraints:
        corpus=one_of(DISTILLED),
    # The longest chain of a build starts here: what waits for it waits for everything.
    priority: 10
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("inference"),
    params:
        recipe=recipe_of(recipes.corpus),
        client=client_of,
    message:
        "distill_answers: distilling the answers {wildcards.corpus} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/distill_answers.py"


rule refine_answers:
    input:
        unpack(refining_inputs),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    log:
        "<logs>/refine_answers/{corpus}.log",
    benchmark:
        "<benchmarks>/refine_answers/{corpus}.tsv"
    wildcard_constraints:
        corpus=one_of(REFINED),
    priority: 10
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("inference"),
    params:
        recipe=refining_recipe,
        client=refining_clients,
    message:
        "refine_answers: refining the answers {wildcards.corpus} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/refine_answers.py"


rule contrast_answers:
    input:
        unpack(corpus_inputs),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    log:
        "<logs>/contrast_answers/{corpus}.log",
    benchmark:
        "<benchmarks>/contrast_answers/{corpus}.tsv"
    wildcard_constraints:
        corpus=one_of(CONTRASTS),
    priority: 10
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("inference"),
    params:
        recipe=recipe_of(recipes.contrasts),
        client=client_of,
    message:
        "contrast_answers: contrasting answers for the pairs {wildcards.corpus} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/contrast_answers.py"


rule corpora:
    input:
        collect("<results>/corpora/{corpus}.jsonl", corpus=cfg.names("corpora")),
