"""What a job does around its function: log, locks, GPUs, manifest."""
