# shellcheck shell=bash
# The virtual environment .venv, from requirements-dev.txt with hashes.

STAMP=.venv/lifeboat.stamp

# A Python >= 3.11 that can make a virtual environment with pip in it.
python_for_venv() {
    local each
    for each in python3 python3.13 python3.12 python3.11; do
        if "$each" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$each"
            return
        fi
    done
}

inputs() {
    echo "$PWD"
    .venv/bin/python --version 2>&1
    sha256sum requirements-dev.txt pyproject.toml scripts/lib/python.sh
}

make_environment() {
    local pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
    if [ -e "$STAMP" ] && [ -x .venv/bin/lifeboat ] && [ "$(inputs)" = "$(cat "$STAMP")" ]; then
        return
    fi
    # Through a link, what another checkout works with would be emptied.
    [ ! -L .venv ] || die ".venv is a link to $(readlink .venv); remove the link (rm .venv), then try again"
    rm -f "$STAMP"
    # One that was moved here, or whose interpreter is gone, can't be mended.
    if ! grep -qsF "$PWD/.venv" .venv/pyvenv.cfg || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "virtual environment: .venv"
        "$(python_for_venv)" -m venv --clear .venv
    fi
    say "Python packages: as pinned in requirements-dev.txt"
    timeout 900 "${pip[@]}" install --require-hashes --requirement requirements-dev.txt ||
        die "pip could not install the pinned packages (see above); check the network or pip's own settings, then try again"
    timeout 120 "${pip[@]}" install --no-deps --no-build-isolation --editable . ||
        die "the project itself could not be installed (see above)"
    inputs >"$STAMP"
}
