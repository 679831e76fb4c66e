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

# Run the system until Ctrl-C: run [sqlite|postgres] [--replicas N] [--reload]
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

# Bring the databases up to date without running anything: migrate [sqlite|postgres]
[group('run')]
[no-exit-message]
migrate database="sqlite": (_setup "local")
    @exec .venv/bin/orderly migrate {{ database }}

# Replace the keys that sign tokens, while the system runs or not: rotate-keys [--finish] [--help]
[group('run')]
[no-exit-message]
rotate-keys *args: (_setup "local")
    @exec .venv/bin/orderly rotate-keys {{ args }}

# Delete the data, the logs and the keys of `run` and `demo`
[group('run')]
clean:
    rm -rf "${DATA_DIR:-.data}"

# Pass every test: SQLite, PostgreSQL, NATS, newman, all real (the long proofs: `prove`)
[group('check')]
[no-exit-message]
test *args: (_setup "dev")
    @exec {{ python }} -m pytest -n auto --dist worksteal -m "not prove" {{ args }}

# Run the long proofs: every service killed and stopped under way, on both databases
[group('check')]
[no-exit-message]
prove *args: (_setup "dev")
    @exec {{ python }} -m pytest -n auto --dist worksteal -m prove {{ args }}

# Tell stories of the whole system in one process, each from its seed: simulate [--stories N] [--first N] [--seed N] [--verbose]
[group('check')]
[no-exit-message]
simulate *args: (_setup "dev")
    @exec .venv/bin/orderly simulate {{ args }}

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

# Run the Postman collection against a running system: newman [baseUrl]
[group('check')]
[no-exit-message]
newman *args: (_setup "dev")
    @exec .venv/bin/orderly newman {{ args }}

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

# Show who states and who handles each fact, and where in the code: trace ['fact'] [--mermaid | --write]
[group('develop')]
[no-exit-message]
[positional-arguments]
trace *args: (_setup "local")
    @exec .venv/bin/orderly trace "$@"

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
