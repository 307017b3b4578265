# shellcheck shell=bash
# The Compose specification's own parser, which checks docker-compose.yml: $LIFEBOAT_COMPOSE_SPEC, else built with Go into the
# user's cache folder. Nothing but that check needs it, so set-up goes on without.

COMPOSE_SPEC_VERSION=v2.16.2

provide_compose_parser() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/lifeboat/bin building
    local program=$folder/compose-spec-$COMPOSE_SPEC_VERSION
    if [ -n "${LIFEBOAT_COMPOSE_SPEC:-}" ]; then
        [ -x "$LIFEBOAT_COMPOSE_SPEC" ] || die "LIFEBOAT_COMPOSE_SPEC=$LIFEBOAT_COMPOSE_SPEC is no program; correct or unset it"
        return
    fi
    if [ -x "$program" ]; then return; fi
    if ! command -v go >/dev/null; then
        say "docker-compose.yml can't be checked: that takes Go >= 1.21, which is not here"
        return
    fi
    mkdir -p "$folder"
    say "Compose parser $COMPOSE_SPEC_VERSION: is built with Go into $folder"
    building=$(mktemp --directory "$folder/.building.XXXXXX")
    if GOBIN=$building CGO_ENABLED=0 timeout --kill-after=5 600 \
        go install "github.com/compose-spec/compose-go/v2/cmd@$COMPOSE_SPEC_VERSION"; then
        mv "$building/cmd" "$program"
    else
        say "docker-compose.yml can't be checked: its parser could not be built (see above)"
    fi
    rm -rf "$building"
}
