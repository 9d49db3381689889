# Two verbs for a fresh machine with Python: `make demo` and `make test`. Everything goes into .venv.
# `make lowest` has a .venv-lowest of its own.
PYTHON ?= python3
BIN := .venv/bin
# NVIDIA builds DALI for these; elsewhere the torchvision loader does its work.
EXTRAS := $(shell case "$$(uname -sm)" in ("Linux x86_64"|"Linux aarch64") echo dali,dev;; (*) echo dev;; esac)

DATA ?= data
OUT ?= scratch

.PHONY: demo scratch both test check docs pytest lowest clean
MAKEFLAGS += --jobs=2

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

demo: .venv/installed ## synthetic eyes -> cache -> a short fit -> confusion matrix, on the CPU
	rm -rf demo
	$(BIN)/tools phantom demo/eyes --eyes 800
	$(BIN)/tools preprocess demo/eyes --out demo/cache --size 128
	$(BIN)/tools sheet demo/cache demo/sheet.png
	$(BIN)/trainer fit --cache demo/cache --run demo/run --weights none --size 96 --epochs 8 --lr 0.05
	@echo "pictures: demo/sheet.png demo/run/accuracy.png demo/run/confusion_test.png"

# The file of each rule is the last one that its commands write. A training that was stopped goes on.
fit = $(BIN)/trainer fit --run $(1) $(if $(wildcard $(1)/config.json),--resume,$(2))

scratch: $(OUT)/run/summary.json ## DATA's photographs -> a run in OUT, without pretrained weights: painted lesions first
both: $(OUT)/both/summary.json ## the same, and then a run that takes the patient's other eye into account

$(OUT)/both/summary.json: $(OUT)/run/summary.json
	$(call fit,$(OUT)/both,--fellow-eye $(OUT)/run --cache $(OUT)/graham)

$(OUT)/run/summary.json: $(OUT)/painted/run/summary.json $(OUT)/graham/cache.json
	$(call fit,$(OUT)/run,--recipe after-lesions --cache $(OUT)/graham --weights $(OUT)/painted/run/model.safetensors)

$(OUT)/painted/run/summary.json: $(OUT)/painted/cache/cache.json
	$(call fit,$(OUT)/painted/run,--recipe lesions --cache $(OUT)/painted/cache)

$(OUT)/painted/cache/cache.json: $(OUT)/cache/cache.json
	$(BIN)/tools phantom $(OUT)/painted/eyes --onto $(OUT)/cache --eyes 6400
	$(BIN)/tools preprocess $(OUT)/painted/eyes --enhance graham --out $(OUT)/painted/cache

$(OUT)/cache/cache.json: | .venv/installed
	$(BIN)/tools preprocess $(DATA) --out $(OUT)/cache

$(OUT)/graham/cache.json: | .venv/installed
	$(BIN)/tools preprocess $(DATA) --enhance graham --out $(OUT)/graham

check: docs ## ruff, the documentation site, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed ## the documentation site, into build/site; a dead link, a missing anchor or an unlisted page fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: check pytest ## ruff, mypy, the site, pytest: within 8 minutes on two free cores; mypy runs while pytest does

pytest: .venv/installed ## tests/conftest.py puts the longest files first
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.venv-lowest/installed: pyproject.toml tests/lowest.py
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[$(EXTRAS),gcs]'
	touch $@

lowest: .venv-lowest/installed ## pytest with the lowest releases that pyproject.toml allows, in .venv-lowest
	.venv-lowest/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

clean:
	rm -rf .venv .venv-lowest demo build
