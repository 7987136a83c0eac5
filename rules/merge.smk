# Several models into one, and the best of several by an evaluation on dev.


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


# A file that says what was made; the merges wait in scratch until they are taken. A folder that went away would have all of them
# made again with the next one.
use rule on_models as merge_sweep with:
    input:
        unpack(inputs_of("merge_sweep")),
    output:
        sweep="<results>/sweeps/{sweep}.jsonl",
    pathvars:
        job="merge_sweep/{sweep}",
    wildcard_constraints:
        **names_of("merge_sweep"),
    priority: 5
    threads: threads_of("merge_sweep")
    resources:
        **needs_of("merge_sweep"),
    params:
        **params_of("merge_sweep"),


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


use rule on_models as select_model with:
    input:
        unpack(inputs_of("select_model")),
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="select_model/{model}",
    wildcard_constraints:
        **names_of("select_model"),
    priority: 5
    threads: threads_of("select_model")
    resources:
        **needs_of("select_model"),
    params:
        **params_of("select_model"),


rule models:
    input:
        [f"<results>/models/{name}" for name in cfg.kept_models],
