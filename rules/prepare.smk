# Raw files into canonical tables; models into Hugging Face layout.


use rule on_tables as fetch_dataset with:
    input:
        unpack(inputs_of("fetch_dataset")),
    output:
        raw=directory("<results>/raw/{dataset}"),
        manifest="<results>/raw/{dataset}.manifest.json",
    pathvars:
        job="fetch_dataset/{dataset}",
    wildcard_constraints:
        **names_of("fetch_dataset"),
    threads: threads_of("fetch_dataset")
    resources:
        **needs_of("fetch_dataset"),
    params:
        **params_of("fetch_dataset"),


use rule on_tables as fetch_videos with:
    input:
        unpack(inputs_of("fetch_videos")),
    output:
        videos=directory("<results>/videos/{dataset}"),
        manifest="<results>/videos/{dataset}.manifest.json",
    pathvars:
        job="fetch_videos/{dataset}",
    wildcard_constraints:
        **names_of("fetch_videos"),
    threads: threads_of("fetch_videos")
    resources:
        **needs_of("fetch_videos"),
    params:
        **params_of("fetch_videos"),


use rule on_tables as prepare_dataset with:
    input:
        unpack(inputs_of("prepare_dataset")),
    output:
        dataset=directory("<results>/datasets/{dataset}"),
        manifest="<results>/datasets/{dataset}.manifest.json",
    pathvars:
        job="prepare_dataset/{dataset}",
    wildcard_constraints:
        **names_of("prepare_dataset"),
    threads: threads_of("prepare_dataset")
    resources:
        **needs_of("prepare_dataset"),
    params:
        **params_of("prepare_dataset"),


use rule on_tables as check_leakage with:
    input:
        unpack(inputs_of("check_leakage")),
    output:
        table="<results>/leakage/{dataset}.csv",
    pathvars:
        job="check_leakage/{dataset}",
    wildcard_constraints:
        **names_of("check_leakage"),
    threads: threads_of("check_leakage")
    resources:
        **needs_of("check_leakage"),
    params:
        **params_of("check_leakage"),


use rule on_models as fetch_model with:
    input:
        unpack(inputs_of("fetch_model")),
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="fetch_model/{model}",
    wildcard_constraints:
        **names_of("fetch_model"),
    threads: threads_of("fetch_model")
    resources:
        **needs_of("fetch_model"),
    params:
        **params_of("fetch_model"),


rule datasets:
    input:
        made("datasets", "prepare_dataset"),
        made("leakage", "check_leakage"),
