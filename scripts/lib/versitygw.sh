# shellcheck shell=bash
# versitygw, an S3 server over a folder, for the lab's backups, and the tests of what is kept in object storage. Built
# into the user's cache.

VERSITYGW_VERSION=v1.8.0

provide_versitygw() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/lifeboat/bin building
    if command -v versitygw >/dev/null || [ -x "$folder/versitygw" ]; then
        return
    fi
    command -v go >/dev/null || die "versitygw is missing, and there is no Go to build it with; put one on PATH"
    mkdir -p "$folder"
    say "versitygw $VERSITYGW_VERSION: is built with Go into $folder (about 1 minute)"
    building=$(mktemp --directory "$folder/.building.XXXXXX")
    if GOBIN=$building CGO_ENABLED=0 timeout --kill-after=5 900 \
        go install "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW_VERSION"; then
        mv "$building/versitygw" "$folder/versitygw"
        rm -rf "$building"
    else
        rm -rf "$building"
        die "versitygw could not be built (see above; Go and its module proxy are needed); or put one on PATH"
    fi
}
