"""The stages: what each rule makes, out of what, and by which recipe."""

from moult.stages import corpora, datasets, merges, models, passing, publishing, report, selection, suites

STAGES = (
    *datasets.STAGES,
    *corpora.STAGES,
    *passing.with_passing((*models.STAGES, *merges.STAGES)),
    *selection.STAGES,
    *suites.STAGES,
    *report.STAGES,
    *publishing.STAGES,
)
BY_RULE = {stage.rule: stage for stage in STAGES}
