# shellcheck shell=bash
# The Temporal CLI: $LIFEBOAT_TEMPORAL, else PATH, else the user's cache folder, filled by the SDK's own download or by Go.

TEMPORAL_VERSION=v1.5.1

provide_temporal() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/lifeboat/bin
    if [ -n "${LIFEBOAT_TEMPORAL:-}" ]; then
        [ -x "$LIFEBOAT_TEMPORAL" ] || die "LIFEBOAT_TEMPORAL=$LIFEBOAT_TEMPORAL is no program; correct or unset it"
        return
    fi
    if command -v temporal >/dev/null || [ -x "$folder/temporal" ]; then
        return
    fi
    mkdir -p "$folder"
    say "Temporal CLI $TEMPORAL_VERSION: the SDK's own download"
    if timeout --kill-after=5 180 .venv/bin/python scripts/download_temporal.py \
        "$TEMPORAL_VERSION" "$folder/temporal"; then
        return
    fi
    install_with_go "$folder"
}

install_with_go() {
    local folder=$1 building
    local how="set LIFEBOAT_TEMPORAL to a Temporal CLI $TEMPORAL_VERSION, or put one on PATH"
    command -v go >/dev/null ||
        die "the Temporal CLI is missing: its download failed, and there is no Go to build it with; install Go >= 1.21, or $how"
    say "Temporal CLI $TEMPORAL_VERSION: is built with Go into $folder (about 3 minutes)"
    building=$(mktemp --directory "$folder/.building.XXXXXX")
    if GOBIN=$building CGO_ENABLED=0 timeout --kill-after=5 1200 \
        go install "github.com/temporalio/cli/cmd/temporal@$TEMPORAL_VERSION"; then
        mv "$building/temporal" "$folder/temporal"
        rm -rf "$building"
    else
        rm -rf "$building"
        die "the Temporal CLI could not be built (see above; Go >= 1.21 and its module proxy are needed); or $how"
    fi
}
