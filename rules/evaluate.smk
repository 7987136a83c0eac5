# One model on one suite: predictions or judgements once, scores as often as the scoring changes.


rule predict_labels:
    input:
        model=ancient("<results>/models/{model}"),
        model_manifest="<results>/models/{model}.manifest.json",
        datasets=suite_datasets,
        dataset_manifests=suite_manifests,
    output:
        predictions="<results>/predictions/{suite}/{model}.jsonl",
        manifest="<results>/predictions/{suite}/{model}.manifest.json",
    log:
        "<logs>/predict_labels/{suite}/{model}.log",
    benchmark:
        "<benchmarks>/predict_labels/{suite}/{model}.tsv"
    wildcard_constraints:
        suite=one_of(LABELLED),
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        gpu=need("inference", "gpu"),
        gpu_mem_gb=need("inference", "gpu_mem_gb"),
        mem_mb=need("inference", "mem_mb"),
        runtime=need("inference", "runtime"),
    params:
        recipe=recipe_of(recipes.predict_labels),
    message:
        "predict_labels: predicting the labels of {wildcards.suite} with {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/predict_labels.py"


rule score_labels:
    input:
        predictions="<results>/predictions/{suite}/{model}.jsonl",
        predictions_manifest="<results>/predictions/{suite}/{model}.manifest.json",
        datasets=suite_datasets,
        dataset_manifests=suite_manifests,
    output:
        scores="<results>/scores/{suite}/{model}.csv",
        manifest="<results>/scores/{suite}/{model}.manifest.json",
    log:
        "<logs>/score_labels/{suite}/{model}.log",
    benchmark:
        "<benchmarks>/score_labels/{suite}/{model}.tsv"
    wildcard_constraints:
        suite=one_of(LABELLED),
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=need("tables", "mem_mb"),
        runtime=need("tables", "runtime"),
    params:
        recipe=recipe_of(recipes.score_labels),
    message:
        "score_labels: scoring {wildcards.model} on {wildcards.suite} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/score_labels.py"


rule answer_questions:
    input:
        model=ancient("<results>/models/{model}"),
        model_manifest="<results>/models/{model}.manifest.json",
        datasets=suite_datasets,
        dataset_manifests=suite_manifests,
    output:
        answers="<results>/answers/{suite}/{model}.jsonl",
        manifest="<results>/answers/{suite}/{model}.manifest.json",
    log:
        "<logs>/answer_questions/{suite}/{model}.log",
    benchmark:
        "<benchmarks>/answer_questions/{suite}/{model}.tsv"
    wildcard_constraints:
        suite=one_of(JUDGED),
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        gpu=need("inference", "gpu"),
        gpu_mem_gb=need("inference", "gpu_mem_gb"),
        mem_mb=need("inference", "mem_mb"),
        runtime=need("inference", "runtime"),
    params:
        recipe=recipe_of(recipes.answer_questions),
    message:
        "answer_questions: answering the questions of {wildcards.suite} with {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/answer_questions.py"


rule judge_answers:
    input:
        unpack(judged_answers),
        datasets=suite_datasets,
        dataset_manifests=suite_manifests,
    output:
        judgements="<results>/judgements/{suite}/{model}.jsonl",
        usage="<results>/judgements/{suite}/{model}.usage.json",
        manifest="<results>/judgements/{suite}/{model}.manifest.json",
    log:
        "<logs>/judge_answers/{suite}/{model}.log",
    benchmark:
        "<benchmarks>/judge_answers/{suite}/{model}.tsv"
    wildcard_constraints:
        suite=one_of(JUDGED),
        model=one_of(COMPARED),
    conda:
        "../envs/models.yaml"
    threads: judging_threads
    resources:
        gpu=need("inference", "gpu", judge_at_work),
        gpu_mem_gb=need("inference", "gpu_mem_gb", judge_at_work),
        mem_mb=need("inference", "mem_mb", judge_at_work),
        runtime=need("inference", "runtime", judge_at_work),
    params:
        recipe=recipe_of(recipes.judge_answers),
        client=judge_client,
    message:
        "judge_answers: judging the answers of {wildcards.model} to {wildcards.suite} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/judge_answers.py"


rule score_judgements:
    input:
        judgements=judgements,
        judgement_manifests=judgement_manifests,
    output:
        scores="<results>/scores/{suite}/{model}.csv",
        manifest="<results>/scores/{suite}/{model}.manifest.json",
    log:
        "<logs>/score_judgements/{suite}/{model}.log",
    benchmark:
        "<benchmarks>/score_judgements/{suite}/{model}.tsv"
    wildcard_constraints:
        suite=one_of(JUDGED),
        model=one_of(COMPARED),
    conda:
        "../envs/tables.yaml"
    resources:
        mem_mb=need("tables", "mem_mb", lambda wildcards: None),
        runtime=need("tables", "runtime", lambda wildcards: None),
    params:
        recipe=recipe_of(recipes.score_judgements),
    message:
        "score_judgements: scoring the judgements of {wildcards.model} under {wildcards.suite} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/score_judgements.py"


rule scores:
    input:
        "<results>/scores/summary.csv",
