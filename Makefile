# make run    install into .venv, then test EMO's claims on real digits (minutes on a laptop)
# make test   every check that CI makes
# make bench  speed and memory beside the peers
# make results  re-run every study at laptop scale: results/*.json and README's table

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: run test lint bench results clean

run: $(INSTALLED)
	$(BIN)/repertory run emo

test: $(INSTALLED) lint
	$(BIN)/pytest -n 2 --dist worksteal --durations 15

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: $(INSTALLED)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

results: $(INSTALLED)
	$(BIN)/repertory record

clean:
	rm -rf .venv runs

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[chem,detection,graphs,medicine,ray,spiking,test]'
	touch $@
