# Models on their way to a hub. No part of `all`: ask for the target `publish` with `--config push=true`.


use rule on_tables as publish_model with:
    input:
        unpack(inputs_of("publish_model")),
    output:
        published="<results>/published/{model}.json",
        manifest="<results>/published/{model}.manifest.json",
    pathvars:
        job="publish_model/{model}",
    wildcard_constraints:
        **names_of("publish_model"),
    threads: threads_of("publish_model")
    resources:
        **needs_of("publish_model"),
    params:
        **params_of("publish_model"),


rule publish:
    input:
        [f"<results>/published/{name}.json" for name in cfg.names("models", "publish")],
