# Several models into one. Which merge is best is for the evaluation to say.


use rule on_models as merge_models with:
    input:
        unpack(inputs_of("merge_models")),
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="merge_models/{model}",
    wildcard_constraints:
        **names_of("merge_models"),
    priority: 5
    threads: threads_of("merge_models")
    resources:
        **needs_of("merge_models"),
    params:
        **params_of("merge_models"),


rule models:
    input:
        [f"<results>/models/{name}" for name in cfg.kept_models],
