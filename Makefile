# Everything here sets up .venv by itself, from the python3 on the path, and is quick once that is done.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DATA ?= ../shared/data
# Each worker takes a contiguous stretch of the tests, so that few fixtures of a file or a folder are made twice.
WORKERS := --numprocesses auto --dist worksteal
# Threads that wait give their core away: on a machine with other work, spinning made two threads five times dearer than one.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup demo demo-train test test-all test-floors test-newest test-extras mutants bench papers papers-all lint types format docs clean

help:
	@echo "make demo      robustness radii of twenty CIFAR-10 images: a table and a picture, in a few minutes after the setup"
	@echo "make demo-train   trains the demonstration's small networks anew, in five minutes on two cores; DATA=folder of images"
	@echo "make test      the tests (12 to 30 minutes on two cores); make test-all also runs the slow ones"
	@echo "make test-floors and test-newest: the tests with the oldest and newest packages allowed; make test-extras: with every extra"
	@echo "make mutants   small changes to the code that judges: does a test fail for each? (half an hour)"
	@echo "make docs      the documentation site, into build/site"
	@echo "make bench     the tables of README.md and docs/benchmarks.md; for the latter DATA=folder of networks and images"
	@echo "make papers    the papers' tables and figures, on ten to two hundred images: three quarters of an hour; make papers-all: the rest, ten hours"
	@echo "make lint      style; make types: the type checker; make format: rewrite in style"

setup: $(READY)

# Built beside and marked last: an installation that was broken off is taken up again.
$(READY): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit(f"plica needs Python 3.10 or newer, $(PYTHON) is {v[0]}.{v[1]}; try make PYTHON=python3.12")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { echo "No virtual environment could be made; on Debian: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet -c requirements/constraints.txt -e ".[demo,peers,see,perceptual,dev,docs]"
	@touch $@

demo: $(READY)
	$(BIN)/python -m plica.demo

demo-train: $(READY)
	$(BIN)/python benchmarks/training.py --data $(DATA) --ways standard radius-union --each 20 --into build/demo-train
	$(BIN)/python benchmarks/demo_weights.py build/demo-train

test: $(READY)
	$(BIN)/python -m pytest $(WORKERS)

test-all: $(READY)
	$(BIN)/python -m pytest $(WORKERS) --every-call -m ""

# Environments of their own, made anew each time. The floors of pyproject.toml on the oldest Python, and no upper bounds on the
# newest: make PYTHON=/path/to/python3.10 test-floors where it is not on the path. What old packages say about the deprecations
# of newer ones is ignored there, as Python does for users.
test-floors: PYTHON = python3.10
test-floors: RESOLUTION = lowest-direct
test-newest: PYTHON = python3.13
test-newest: RESOLUTION = highest
test-floors test-newest:
	rm -rf build/$@
	$(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install --quiet uv
	build/$@/bin/uv pip install --quiet --python build/$@/bin/python --resolution $(RESOLUTION) -e ".[all,dev]"
	build/$@/bin/python -m pytest $(WORKERS) -W ignore::DeprecationWarning

# Every extra, the packages that come by hand, and those that other people's training loops are written with, at the versions of
# requirements/: no test is skipped for want of a package.
test-extras:
	rm -rf build/$@
	$(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install --quiet -c requirements/constraints.txt -e ".[all,dev]" accelerate pytorch-lightning
	build/$@/bin/python -m pip install --quiet --no-deps -r requirements/by-hand.txt
	build/$@/bin/python -m pytest $(WORKERS) --extras -m "not slow or extra"

# A seeded sample; SAMPLE=0 takes all.
SAMPLE ?= 150
mutants: $(READY)
	$(BIN)/python benchmarks/mutants.py --sample $(SAMPLE) --into build/mutants.json

bench: $(READY)
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/radii.py --data $(DATA) --into docs/benchmarks.md --figure docs/radii

# Three quarters of an hour of one core: resnet_2b of DATA, ten to two hundred images.
PAPERS = $(BIN)/python benchmarks/papers
papers: $(READY)
	$(PAPERS)/table1.py --data $(DATA) --nets resnet_2b --n 60 --attacks APGD-ce APGD-margin PWCF-ce PWCF-margin auto
	$(PAPERS)/table2.py --data $(DATA) --nets resnet_2b --n 200
	$(PAPERS)/table3.py --data $(DATA) --n 40
	$(PAPERS)/figure1.py --data $(DATA) --seconds 1.5
	$(PAPERS)/figure6.py --data $(DATA) --n 100 --evaluations 250 --gradients 50
	$(PAPERS)/figure8.py --data $(DATA) --n 48
	$(PAPERS)/magnitudes.py --data $(DATA) --nets resnet_2b
	$(PAPERS)/section2.py --data $(DATA) --n 25
	$(PAPERS)/appendix_a.py --data $(DATA) --n 100 --steps 50
	$(PAPERS)/appendix_b.py --data $(DATA) --n 30 --evaluations 250
	$(PAPERS)/ablations.py --data $(DATA) --n 100 --evaluations 100

# The rest, as many images as the scripts' own defaults and the networks of benchmarks/training.py: some ten hours of one core.
TRAINED ?= build/training
papers-all: papers
	$(PAPERS)/table1.py --data $(DATA)
	$(PAPERS)/table2.py --data $(DATA)
	$(PAPERS)/table3.py --data $(DATA) --nets resnet_2b resnet18
	$(BIN)/python benchmarks/table4.py --data $(DATA) --net resnet_2b --images 50
	$(PAPERS)/figure1.py --data $(DATA)
	$(PAPERS)/figure6.py --data $(DATA)
	$(PAPERS)/figure8.py --data $(DATA)
	$(PAPERS)/section2.py --data $(DATA)
	$(PAPERS)/appendix_a.py --data $(DATA)
	$(PAPERS)/appendix_b.py --data $(DATA)
	$(PAPERS)/ablations.py --data $(DATA)
	$(BIN)/python benchmarks/training.py --data $(DATA) --into $(TRAINED) --sets table --seeds 1
	$(PAPERS)/table1.py --data $(DATA) --trained $(TRAINED) --nets pgd-l1-0 pgd-l2-0 pgd-linf-0 pat-0.05-0
	$(BIN)/python benchmarks/table4.py --data $(DATA) --net trained --weights $(TRAINED)/pat-0.05-0.safetensors --images 50
	$(PAPERS)/magnitudes.py --data $(DATA) --trained $(TRAINED) --nets resnet_2b cifar_wide_kw standard-0
	$(PAPERS)/training.py --data $(DATA) --trained $(TRAINED) --nets standard-0 pgd-l1-0 pgd-l2-0 pgd-linf-0 radius-l2-0 radius-union-0 pat-0.05-0

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Strict: any warning fails, among them a link to nowhere and a docstring or type that cannot be resolved.
docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --fresh-env --jobs auto -d build/doctrees docs build/site
	@! grep -rlE '<(script|link|img)[^>]*(src|href)="(https?:)?//' build/site || { echo "These pages ask another server for a file."; exit 1; }

clean:
	rm -rf .venv .pytest_cache .ruff_cache dist build
