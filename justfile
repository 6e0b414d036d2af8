# The parts of `.ci/run`, and what takes longer.

set positional-arguments

# List what there is.
default:
    @just --list

# Everything that is fast and has no tests in it: format, lints, docs, spelling and licences where the tools are there.
check: fmt-check lint docs-check
    @if command -v typos > /dev/null; then typos; else echo "skipped: typos is not installed"; fi
    @if command -v cargo-deny > /dev/null; then cargo deny --log-level error check; else echo "skipped: cargo-deny is not installed"; fi

fmt:
    cargo fmt --all

fmt-check:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets -- -D warnings

# The tests of every change. Arguments go to cargo: `just test -p quipu-store tree::`.
test *args:
    cargo test --workspace "$@"

# Those that take minutes as well (random models with more cases, crash sweeps), and none skipped for want of a tool.
test-all:
    PROPTEST_CASES=2000 QUIPU_REQUIRE_INDEPENDENT=1 cargo test --workspace -- --include-ignored

# Write the published vectors anew. A diff there is a change of a format.
bless:
    QUIPU_BLESS=1 cargo test --workspace --test vectors
    git diff --stat -- tests/vectors

bench *args:
    cargo bench "$@"

# Each fuzz target for so many seconds. Needs a nightly toolchain and cargo-fuzz.
fuzz seconds="60":
    for target in $(cargo +nightly fuzz list); do cargo +nightly fuzz run "$target" -- -max_total_time={{seconds}} || exit 1; done

docs:
    cargo doc --workspace --no-deps --open

docs-check:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
