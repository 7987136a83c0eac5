# Data on its way to other trainers. No part of `all`: ask for the target `exports`, or for one of its folders.


use rule on_tables as export_dataset with:
    input:
        unpack(inputs_of("export_dataset")),
    output:
        export=directory("<results>/exports/{export}"),
        manifest="<results>/exports/{export}.manifest.json",
    pathvars:
        job="export_dataset/{export}",
    wildcard_constraints:
        **names_of("export_dataset"),
    threads: threads_of("export_dataset")
    resources:
        **needs_of("export_dataset"),
    params:
        **params_of("export_dataset"),


use rule on_tables as index_exports with:
    input:
        unpack(inputs_of("index_exports")),
    output:
        index="<results>/exports/dataset_info.json",
    pathvars:
        job="index_exports",
    threads: threads_of("index_exports")
    resources:
        **needs_of("index_exports"),
    params:
        **params_of("index_exports"),


rule exports:
    input:
        "<results>/exports/dataset_info.json",
