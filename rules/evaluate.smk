# One model on one suite: predictions once. Scores as often as the scoring changes, of a model, or of a setting whose
# models each answer on a dataset of their own.


rule predict_labels:
    input:
        model=ancient("<results>/models/{model}"),
        model_manifest="<results>/models/{model}.manifest.json",
        datasets=asked_datasets,
        dataset_manifests=asked_manifests,
    output:
        predictions="<results>/predictions/{suite}/{model}.jsonl",
        manifest="<results>/predictions/{suite}/{model}.manifest.json",
    log:
        "<logs>/predict_labels/{suite}/{model}.log",
    benchmark:
        "<benchmarks>/predict_labels/{suite}/{model}.tsv"
    conda:
        "../envs/models.yaml"
    threads: threads_of
    resources:
        **needs_of("inference"),
    params:
        recipe=recipe_of(recipes.predict_labels),
    message:
        "predict_labels: predicting the labels of {wildcards.suite} with {wildcards.model} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/predict_labels.py"


rule score_labels:
    input:
        predictions=answers,
        prediction_manifests=answer_manifests,
        datasets=asked_datasets,
        dataset_manifests=asked_manifests,
    output:
        scores="<results>/scores/{suite}/{measured}.csv",
        manifest="<results>/scores/{suite}/{measured}.manifest.json",
    log:
        "<logs>/score_labels/{suite}/{measured}.log",
    benchmark:
        "<benchmarks>/score_labels/{suite}/{measured}.tsv"
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    params:
        recipe=recipe_of(recipes.score_labels),
    message:
        "score_labels: scoring {wildcards.measured} on {wildcards.suite} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/score_labels.py"


rule scores:
    input:
        "<results>/scores/summary.csv",
