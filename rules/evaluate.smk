# One model on one suite: predictions, or answers and judgements of them, once. Scores as often as the scoring changes,
# of a model, a corpus, or a setting whose models each answer on a dataset of their own.


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
    wildcard_constraints:
        suite=one_of(LABELLED),
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
    wildcard_constraints:
        suite=one_of(LABELLED),
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
        **needs_of("inference"),
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
        judgements="<results>/judgements/{suite}/{measured}.jsonl",
        usage="<results>/judgements/{suite}/{measured}.usage.json",
        manifest="<results>/judgements/{suite}/{measured}.manifest.json",
    log:
        "<logs>/judge_answers/{suite}/{measured}.log",
    benchmark:
        "<benchmarks>/judge_answers/{suite}/{measured}.tsv"
    wildcard_constraints:
        suite=one_of(JUDGED),
    conda:
        "../envs/models.yaml"
    threads: judging_threads
    resources:
        **needs_of("judging"),
    params:
        recipe=recipe_of(recipes.judge_answers),
        client=judge_client,
    message:
        "judge_answers: judging the answers of {wildcards.measured} to {wildcards.suite} "
        "({threads} CPUs, {resources.gpu} GPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/judge_answers.py"


rule score_judgements:
    input:
        judgements=judgements,
        judgement_manifests=judgement_manifests,
    output:
        scores="<results>/scores/{suite}/{measured}.csv",
        manifest="<results>/scores/{suite}/{measured}.manifest.json",
    log:
        "<logs>/score_judgements/{suite}/{measured}.log",
    benchmark:
        "<benchmarks>/score_judgements/{suite}/{measured}.tsv"
    wildcard_constraints:
        suite=one_of(JUDGED),
    conda:
        "../envs/tables.yaml"
    resources:
        **needs_of("tables"),
    params:
        recipe=recipe_of(recipes.score_judgements),
    message:
        "score_judgements: scoring the judgements of {wildcards.measured} under {wildcards.suite} "
        "({threads} CPUs, {resources.mem_mb} MB, {resources.runtime} min)"
    script:
        "../scripts/score_judgements.py"


rule scores:
    input:
        "<results>/scores/summary.csv",
