# Two commands. Each sets up .venv by itself the first time: PyTorch is large, that takes a few minutes; the next run starts at once.
#   make demo    a photo made four times larger, a small network trained: look into demo/
#   make test    everything that is checked before a change lands
# Also: make docs (pages, README and modules from the notebooks), make lab (JupyterLab), make clean,
# make bench (the numbers of the pages Quality and Speed; SISR_DATA names the test images; half an hour on a machine with nothing else to do)

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
BASE := $(shell for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3,11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test docs lab bench clean
.DEFAULT_GOAL := demo

demo: $(READY)
	@$(PY) .ci/demo.py

test: $(READY)
	@$(PY) .ci/test.py

docs: $(READY)
	@$(VENV)/bin/nbdev_export
	@$(VENV)/bin/nbdev_clean
	@$(PY) .ci/site.py

lab: $(READY)
	@$(VENV)/bin/jupyter lab nbs

bench: $(READY)
	@test -d "$(SISR_DATA)" || { echo "SISR_DATA names no folder: make bench SISR_DATA=FOLDER, with benchmarks/Set5 and the like in it" >&2; exit 1; }
	@$(VENV)/bin/sisr bench --no-speed --data "$(SISR_DATA)" --json nbs/results/quality.json
	@$(VENV)/bin/sisr bench --json nbs/results/speed.json

clean:
	rm -rf demo build dist sisr.egg-info _proc _docs
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(READY): settings.ini pyproject.toml setup.py
	@test -x $(PY) || test -n "$(BASE)" || { echo "sisr needs Python 3.11 or newer; here is $$(python3 --version 2>&1). Give one with: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(PY) || { echo "Setting up $(VENV) with $(BASE), once: about 6 GB with PyTorch"; $(BASE) -m venv $(VENV); }
	$(PY) -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@
