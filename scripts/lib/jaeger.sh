# shellcheck shell=bash
# Jaeger, which `lifeboat lab up --with jaeger` runs: $LIFEBOAT_JAEGER, else the user's cache folder, filled by Go.
#
# `go install` refuses cmd/all-in-one for its replace directive, so it is built from a module of our own, tools/jaeger.
# For another version: take requirements, replace and go.sum from Jaeger's own go.mod and go.sum of that version, put
# our module's name and the requirement of jaeger itself on top, and run `go mod tidy -e` in tools/jaeger.

JAEGER_PACKAGE=github.com/jaegertracing/jaeger/cmd/all-in-one

provide_jaeger() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/lifeboat/bin building version
    version=$(awk '$1 == "require" && $2 == "github.com/jaegertracing/jaeger" { print $3 }' tools/jaeger/go.mod)
    if [ -n "${LIFEBOAT_JAEGER:-}" ]; then
        [ -x "$LIFEBOAT_JAEGER" ] || die "LIFEBOAT_JAEGER=$LIFEBOAT_JAEGER is no program; correct or unset it"
        return
    fi
    if [ -x "$folder/jaeger" ]; then
        return
    fi
    command -v go >/dev/null ||
        die "Jaeger is built with Go, which is missing; install Go >= 1.21, or set LIFEBOAT_JAEGER to an all-in-one $version"
    mkdir -p "$folder"
    say "Jaeger $version: is built with Go into $folder (2 to 4 minutes)"
    building=$(mktemp --directory "$folder/.building.XXXXXX")
    if CGO_ENABLED=0 timeout --kill-after=5 1200 \
        go -C tools/jaeger build -mod=readonly -trimpath -ldflags="-s -w" -o "$building/jaeger" "$JAEGER_PACKAGE"; then
        mv "$building/jaeger" "$folder/jaeger"
        rm -rf "$building"
    else
        rm -rf "$building"
        die "Jaeger could not be built (see above; Go's module proxy is needed); or set LIFEBOAT_JAEGER to an all-in-one $version"
    fi
}
