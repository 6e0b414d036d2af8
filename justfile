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
    cargo clippy --workspace --all-targets --features bucket -- -D warnings
    cargo clippy -p quipu --no-default-features --all-targets -- -D warnings

# The tests of every change. Arguments go to cargo: `just test -p quipu-store tree::`.
test *args:
    cargo test --workspace "$@"

# Those that take minutes as well (random models with more cases, crash sweeps), and none skipped for want of a tool.
test-all:
    PROPTEST_CASES=2000 QUIPU_REQUIRE_INDEPENDENT=1 QUIPU_REQUIRE_SERVERS=1 cargo test --workspace --features bucket -- --include-ignored

# Write the published vectors anew. A diff there is a change of a format.
bless:
    QUIPU_BLESS=1 cargo test --workspace --test vectors
    git diff --stat -- tests/vectors

bench *args:
    cargo bench "$@"

# Every point of the kill matrix (minutes), then so many random pairs of faults.
kill-matrix pairs="5000":
    QUIPU_CAMPAIGN=full cargo test --test campaign stopped_anywhere -- --nocapture
    QUIPU_CAMPAIGN=pairs QUIPU_CAMPAIGN_POINTS={{pairs}} cargo test --test campaign stopped_anywhere -- --nocapture

# Power cuts: so many images of ext4, XFS and btrfs, and the broken disciplines. Needs root, loop devices, `mkfs.xfs`.
powercut images="500":
    QUIPU_CAMPAIGN=powercut QUIPU_CAMPAIGN_POINTS={{images}} cargo test --test campaign powercut -- --nocapture --test-threads=1

# Sixteen processes on one store that are killed, for so many seconds.
crowd seconds="600":
    QUIPU_CAMPAIGN=crowd QUIPU_CAMPAIGN_SECONDS={{seconds}} cargo test --test campaign crowd -- --nocapture

# BuildGrid with PostgreSQL and a worker, as cache and as a server that executes. Needs a package registry, PostgreSQL's
# programs and bubblewrap.
buildgrid:
    QUIPU_REQUIRE_SERVERS=1 cargo test -p quipu-remote --test servers buildgrid -- --ignored --nocapture

# Each fuzz target for so many seconds. Needs a nightly toolchain and cargo-fuzz.
fuzz seconds="60":
    cd fuzz && for target in $(cargo +nightly fuzz list); do mkdir -p "found/$target" && cargo +nightly fuzz run "$target" "found/$target" "corpus/$target" -- -max_total_time={{seconds}} || exit 1; done

docs:
    cargo doc --workspace --no-deps --open

docs-check:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
