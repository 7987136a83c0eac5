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


# The same, for models that are there only until all that needs them is done. Below what needs them: a model is made when
# nothing else can be done.
use rule on_models as merge_briefly with:
    input:
        unpack(inputs_of("merge_briefly")),
    output:
        model=temp(directory("<results>/models/{model}")),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="merge_briefly/{model}",
    wildcard_constraints:
        **names_of("merge_briefly"),
    priority: -5
    threads: threads_of("merge_briefly")
    resources:
        **needs_of("merge_briefly"),
    params:
        **params_of("merge_briefly"),


rule models:
    input:
        [f"<results>/models/{name}" for name in cfg.kept_models],
