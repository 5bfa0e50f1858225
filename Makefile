# The commands of the README. `make demo` and `make test` need a Rust toolchain and nothing else: what a bare Debian or
# Ubuntu lacks for Vulkan is installed by scripts/ensure-vulkan.sh, which says so.

CARGO ?= cargo
PYTHON ?= python3
ROSETTE := target/release/rosette

# Where rustup puts cargo, for shells that were open before it came.
export PATH := $(PATH):$(HOME)/.cargo/bin
# The software driver warns where there is no runtime directory, or an empty name.
ifeq ($(strip $(XDG_RUNTIME_DIR)),)
XDG_RUNTIME_DIR := $(CURDIR)/target/runtime
endif
export XDG_RUNTIME_DIR

.PHONY: demo test races bench lint portable compare build ensure

build: ensure
	$(CARGO) build --release --locked

ensure:
	@scripts/ensure-vulkan.sh
	@mkdir -p -m 700 "$(XDG_RUNTIME_DIR)"

# Synthetic tissue, a short training, plots and predictions, in ./demo
demo: build
	$(ROSETTE) demo --output-dir demo

# With REQUIRE_GPU=1 a machine without an adapter fails instead of skipping the GPU tests.
test: ensure
	$(CARGO) test --release --locked

# All kernels once more, watched for races in a workgroup's memory, and whole steps on emulated matrix units: minutes on a
# software adapter.
races: ensure
	WATCH_RACES=1 $(CARGO) test --release --locked --test ops --test moments --test slices
	$(CARGO) test --release --locked --test trust -- --ignored whole_steps_on_matrix_units

# A training step by kernel on this device, then what runs on the processor.
bench: build
	$(ROSETTE) bench --step
	$(CARGO) bench --locked --bench host

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --no-deps

# Whether it compiles for Windows and macOS; needs rustup, which brings the two standard libraries.
portable:
	rustup target add x86_64-pc-windows-gnu aarch64-apple-darwin
	$(CARGO) check --locked --target x86_64-pc-windows-gnu --target aarch64-apple-darwin

# The training step against PyTorch on this machine; needs a Python with torch.
compare: build
	$(PYTHON) benches/compare/compare.py --rosette $(ROSETTE)
