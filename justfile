# Every command of the project. `./just` works where only python3 is installed; with uv and just, `just` does.

set shell := ["bash", "-euo", "pipefail", "-c"]

python := ".venv/bin/python"

[private]
default:
    @{{ just_executable() }} --list --unsorted

# Play the story: a fresh system, eight steps, every event (start here)
[group('run')]
[no-exit-message]
demo: (_setup "local")
    @exec .venv/bin/orderly demo

# Run the system until Ctrl-C: run [sqlite|postgres] [--replicas N] [--cluster] [--reload]
[group('run')]
[no-exit-message]
run *args: (_setup "local")
    @exec .venv/bin/orderly run {{ args }}

# Show events as they happen: tail ['subject' or order id]
[group('run')]
[no-exit-message]
tail *subject: (_setup "local")
    @exec .venv/bin/orderly tail {{ if subject == "" { "" } else { quote(subject) } }}

# Attend to messages that were set aside: dead list | show ID | replay ID… | discard ID… --reason TEXT
[group('run')]
[no-exit-message]
[positional-arguments]
dead *args: (_setup "local")
    @exec .venv/bin/orderly dead "$@"

# Read all databases and streams, and say whether the books balance: audit [--watch [SECONDS]] [--json] [--no-streams]
[group('run')]
[no-exit-message]
[positional-arguments]
audit *args: (_setup "local")
    @exec .venv/bin/orderly audit "$@"

# Bring the databases up to date without running anything: migrate [sqlite|postgres]
[group('run')]
[no-exit-message]
migrate database="sqlite": (_setup "local")
    @exec .venv/bin/orderly migrate {{ database }}

# Copy a stopped service's data into an empty database: move-database SERVICE URL [--from URL]
[group('run')]
[no-exit-message]
[positional-arguments]
move-database *args: (_setup "local")
    @exec .venv/bin/orderly move-database "$@"

# Replace the keys that sign tokens, while the system runs or not: rotate-keys [--finish] [--help]
[group('run')]
[no-exit-message]
rotate-keys *args: (_setup "local")
    @exec .venv/bin/orderly rotate-keys {{ args }}

# Run the system in containers, with PostgreSQL: builds the image, starts everything, waits until it is well
[group('run')]
[no-exit-message]
compose-up: (_setup "local")
    @exec .venv/bin/orderly compose-up

# Stop and remove the containers of compose-up: compose-down [--data], which deletes what they kept, too
[group('run')]
[no-exit-message]
compose-down *args: (_setup "local")
    @exec .venv/bin/orderly compose-down {{ args }}

# Delete the data, the logs and the keys of `run` and `demo`
[group('run')]
clean:
    rm -rf "${DATA_DIR:-.data}"

# Install into minikube, or bring up to date what is there: up [--dry-run]
[group('cluster')]
[no-exit-message]
up *args: (_setup "local")
    @exec .venv/bin/orderly up {{ args }}

# Remove from minikube; the data stays unless told otherwise: down [--data] [--dry-run]
[group('cluster')]
[no-exit-message]
down *args: (_setup "local")
    @exec .venv/bin/orderly down {{ args }}

# Pass every test: SQLite, PostgreSQL, NATS, newman, all real (the long proofs: `prove`)
[group('check')]
[no-exit-message]
test *args: (_setup "dev")
    @exec {{ python }} -m pytest -n auto --dist worksteal -m "not prove" {{ args }}

# Run the long proofs: every service killed and stopped under way, the broker's memory lost, a minute's soak, on both databases
[group('check')]
[no-exit-message]
prove *args: (_setup "dev")
    @exec {{ python }} -m pytest -n auto --dist worksteal -m prove {{ args }}

# Make up requests, 2,000 or more a service, and compare every answer with the contract: fuzz [how many]
[group('check')]
[no-exit-message]
fuzz cases="2000": (_setup "dev")
    @FUZZ_CASES={{ cases }} exec {{ python }} -m pytest -n auto -m prove cmd/orderly/tests/test_conformance.py

# Tell stories of the whole system in one process, each from its seed: simulate [--stories N] [--first N] [--seed N] [--verbose]
[group('check')]
[no-exit-message]
simulate *args: (_setup "dev")
    @exec .venv/bin/orderly simulate {{ args }}

# Use a system of its own for minutes while faults happen to it, then audit it: soak [minutes] [sqlite|postgres] [--seed N] [--replicas N]
[group('check')]
[no-exit-message]
soak *args: (_setup "local")
    @exec .venv/bin/orderly soak {{ args }}

# Check style and types
[group('check')]
[no-exit-message]
lint: (_setup "dev")
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy

# Pass the tests and say how much of each package they run; fails below 95 % of the lines of libs and of any service
[group('check')]
[no-exit-message]
coverage *args: (_setup "dev")
    @{{ python }} -m pytest -n auto --dist worksteal -m "not prove" --cov --cov-report= {{ args }}
    @{{ python }} -m libs.tests.covered

# Change the rules, the relay and the stores, one change at a time, and see a test fail: mutate [--workers N] [paths…]
[group('check')]
[no-exit-message]
mutate *args: (_setup "dev")
    @exec {{ python }} -m libs.tests.mutate {{ args }}

# Compare with what people would pick instead: bench [orders|reads|registration|scale|flat|publishing|calls|flames|all] [contestants…] [--rounds N] [--clients N…] [--quick]
[group('check')]
[no-exit-message]
bench *args: (_setup "dev")
    @exec {{ python }} -m bench {{ args }}

# Run the Postman collection against a running system: newman [baseUrl]
[group('check')]
[no-exit-message]
newman *args: (_setup "dev")
    @exec .venv/bin/orderly newman {{ args }}

# Build the image and examine it, and the system that runs from it; without an engine, on Debian as root, with its own
[group('check')]
[no-exit-message]
test-image: (_setup "dev")
    @exec .venv/bin/orderly test-image

# Rewrite what lint can mend
[group('develop')]
format: (_setup "dev")
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Generate the contracts from the code: asyncapi/; or promise them: contracts release [VERSION] [--breaking]
[group('develop')]
[no-exit-message]
contracts *args: (_setup "dev")
    @exec .venv/bin/orderly contracts {{ args }}

# Begin a service that runs, is tested, and stands in every list: new-service NAME [--door] (CONTRIBUTING.md)
[group('develop')]
[no-exit-message]
new-service *args: (_setup "dev")
    @.venv/bin/orderly new-service {{ args }}
    @{{ just_executable() }} _setup dev

# Show who states and who handles each fact, and where in the code: trace ['fact'] [--mermaid | --write]
[group('develop')]
[no-exit-message]
[positional-arguments]
trace *args: (_setup "local")
    @exec .venv/bin/orderly trace "$@"

# Draw the pictures under docs/ whose sources (.mmd, .d2) have changed: pictures [--all]
[group('develop')]
[no-exit-message]
pictures *args: (_setup "dev")
    @exec .venv/bin/orderly pictures {{ args }}

# Renew the locks: the newest versions that pyproject.toml allows, with hashes
[group('develop')]
lock:
    #!/usr/bin/env bash
    set -euo pipefail
    compile() {
        uv pip compile --quiet --universal --upgrade --generate-hashes --python-version 3.11 \
            --custom-compile-command "just lock" "$@"
    }
    compile pyproject.toml --output-file requirements.lock
    compile pyproject.toml --extra local --output-file requirements-local.lock
    compile pyproject.toml --extra local --extra dev --output-file requirements-dev.lock
    printf 'uv\nrust-just\n' | compile - --output-file requirements-tools.lock

# Set up .venv for development: everything that tests and linters need
[group('develop')]
setup: (_setup "dev")

# `local` runs the system; `dev` also tests it. A set-up that is there, and is not older than its lock, is kept.
[private]
_setup level:
    #!/usr/bin/env bash
    set -euo pipefail
    command -v uv >/dev/null || exec ./just _setup {{ level }}
    stamp() { cat pyproject.toml "requirements-$1.lock" | cksum; }
    for level in {{ level }} dev; do
        [ "$(cat ".venv/.$level" 2>/dev/null)" = "$(stamp "$level")" ] && exit 0
    done
    level={{ level }}
    [ ! -e .venv/.dev ] || level=dev
    echo "setting up .venv ($level; once)" >&2
    rm -f .venv/.local .venv/.dev
    [ -x .venv/bin/python ] || uv venv --quiet --no-python-downloads --python "$(command -v python3)" .venv
    uv pip sync --quiet --require-hashes "requirements-$level.lock"
    uv pip install --quiet --no-deps --no-build-isolation --editable .
    stamp "$level" >".venv/.$level"
