# One model on one suite: predictions, or answers and judgements of them, once, by each judge. Scores as often as the scoring changes,
# of a model, a corpus, a judge, or a setting whose models each answer on a dataset of their own.


use rule on_models as predict_labels with:
    input:
        unpack(inputs_of("predict_labels")),
    output:
        predictions="<results>/predictions/{suite}/{model}.jsonl",
        manifest="<results>/predictions/{suite}/{model}.manifest.json",
    pathvars:
        job="predict_labels/{suite}/{model}",
    wildcard_constraints:
        **names_of("predict_labels"),
    threads: threads_of("predict_labels")
    resources:
        **needs_of("predict_labels"),
    params:
        **params_of("predict_labels"),


use rule on_tables as score_labels with:
    input:
        unpack(inputs_of("score_labels")),
    output:
        scores="<results>/scores/{suite}/{measured}.csv",
        manifest="<results>/scores/{suite}/{measured}.manifest.json",
    pathvars:
        job="score_labels/{suite}/{measured}",
    wildcard_constraints:
        **names_of("score_labels"),
    threads: threads_of("score_labels")
    resources:
        **needs_of("score_labels"),
    params:
        **params_of("score_labels"),


use rule on_models as answer_questions with:
    input:
        unpack(inputs_of("answer_questions")),
    output:
        answers="<results>/answers/{suite}/{model}.jsonl",
        manifest="<results>/answers/{suite}/{model}.manifest.json",
    pathvars:
        job="answer_questions/{suite}/{model}",
    wildcard_constraints:
        **names_of("answer_questions"),
    threads: threads_of("answer_questions")
    resources:
        **needs_of("answer_questions"),
    params:
        **params_of("answer_questions"),


use rule on_models as judge_answers with:
    input:
        unpack(inputs_of("judge_answers")),
    output:
        judgements="<results>/judgements/{suite}/{measured}.jsonl",
        usage="<results>/judgements/{suite}/{measured}.usage.json",
        manifest="<results>/judgements/{suite}/{measured}.manifest.json",
    pathvars:
        job="judge_answers/{suite}/{measured}",
    wildcard_constraints:
        **names_of("judge_answers"),
    threads: threads_of("judge_answers")
    resources:
        **needs_of("judge_answers"),
    params:
        **params_of("judge_answers"),


use rule on_models as judge_again with:
    input:
        unpack(inputs_of("judge_again")),
    output:
        judgements="<results>/opinions/{suite}/{measured}/{judge}.jsonl",
        usage="<results>/opinions/{suite}/{measured}/{judge}.usage.json",
        manifest="<results>/opinions/{suite}/{measured}/{judge}.manifest.json",
    pathvars:
        job="judge_again/{suite}/{measured}/{judge}",
    wildcard_constraints:
        **names_of("judge_again"),
    threads: threads_of("judge_again")
    resources:
        **needs_of("judge_again"),
    params:
        **params_of("judge_again"),


use rule on_tables as compare_judges with:
    input:
        unpack(inputs_of("compare_judges")),
    output:
        consensus="<results>/consensus/{suite}.json",
        manifest="<results>/consensus/{suite}.manifest.json",
    pathvars:
        job="compare_judges/{suite}",
    wildcard_constraints:
        **names_of("compare_judges"),
    threads: threads_of("compare_judges")
    resources:
        **needs_of("compare_judges"),
    params:
        **params_of("compare_judges"),


use rule on_tables as score_judgements with:
    input:
        unpack(inputs_of("score_judgements")),
    output:
        scores="<results>/scores/{suite}/{measured}.csv",
        manifest="<results>/scores/{suite}/{measured}.manifest.json",
    pathvars:
        job="score_judgements/{suite}/{measured}",
    wildcard_constraints:
        **names_of("score_judgements"),
    threads: threads_of("score_judgements")
    resources:
        **needs_of("score_judgements"),
    params:
        **params_of("score_judgements"),


use rule on_models as judge_items with:
    input:
        unpack(inputs_of("judge_items")),
    output:
        verdicts="<results>/verdicts/{suite}/{judge}.jsonl",
        usage="<results>/verdicts/{suite}/{judge}.usage.json",
        manifest="<results>/verdicts/{suite}/{judge}.manifest.json",
    pathvars:
        job="judge_items/{suite}/{judge}",
    wildcard_constraints:
        **names_of("judge_items"),
    threads: threads_of("judge_items")
    resources:
        **needs_of("judge_items"),
    params:
        **params_of("judge_items"),


use rule on_tables as score_judges with:
    input:
        unpack(inputs_of("score_judges")),
    output:
        scores="<results>/scores/{suite}/{judge}.csv",
        manifest="<results>/scores/{suite}/{judge}.manifest.json",
    pathvars:
        job="score_judges/{suite}/{judge}",
    wildcard_constraints:
        **names_of("score_judges"),
    threads: threads_of("score_judges")
    resources:
        **needs_of("score_judges"),
    params:
        **params_of("score_judges"),


use rule on_tables as fetch_task_data with:
    input:
        unpack(inputs_of("fetch_task_data")),
    output:
        data=directory("<results>/taskdata/{suite}"),
        manifest="<results>/taskdata/{suite}.manifest.json",
    pathvars:
        job="fetch_task_data/{suite}",
    wildcard_constraints:
        **names_of("fetch_task_data"),
    threads: threads_of("fetch_task_data")
    resources:
        **needs_of("fetch_task_data"),
    params:
        **params_of("fetch_task_data"),


use rule on_models as run_lm_eval with:
    input:
        unpack(inputs_of("run_lm_eval")),
    output:
        samples="<results>/lm_eval/{suite}/{model}.jsonl",
        results="<results>/lm_eval/{suite}/{model}.results.json",
        manifest="<results>/lm_eval/{suite}/{model}.manifest.json",
    pathvars:
        job="run_lm_eval/{suite}/{model}",
    wildcard_constraints:
        **names_of("run_lm_eval"),
    conda:
        "../envs/lm_eval.yaml"
    threads: threads_of("run_lm_eval")
    resources:
        **needs_of("run_lm_eval"),
    params:
        **params_of("run_lm_eval"),


use rule on_tables as score_lm_eval with:
    input:
        unpack(inputs_of("score_lm_eval")),
    output:
        scores="<results>/scores/{suite}/{model}.csv",
        manifest="<results>/scores/{suite}/{model}.manifest.json",
    pathvars:
        job="score_lm_eval/{suite}/{model}",
    wildcard_constraints:
        **names_of("score_lm_eval"),
    threads: threads_of("score_lm_eval")
    resources:
        **needs_of("score_lm_eval"),
    params:
        **params_of("score_lm_eval"),


use rule on_models as answer_turns with:
    input:
        unpack(inputs_of("answer_turns")),
    output:
        turns="<results>/turns/{suite}/{model}.jsonl",
        manifest="<results>/turns/{suite}/{model}.manifest.json",
    pathvars:
        job="answer_turns/{suite}/{model}",
    wildcard_constraints:
        **names_of("answer_turns"),
    threads: threads_of("answer_turns")
    resources:
        **needs_of("answer_turns"),
    params:
        **params_of("answer_turns"),


use rule on_models as judge_battles with:
    input:
        unpack(inputs_of("judge_battles")),
    output:
        battles="<results>/battles/{suite}/{measured}.jsonl",
        usage="<results>/battles/{suite}/{measured}.usage.json",
        manifest="<results>/battles/{suite}/{measured}.manifest.json",
    pathvars:
        job="judge_battles/{suite}/{measured}",
    wildcard_constraints:
        **names_of("judge_battles"),
    threads: threads_of("judge_battles")
    resources:
        **needs_of("judge_battles"),
    params:
        **params_of("judge_battles"),


use rule on_tables as score_battles with:
    input:
        unpack(inputs_of("score_battles")),
    output:
        scores="<results>/scores/{suite}/{measured}.csv",
        manifest="<results>/scores/{suite}/{measured}.manifest.json",
    pathvars:
        job="score_battles/{suite}/{measured}",
    wildcard_constraints:
        **names_of("score_battles"),
    threads: threads_of("score_battles")
    resources:
        **needs_of("score_battles"),
    params:
        **params_of("score_battles"),


use rule on_models as encode_probes with:
    input:
        unpack(inputs_of("encode_probes")),
    output:
        encodings=directory("<results>/encodings/{suite}/{model}"),
        manifest="<results>/encodings/{suite}/{model}.manifest.json",
    pathvars:
        job="encode_probes/{suite}/{model}",
    wildcard_constraints:
        **names_of("encode_probes"),
    threads: threads_of("encode_probes")
    resources:
        **needs_of("encode_probes"),
    params:
        **params_of("encode_probes"),


use rule on_models as run_probes with:
    input:
        unpack(inputs_of("run_probes")),
    output:
        probes="<results>/probes/{suite}/{model}.jsonl",
        manifest="<results>/probes/{suite}/{model}.manifest.json",
    pathvars:
        job="run_probes/{suite}/{model}",
    wildcard_constraints:
        **names_of("run_probes"),
    threads: threads_of("run_probes")
    resources:
        **needs_of("run_probes"),
    params:
        **params_of("run_probes"),


use rule on_tables as score_probes with:
    input:
        unpack(inputs_of("score_probes")),
    output:
        scores="<results>/scores/{suite}/{model}.csv",
        manifest="<results>/scores/{suite}/{model}.manifest.json",
    pathvars:
        job="score_probes/{suite}/{model}",
    wildcard_constraints:
        **names_of("score_probes"),
    threads: threads_of("score_probes")
    resources:
        **needs_of("score_probes"),
    params:
        **params_of("score_probes"),


use rule on_tables as compare_probes with:
    input:
        unpack(inputs_of("compare_probes")),
    output:
        whole="<results>/probe_tables/{suite}.json",
        leaderboard="<results>/probe_tables/{suite}.leaderboard.csv",
        means="<results>/probe_tables/{suite}.means.csv",
        manifest="<results>/probe_tables/{suite}.manifest.json",
    pathvars:
        job="compare_probes/{suite}",
    wildcard_constraints:
        **names_of("compare_probes"),
    threads: threads_of("compare_probes")
    resources:
        **needs_of("compare_probes"),
    params:
        **params_of("compare_probes"),


rule scores:
    input:
        "<results>/scores/summary.csv",
