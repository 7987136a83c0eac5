"""Snakemake's `--logger moult`: rich's live bars on a terminal, a line for each finished job where there is none.

Snakemake knows a logger plugin by the prefix of its module's name, and finds it on PYTHONPATH as elsewhere.
"""

from logging import LogRecord

from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_logger_plugin_rich import LogHandler as RichLogHandler


class LogHandler(RichLogHandler):
    def __post_init__(self):
        super().__post_init__()
        self.running = {}  # id of a job: the record that announced it

    def emit(self, record: LogRecord) -> None:
        super().emit(record)
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            self.running[record.jobid] = record
        elif event == LogEvent.JOB_FINISHED and not self.console.is_terminal:
            job, build = self.running.pop(record.job_id), self.event_handler
            line = f"{build.completed:4} of {build.total_jobs}  {job.rule_name:19}"
            line += f"{record.created - job.created:7.1f} s  {job.output[0] if job.output else ''}"
            self.console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
