# What a newcomer types. Each target does its own set-up.
#   make demo            build the demo: tables → data → adapters → models → scores → report
#   make demo NAME=x     build config/demo/x.yaml
#   make demos           the demo and all of config/demo, one after another; they share the base model
#   make plans           plan all shipped configs, as a clone does that has no data: jobs of each
#   make test            all tests that need no GPU and no network (a small build on a Slurm of our own where it can be had: root, Debian)
#   make test-fast       the tests of single modules that take less than three seconds each: under two minutes on two idle cores
#   make test-server     the client against llama.cpp's server with a real model; fetches the model once (93 MB)
#   make test-cluster    a Slurm of our own on loopback (root, Debian), every rule and every fault on it (an hour)
#   make test-soak       150 builds, each killed at a seeded moment (100 by a power failure) and run again; and the long form of other tests (hours)
#   make check           formatting and lint
#   make dag             the rule graph as a picture, docs/rulegraph.svg
#   make new STUDY=path  a folder for a study of your own: a config to begin with, profiles, a README with its commands
#   make check-config CONFIG=...  whether a config is right, read as plain data: what to do with a stranger's (or NAME=)
#   make estimate CONFIG=...  what the remote answers would cost, before anything is spent (or NAME=, as for the demo)
#   make needs CONFIG=... what each job asks a cluster for, and the partition that has it (default: all shipped configs)
#   make verify CONFIG=... compare every hash of an experiment's results and journals with the disk
#   make build CONFIG=... KEEP=4  build; of models with `keep: false`, four are there at a time (PROFILE=slurm: on a cluster)
#   make publish CONFIG=... PUSH=yes  send the models that say `publish` to their hub; without PUSH=yes, why it is not done
#   make efficiency CONFIG=... what the jobs of the last build used of what they had asked for
#   make pin CONFIG=...  look up unknown revisions and checksums, and record them in the config
#     with STUDY=path, those seven look at the config.yaml of a study, in its folder
#   make schema          the JSON schema of the config, for editors, docs/defaults.md, and what mergekit's methods take
#   make clean           remove results, logs and checkpoints; the journal of paid answers stays

NAME ?=
STUDY ?=
KEEP ?= 4
CONFIG ?= $(if $(STUDY),config.yaml,config/config.yaml)
PYTHON ?= python3
SHELL := bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Jobs run side by side, one thread each; results do not depend on what the machine has.
export OMP_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export PYTHONHASHSEED := 0

CONFIGFILE := $(if $(NAME),--configfile config/demo/$(NAME).yaml)
# Relative paths of a config are those of the folder that a command runs in.
IN := $(if $(STUDY),cd "$(STUDY)" && )PYTHONPATH="$(CURDIR)/scripts"
# Before Snakemake reads a config, which may run code out of it.
CHECKED := python -m moult.planning.check_config
# The config that a target is for; Snakemake on it, targets between the two: some options take all words that follow.
THIS = $(if $(NAME),config/demo/$(NAME).yaml,$(CONFIG))
PROFILE ?= local
BUILD = $(IN) snakemake
WITH = -s "$(CURDIR)/Snakefile" --profile "$(CURDIR)/profiles/$(PROFILE)" --logger moult --configfile "$(THIS)"
RESULTS := results/demo$(if $(NAME),-$(NAME))

.PHONY: demo demos plans build publish new test test-fast test-cluster test-server test-soak check check-config dag estimate needs efficiency verify pin schema clean

# torch first, on its own: with it there, nothing asks for a build with CUDA where a CPU build is offered.
.venv/ready: requirements.lock
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch .venv/ready

demo: .venv/ready
	@PYTHONPATH=scripts $(CHECKED) --quiet $(if $(NAME),config/demo/$(NAME).yaml,config/config.yaml)
	PYTHONPATH=scripts snakemake --profile profiles/local --logger moult $(CONFIGFILE)
	@PYTHONPATH=scripts python -m moult.jobs.timing logs/demo$(if $(NAME),-$(NAME))
	@echo "Open $(RESULTS)/report/index.html"

# One that fails ends no other.
demos: .venv/ready
	@failed=; for name in "" $(basename $(notdir $(sort $(wildcard config/demo/*.yaml)))); do \
		$(MAKE) --no-print-directory demo NAME=$$name || failed="$$failed $${name:-config/config.yaml}"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

plans: .venv/ready
	@for config in config/config.yaml $(sort $(wildcard config/*/*.yaml)); do \
		PYTHONPATH=scripts $(CHECKED) --quiet $$config || exit 1; \
		planned=$$(snakemake --dry-run --nolock --configfile $$config 2>&1) || { echo "$$planned"; exit 1; }; \
		echo "$$config: $$(echo "$$planned" | awk '$$1 == "total" {n = $$2} $$1 == "all" {of = $$2} END {print n - of}') jobs"; \
	done

publish: .venv/ready
	@$(IN) $(CHECKED) --quiet "$(THIS)"
	$(BUILD) publish $(WITH) $(if $(filter yes,$(PUSH)),--config push=true)

# What is made with KEEP of the models that pass, then with the next, then all that is left.
build: .venv/ready
	@$(IN) $(CHECKED) --quiet "$(THIS)"
	@set -o pipefail; ($(IN) python -m moult.planning.in_turn "$(THIS)" "$(KEEP)") | while read -r targets; do \
		$(BUILD) $$targets $(WITH) < /dev/null || exit 1; done
	$(BUILD) $(WITH)

new: .venv/ready
	@PYTHONPATH=scripts python -m moult.planning.new_study "$(STUDY)"

test: .venv/ready
	python -m pytest -n 2 --dist worksteal

test-fast: .venv/ready
	python -m pytest -n 2 --dist worksteal -m "not slow" tests/unit

test-server: .venv/ready
	MOULT_TEST_CACHE=$${MOULT_TEST_CACHE:-scratch/models} python -m pytest tests/server

test-soak: .venv/ready
	PYTHONPATH=scripts python tests/soak/kills.py --csv tests/soak/kills.csv
	PYTHONPATH=scripts python tests/soak/kills.py --power --builds 100 --csv tests/soak/power.csv
	MOULT_SOAK=1 python -m pytest $$(grep -rlE 'MOULT_SOAK|mark.soak' tests --include='test_*.py')

check: .venv/ready
	PYTHONPATH=scripts python -m moult.planning.check_config --quiet config/config.yaml
	ruff check scripts tests benchmarks
	ruff format --check scripts tests benchmarks
	snakefmt --check Snakefile rules
	snakemake --lint
	PYTHONPATH=scripts lint-imports
	mypy

dag: .venv/ready
	@PYTHONPATH=scripts $(CHECKED) --quiet config/config.yaml
	mkdir -p docs
	snakemake --rulegraph dot all 2>/dev/null | PYTHONPATH=scripts python -m moult.report.graphs - docs/rulegraph.svg

check-config: .venv/ready
	@$(IN) $(CHECKED) "$(if $(NAME),config/demo/$(NAME).yaml,$(CONFIG))"

estimate: .venv/ready
	@$(IN) python -m moult.planning.estimate $(if $(NAME),config/demo/$(NAME).yaml,$(CONFIG))

# All configs that are shipped, unless CONFIG is given.
needs: .venv/ready
	@$(IN) python -m moult.planning.partitions $(if $(STUDY)$(filter command line,$(origin CONFIG)),$(CONFIG),config/config.yaml $(wildcard config/*/*.yaml))

efficiency: .venv/ready
	@$(IN) python -m moult.planning.efficiency $(if $(NAME),config/demo/$(NAME).yaml,$(CONFIG))

verify: .venv/ready
	@$(IN) python -m moult.planning.verify $(if $(NAME),config/demo/$(NAME).yaml,$(CONFIG))

test-cluster: .venv/ready
	MOULT_CLUSTER_FAULTS=1 python -m pytest tests/cluster

pin: .venv/ready
	$(IN) python -m moult.config.pins $(CONFIG)

schema: .venv/ready
	PYTHONPATH=scripts python -m moult.weights.contracts > scripts/moult/weights/contracts.json
	PYTHONPATH=scripts python -m moult.config.schema > config/schema.json
	PYTHONPATH=scripts python -m moult.config.defaults > docs/defaults.md

clean:
	rm -rf results logs scratch .snakemake
