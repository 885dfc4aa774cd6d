# `make demo` and `make test` do all their own set-up: a bare machine needs only
# Python >= 3.10, pip and make. Nothing needs a GPU.
PYTHON ?= python3
VENV ?= .venv
VENV_ORIGINAL ?= .venv-original
VENV_WHEEL ?= .venv-wheel
# Two processes share a machine's cores.
JOBS ?= 2
# More arguments of `make train`, or of `make test`: ARGS='tests/test_docs.py -x'
ARGS ?=
ON_CPU := OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=

.PHONY: install demo demo-seg demo-det train test lint docs test-original test-wheel test-gpu gpu-day benchmarks

# What walks the documented ways, and needs nothing of the checkout.
WAYS := $(addprefix tests/,test_cli.py test_named_bases.py test_own_data.py \
	test_readme.py test_docs.py)

# Made once per set of requirements; a second `make install` does nothing.
STAMP := $(VENV)/.installed
STAMP_ORIGINAL := $(VENV_ORIGINAL)/.installed
STAMP_DOCS := $(VENV)/.installed-docs
SOURCES := setup.py pyproject.toml $(wildcard requirements/*.txt)

install: $(STAMP)

$(STAMP): $(SOURCES)
	@echo "Installing into $(VENV), once: 7 GB, some minutes. pip is quiet meanwhile."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet -e '.[current,det,seg,brain,tests,lint]'
	$(VENV)/bin/pip check
	touch $@

$(STAMP_ORIGINAL): $(SOURCES)
	$(PYTHON) -m venv $(VENV_ORIGINAL)
	$(VENV_ORIGINAL)/bin/pip install --quiet --upgrade pip
	$(VENV_ORIGINAL)/bin/pip install --quiet -e '.[original,tests]'
	$(VENV_ORIGINAL)/bin/pip check
	touch $@

demo: $(STAMP)
	$(VENV)/bin/python tools/demo.py --jobs $(JOBS)

# The same for segmentation and detection, on scenes made of the digits.
demo-seg: $(STAMP)
	$(VENV)/bin/python tools/demo.py --task segmentation --jobs $(JOBS)

demo-det: $(STAMP)
	$(VENV)/bin/python tools/demo.py --task detection --jobs $(JOBS)

# make train CONFIG=configs/cakd/demo_digits.py ARGS='--work-dir work_dirs/mine'
train: $(STAMP)
	$(VENV)/bin/python tools/train.py $(CONFIG) $(ARGS)

test: $(STAMP)
	$(ON_CPU) $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# What a CUDA GPU is needed for: `make test` hides it, and runs the same on the CPU.
test-gpu: $(STAMP)
	$(VENV)/bin/python -c 'import torch; torch.cuda.init()'
	$(VENV)/bin/python -m pytest tests/test_gpu.py

# What only a GPU can tell, in pieces: docs/guides/gpu_day.md.
gpu-day: $(STAMP)
	PYTHON=$(VENV)/bin/python tools/gpu_day.sh $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# What only the site needs.
$(STAMP_DOCS): $(STAMP)
	$(VENV)/bin/pip install --quiet -r requirements/docs.txt
	$(VENV)/bin/pip check
	touch $@

# The site, in docs/_build/html. ARGS='-D nb_execution_mode=off' leaves the tutorial
# unexecuted, which is faster.
docs: $(STAMP_DOCS)
	$(ON_CPU) $(VENV)/bin/python -m sphinx -b html -W --keep-going $(ARGS) \
		docs docs/_build/html

test-original: $(STAMP_ORIGINAL)
	$(ON_CPU) PYTHONPATH=tests $(VENV_ORIGINAL)/bin/python -m pytest -n $(JOBS) \
		-p count_plugin -m 'not current_only'

# The ways of README and docs once more, from the wheel in an environment of its own,
# outside the checkout: what a user has who installs it.
test-wheel:
	rm -rf $(VENV_WHEEL)
	$(PYTHON) -m venv $(VENV_WHEEL)
	$(VENV_WHEEL)/bin/pip install --quiet --upgrade pip build
	$(VENV_WHEEL)/bin/python -m build --outdir $(VENV_WHEEL)/dist .
	$(VENV_WHEEL)/bin/pip install --quiet \
		"$$(ls $(abspath $(VENV_WHEEL))/dist/*.whl)[current,tests]"
	$(VENV_WHEEL)/bin/pip check
	mkdir $(VENV_WHEEL)/outside
	cp -r README.md docs tests pyproject.toml $(VENV_WHEEL)/outside
	cd $(VENV_WHEEL)/outside && $(ON_CPU) ../bin/pytest -n $(JOBS) $(WAYS)

# The numbers of research/docs/speed.md, of this machine; of its GPU, if it has one.
benchmarks: $(STAMP)
	PYTHON=$(abspath $(VENV))/bin/python benchmarks/all.sh
