# Two commands do everything on a fresh machine with Python 3.11+ and make: `make quickstart` and `make test`.
.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help quickstart test fuzz lint format docs clean bench-learning bench-sac-beside-sb3 bench-learning-rate bench-breakout bench-overhead bench-resume bench-kron bench-pqn-cost bench-kron-digits bench-diagnosis bench-corpus bench-drawn bench-drawn-held-out bench-diagnosis-overhead bench-callback-cost bench-sb3-verdicts bench-kron-mlp bench-bootstrap bench-study-report bench-study-executor bench-preflight bench-symptom-pictures bench-replay bench-prioritised bench-off-policy-speed

help: ## list what can be done
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

quickstart: $(VENV)/.base ## set up, then see a deep network fail and the stabilised one learn (5 to 9 minutes on 2 cores)
	$(BIN)/stablegrad quickstart

test: $(VENV)/.dev ## set up, then run the whole test suite
	@command -v chromium chromium-browser google-chrome > /dev/null || echo "no Chromium: tests of pages in a browser are skipped; apt-get install chromium"
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

fuzz: $(VENV)/.dev ## 2,000 random trainings with and without a monitor, compared bit for bit (3 minutes)
	STABLEGRAD_FUZZ=2000 $(BIN)/python -m pytest tests/diagnostics/test_monitor_fuzz.py

lint: $(VENV)/.dev ## ruff, formatting, types of src
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## build the documentation into site/
	$(BIN)/mkdocs build --strict

bench-learning: $(VENV)/.base ## every agent on small environments, 3 seeds (an hour)
	$(BIN)/python benchmarks/learning.py

bench-sac-beside-sb3: $(VENV)/.dev ## SAC on HalfCheetah beside Stable-Baselines3's, 3 seeds (about 15 minutes)
	$(BIN)/python benchmarks/sac_beside_sb3.py

bench-learning-rate: $(VENV)/.base ## Kron's learning rate against RAdam's, a small and a deep network (about 12 minutes)
	$(BIN)/python benchmarks/learning_rate.py

bench-breakout: $(VENV)/.base ## Breakout for 1M steps, both presets (over an hour)
	$(BIN)/python benchmarks/breakout.py

bench-overhead: $(VENV)/.base ## share of the wall time that environment, act, update and optimizer take
	$(BIN)/python benchmarks/overhead.py

bench-resume: $(VENV)/.base ## 20 runs killed with -9 at random moments and resumed, compared bit for bit
	$(BIN)/python benchmarks/resume.py

bench-kron: $(VENV)/.dev ## what a step of Kron costs beside RAdam, Adam, Muon, SOAP and kron_torch, by network size
	$(BIN)/stablegrad bench optimizers --dir benchmarks/results/optimizer_cost

bench-pqn-cost: $(VENV)/.base ## whole PQN trainings on Breakout with Kron beside RAdam, small and large (35 minutes)
	$(BIN)/python benchmarks/pqn_cost.py

bench-kron-digits: $(VENV)/.dev ## Kron beside kron_torch's rule on reshuffled labels, 10 seeds, four phases of 40 epochs (hours; goes on where it was stopped)
	$(BIN)/python benchmarks/kron_digits.py

bench-diagnosis: $(VENV)/.dev ## score the diagnosis on the corpus of real trainings of agents (a minute)
	$(BIN)/python -m benchmarks.diagnosis.risk

bench-corpus: $(VENV)/.dev ## collect the corpus: hundreds of trainings of agents (hours; goes on where it was stopped)
	$(BIN)/python -m benchmarks.diagnosis.corpus

bench-drawn: $(VENV)/.dev ## score the rules on 320 small trainings with a planted fault that they may be tuned on (half an hour)
	$(BIN)/python -m benchmarks.diagnosis --part drawn --no-prescriptions

bench-drawn-held-out: $(VENV)/.dev ## the same on 240 trainings that were drawn by number and held out, with every prescription tried (half an hour)
	$(BIN)/python -m benchmarks.diagnosis --part drawn-held-out

bench-diagnosis-overhead: $(VENV)/.base ## what looks and probings of the diagnosis cost beside updates of PQN (5 minutes)
	$(BIN)/python benchmarks/diagnosis_overhead.py

bench-callback-cost: $(VENV)/.dev ## what the callback costs Stable-Baselines3's DQN and SAC (5 minutes)
	$(BIN)/python benchmarks/callback_cost.py

bench-sb3-verdicts: $(VENV)/.dev ## verdicts on eleven agents of Stable-Baselines3 that learn CartPole or Pendulum (20 minutes)
	$(BIN)/python benchmarks/sb3_verdicts.py

bench-kron-mlp: $(VENV)/.dev ## Kron, RAdam and Adam on deep MLPs, early and with units that died long ago (5 minutes)
	OMP_NUM_THREADS=1 $(BIN)/stablegrad bench optimizers --sizes mlp --optimizers radam adam kron --dir benchmarks/results/optimizer_cost_mlp

bench-study-report: $(VENV)/.base ## size of the report of a study of 200 runs, and its time in a headless Chromium (2 minutes)
	$(BIN)/python benchmarks/study_report.py

bench-bootstrap: $(VENV)/.base ## 10,000 bootstrap replicates of 57 environments: time; how often intervals hold the truth (2 minutes)
	$(BIN)/python benchmarks/bootstrap.py

clean: ## remove the virtual environment and what was built
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.base $@

bench-study-executor: $(VENV)/.base ## a study by one worker and by two, with workers and the study itself killed (5 minutes)
	$(BIN)/python benchmarks/study_executor.py

bench-preflight: $(VENV)/.base ## the pre-flight's verdicts beside how the trainings of the corpus ended (a minute a setting)
	$(BIN)/python benchmarks/preflight_grid.py

bench-symptom-pictures: $(VENV)/.base ## pictures of vanishing gradients, dead units and a falling rank, before and after the fix (6 minutes)
	$(BIN)/python -m benchmarks.symptom_pictures

bench-replay: $(VENV)/.dev ## a replay of a million Atari frames: memory, time of a batch, checkpoints, beside Stable-Baselines3's (5 minutes, 8 GB)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/replay.py

bench-prioritised: $(VENV)/.dev ## what priorities add to a replay of a million transitions (1 minute)
	$(BIN)/python benchmarks/prioritised.py

bench-off-policy-speed: $(VENV)/.dev ## steps/s of DQN and SAC beside Stable-Baselines3 and CleanRL's scripts in CLEANRL=path (8 minutes)
	$(BIN)/python benchmarks/off_policy_speed.py $(CLEANRL)
