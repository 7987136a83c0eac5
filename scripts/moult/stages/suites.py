"""Stages of suites: what their kinds say of themselves, each once."""

from moult.evaluation.suites import KINDS

STAGES = tuple({stage.rule: stage for kind in KINDS for stage in kind.stages}.values())
