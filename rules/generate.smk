# Text that a model or an endpoint generates. Every answer is journalled, nothing is asked twice. The longest chain of a
# build starts here: what waits for it waits for everything.


use rule on_models as generate_guidelines with:
    input:
        unpack(inputs_of("generate_guidelines")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="generate_guidelines/{corpus}",
    wildcard_constraints:
        **names_of("generate_guidelines"),
    priority: 10
    threads: threads_of("generate_guidelines")
    resources:
        **needs_of("generate_guidelines"),
    params:
        **params_of("generate_guidelines"),


use rule on_models as distill_answers with:
    input:
        unpack(inputs_of("distill_answers")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="distill_answers/{corpus}",
    wildcard_constraints:
        **names_of("distill_answers"),
    priority: 10
    threads: threads_of("distill_answers")
    resources:
        **needs_of("distill_answers"),
    params:
        **params_of("distill_answers"),


use rule on_models as refine_answers with:
    input:
        unpack(inputs_of("refine_answers")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="refine_answers/{corpus}",
    wildcard_constraints:
        **names_of("refine_answers"),
    priority: 10
    threads: threads_of("refine_answers")
    resources:
        **needs_of("refine_answers"),
    params:
        **params_of("refine_answers"),


use rule on_models as contrast_answers with:
    input:
        unpack(inputs_of("contrast_answers")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="contrast_answers/{corpus}",
    wildcard_constraints:
        **names_of("contrast_answers"),
    priority: 10
    threads: threads_of("contrast_answers")
    resources:
        **needs_of("contrast_answers"),
    params:
        **params_of("contrast_answers"),


use rule on_models as render_judgements with:
    input:
        unpack(inputs_of("render_judgements")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="render_judgements/{corpus}",
    wildcard_constraints:
        **names_of("render_judgements"),
    priority: 10
    threads: threads_of("render_judgements")
    resources:
        **needs_of("render_judgements"),
    params:
        **params_of("render_judgements"),


use rule on_models as sample_responses with:
    input:
        unpack(inputs_of("sample_responses")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="sample_responses/{corpus}",
    wildcard_constraints:
        **names_of("sample_responses"),
    priority: 10
    threads: threads_of("sample_responses")
    resources:
        **needs_of("sample_responses"),
    params:
        **params_of("sample_responses"),


use rule on_models as score_responses with:
    input:
        unpack(inputs_of("score_responses")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="score_responses/{corpus}",
    wildcard_constraints:
        **names_of("score_responses"),
    priority: 10
    threads: threads_of("score_responses")
    resources:
        **needs_of("score_responses"),
    params:
        **params_of("score_responses"),


use rule on_tables as build_preferences with:
    input:
        unpack(inputs_of("build_preferences")),
    output:
        corpus="<results>/corpora/{corpus}.jsonl",
        rejects="<results>/corpora/{corpus}.rejects.jsonl",
        usage="<results>/corpora/{corpus}.usage.json",
        manifest="<results>/corpora/{corpus}.manifest.json",
    pathvars:
        job="build_preferences/{corpus}",
    wildcard_constraints:
        **names_of("build_preferences"),
    priority: 10
    threads: threads_of("build_preferences")
    resources:
        **needs_of("build_preferences"),
    params:
        **params_of("build_preferences"),


rule corpora:
    input:
        [f"<results>/corpora/{name}.jsonl" for name in cfg.names("corpora")],
