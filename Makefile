# make demo: compile the small trained checkpoint and generate text with it. make test: everything that must pass.
# make test-cann CANN_HEADERS=DIR: generated Ascend sources against the headers of CANN; takes an hour or two.
# make test-avx512: the kernels for AVX-512 under an emulator, on a Debian machine with bochs; takes an hour.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CHECKPOINT := models/openpangu-2.0-tiny
ARTIFACT := build/tiny.pangu
PROMPT ?= In the beginning
TEST_JOBS ?= 2
# PyPI's Linux wheel of torch brings CUDA along; TORCH_INDEX=https://download.pytorch.org/whl/cpu gets the small one.
TORCH_INDEX ?=
PIP_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: all demo test lint types unit test-avx512 test-cann clean

all: demo

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[compile,test]' -c constraints.txt $(PIP_INDEX)
	touch $@

demo: $(VENV)/.installed
	mkdir -p build
	$(BIN)/pangu-compile build $(CHECKPOINT) -o $(ARTIFACT)
	@printf "\n%s" "$(PROMPT)"
	@$(BIN)/pangu-compile run $(ARTIFACT) --prompt "$(PROMPT)" --max-new-tokens 160 \
		--temperature 0.6 --top-p 0.9 --seed 5

test: lint types unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .

# mypy cannot follow an editable install whose folders are mapped, so it gets the package as links.
types: $(VENV)/.installed
	rm -rf build/typing && mkdir -p build/typing/pangu_compile
	ln -s $(CURDIR)/compiler/* $(CURDIR)/passes $(CURDIR)/codegen $(CURDIR)/runtime $(CURDIR)/models build/typing/pangu_compile/
	MYPYPATH=build/typing $(BIN)/mypy

unit: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadgroup

test-avx512: $(VENV)/.installed
	$(BIN)/python -m tests.emulated

test-cann: $(VENV)/.installed
	CANN_HEADERS=$(CANN_HEADERS) $(BIN)/python -m pytest tests/ascend/test_toolkit.py

clean:
	rm -rf build
