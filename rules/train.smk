# One adapter per job, then full weights out of it; or full weights at once.


use rule on_models as finetune_lora with:
    input:
        unpack(inputs_of("finetune_lora")),
    output:
        adapter=directory("<results>/adapters/{model}"),
        manifest="<results>/adapters/{model}.manifest.json",
    pathvars:
        job="finetune_lora/{model}",
    wildcard_constraints:
        **names_of("finetune_lora"),
    priority: 5
    threads: threads_of("finetune_lora")
    resources:
        **needs_of("finetune_lora"),
    params:
        **params_of("finetune_lora"),


use rule on_models as finetune_full with:
    input:
        unpack(inputs_of("finetune_full")),
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="finetune_full/{model}",
    wildcard_constraints:
        **names_of("finetune_full"),
    priority: 5
    threads: threads_of("finetune_full")
    resources:
        **needs_of("finetune_full"),
    params:
        **params_of("finetune_full"),


use rule on_models as optimise_lora with:
    input:
        unpack(inputs_of("optimise_lora")),
    output:
        adapter=directory("<results>/adapters/{model}"),
        manifest="<results>/adapters/{model}.manifest.json",
    pathvars:
        job="optimise_lora/{model}",
    wildcard_constraints:
        **names_of("optimise_lora"),
    priority: 5
    threads: threads_of("optimise_lora")
    resources:
        **needs_of("optimise_lora"),
    params:
        **params_of("optimise_lora"),


use rule on_models as optimise_full with:
    input:
        unpack(inputs_of("optimise_full")),
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="optimise_full/{model}",
    wildcard_constraints:
        **names_of("optimise_full"),
    priority: 5
    threads: threads_of("optimise_full")
    resources:
        **needs_of("optimise_full"),
    params:
        **params_of("optimise_full"),


use rule on_models as fold_adapter with:
    input:
        unpack(inputs_of("fold_adapter")),
    output:
        model=directory("<results>/models/{model}"),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="fold_adapter/{model}",
    wildcard_constraints:
        **names_of("fold_adapter"),
    priority: 5
    threads: threads_of("fold_adapter")
    resources:
        **needs_of("fold_adapter"),
    params:
        **params_of("fold_adapter"),


# The same, for models that are there only until all that needs them is done.
use rule on_models as fold_briefly with:
    input:
        unpack(inputs_of("fold_briefly")),
    output:
        model=temp(directory("<results>/models/{model}")),
        manifest="<results>/models/{model}.manifest.json",
    pathvars:
        job="fold_briefly/{model}",
    wildcard_constraints:
        **names_of("fold_briefly"),
    priority: -5
    threads: threads_of("fold_briefly")
    resources:
        **needs_of("fold_briefly"),
    params:
        **params_of("fold_briefly"),


# The full weights of a round, for as long as the next round works with them.
use rule on_models as fold_round with:
    input:
        unpack(inputs_of("fold_round")),
    output:
        model=temp(directory("<results>/students/{model}")),
        manifest=temp("<results>/students/{model}.manifest.json"),
    pathvars:
        job="fold_round/{model}",
    wildcard_constraints:
        **names_of("fold_round"),
    priority: 5
    threads: threads_of("fold_round")
    resources:
        **needs_of("fold_round"),
    params:
        **params_of("fold_round"),


rule adapters:
    input:
        made("adapters", "finetune_lora", "optimise_lora"),
