# make run              install into .venv, then test EMO's claims on real digits (minutes on a laptop)
# make test             every check that CI makes
# make test PAPER=emo   one room: its tests, its doctests, its part of the contract, with its extra alone
# make test-slow        the tests that take minutes; before results are recorded
# make bench            speed and memory beside the peers
# make results          re-run every study at laptop scale: results/*.json and README's table

PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/.run
TEST := .venv/.test
PAPER ?=

.PHONY: run test test-slow lint bench results clean

run: $(RUN)
	$(BIN)/repertory run emo

ifeq ($(PAPER),)
test: $(TEST) lint
	$(BIN)/pytest -n 2 --dist loadgroup
else
test: $(TEST)-$(PAPER)
	$(BIN)/pytest --paper $(PAPER)
endif

test-slow: $(TEST)
	$(BIN)/pytest -m slow $(if $(PAPER),--paper $(PAPER))

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: $(TEST)
	$(BIN)/python benchmarks

results: $(TEST) test-slow
	$(BIN)/repertory record

clean:
	rm -rf .venv runs

$(RUN): pyproject.toml
	@echo "installing repertory and what it needs into .venv; torch is most of it"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable .
	@touch $@

$(TEST): $(RUN)
	@echo "adding the tools of the tests and the optional packages of all papers"
	$(BIN)/python -m pip install --editable '.[all,test]'
	@touch $@

# The card says which optional packages a paper needs.
$(TEST)-%: $(RUN)
	@extra=$$($(BIN)/python -c "import repertory; print(repertory.card('$*').extra)") && \
	echo "adding the tools of the tests and the optional packages of $*: $${extra:-none}" && \
	$(BIN)/python -m pip install --editable ".[test$${extra:+,$$extra}]"
	@touch $@
