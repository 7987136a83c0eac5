# Tables, pictures and the report, out of score files and manifests. Never touches a model.


use rule on_tables as tabulate_scores with:
    input:
        unpack(inputs_of("tabulate_scores")),
    output:
        summary=report("<results>/scores/summary.csv", category="Scores", caption="../resources/report/summary.rst"),
        differences=report(
            "<results>/scores/differences.csv", category="Scores", caption="../resources/report/differences.rst"
        ),
    pathvars:
        job="tabulate_scores",
    threads: threads_of("tabulate_scores")
    resources:
        **needs_of("tabulate_scores"),
    params:
        **params_of("tabulate_scores"),


use rule on_tables as plot_scores with:
    input:
        unpack(inputs_of("plot_scores")),
    output:
        plot=report("<results>/plots/{suite}.svg", category="Scores", caption="../resources/report/plot.rst"),
    pathvars:
        job="plot_scores/{suite}",
    wildcard_constraints:
        **names_of("plot_scores"),
    threads: threads_of("plot_scores")
    resources:
        **needs_of("plot_scores"),
    params:
        **params_of("plot_scores"),


use rule on_tables as plot_confusion with:
    input:
        unpack(inputs_of("plot_confusion")),
    output:
        plot=report(
            "<results>/plots/confusion/{suite}/{measured}.svg",
            category="Scores",
            caption="../resources/report/confusion.rst",
        ),
    pathvars:
        job="plot_confusion/{suite}/{measured}",
    wildcard_constraints:
        **names_of("plot_confusion"),
    threads: threads_of("plot_confusion")
    resources:
        **needs_of("plot_confusion"),
    params:
        **params_of("plot_confusion"),


use rule on_tables as relate_scores with:
    input:
        unpack(inputs_of("relate_scores")),
    output:
        relations=directory("<results>/relations/all"),
        manifest="<results>/relations/all.manifest.json",
    pathvars:
        job="relate_scores",
    threads: threads_of("relate_scores")
    resources:
        **needs_of("relate_scores"),
    params:
        **params_of("relate_scores"),


use rule on_tables as write_report with:
    input:
        unpack(inputs_of("write_report")),
    output:
        report="<results>/report/index.html",
    pathvars:
        job="write_report",
    threads: threads_of("write_report")
    resources:
        **needs_of("write_report"),
    params:
        **params_of("write_report"),


rule report:
    input:
        "<results>/report/index.html",
