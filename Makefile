# Everything happens in the local environment .venv; your own Python is never touched.
UV := $(shell command -v uv || echo .venv/bin/uv)
RUN := $(UV) run --no-sync
.DEFAULT_GOAL := help

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Inexact: what was put into .venv beside the lock, such as torch by .ci/torch, stays.
setup: ## make the local environment with everything that development needs
	@command -v uv >/dev/null || sh .ci/uv
	@$(UV) sync --frozen --inexact --quiet --compile-bytecode

demo: setup ## the main job on 336,776 real flights: build, test, register, serve, ask
	@$(RUN) python examples/flights/demo.py $(DEMO)

check: setup ## format, lint, types, imports and the fast tests
	@$(RUN) ruff format --check --quiet . && $(RUN) ruff check --quiet . && $(RUN) mypy && $(RUN) lint-imports >/dev/null
	@$(RUN) pytest -q tests/unit tests/laws tests/house

test: setup ## everything: the checks and all tests, with the real command line and servers
	@$(RUN) ruff format --check --quiet . && $(RUN) ruff check --quiet . && $(RUN) mypy && $(RUN) lint-imports
	@$(RUN) pytest -q --numprocesses auto --maxprocesses 4 --dist loadgroup

docs: setup ## write the generated reference pages and build the documentation into site/
	@$(RUN) python -m docs.reference && $(RUN) mkdocs build --strict --quiet

bench: setup ## measure: cost per model beside plain loops, the registry at a million versions
	@$(RUN) python bench/fleet.py --flights --mlflow && $(RUN) python bench/growth.py && $(RUN) python bench/registry.py && $(RUN) python bench/release.py

campaign: setup ## kill -9 at 100 random moments and at every step of a release, faults of a node, bad models, canaries, ten minutes of fuzzing, known clients
	@$(RUN) python bench/campaign.py $(CAMPAIGN) && $(RUN) python bench/restarts.py --kill && $(RUN) python bench/faults.py && $(RUN) python bench/bad_models.py && \
	$(RUN) python bench/release_faults.py && $(RUN) python bench/canaries.py && \
	$(RUN) python bench/fuzz.py --seconds 600 && $(RUN) python bench/foreign_clients.py

clean: ## remove the local environment and everything that was made
	@rm -rf .venv dist site bench/out examples/flights/.modelmill examples/flights/data
