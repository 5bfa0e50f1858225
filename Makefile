# The commands of the README. `make demo` and `make test` need a Rust toolchain and nothing else: what a bare Debian or
# Ubuntu lacks for Vulkan is installed by scripts/ensure-vulkan.sh, which says so.

CARGO ?= cargo
PYTHON ?= python3
ROSETTE := target/release/rosette

# The software driver warns without a runtime directory of its own. Recursive, so that only recipes that use it make one.
export XDG_RUNTIME_DIR ?= $(shell mkdir -p -m 700 "$${TMPDIR:-/tmp}/rosette-runtime-$$(id -u)" && echo "$${TMPDIR:-/tmp}/rosette-runtime-$$(id -u)")

.PHONY: demo test bench lint compare build ensure

build:
	$(CARGO) build --release --locked

ensure:
	@scripts/ensure-vulkan.sh

# Synthetic tissue, a short training, plots and predictions, in ./demo
demo: ensure
	$(CARGO) build --release --locked
	$(ROSETTE) demo --output-dir demo

# With REQUIRE_GPU=1 a machine without an adapter fails instead of skipping the GPU tests.
test: ensure
	$(CARGO) test --release --locked

bench: ensure
	$(CARGO) bench --locked

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps

# The training step against PyTorch on this machine; needs a Python with torch.
compare: ensure
	$(CARGO) build --release --locked
	$(PYTHON) benches/compare/compare.py --rosette $(ROSETTE)
