"""The stages: what each rule makes, out of what, and by which recipe."""

from moult.stages import corpora, datasets, merges, models, report, selection, suites

STAGES = (
    *datasets.STAGES,
    *corpora.STAGES,
    *models.STAGES,
    *merges.STAGES,
    *selection.STAGES,
    *suites.STAGES,
    *report.STAGES,
)
BY_RULE = {stage.rule: stage for stage in STAGES}
