# shellcheck shell=bash
# What the lab needs from Debian: looked for by what it runs, so that servers installed in other ways count.

POLICY=/usr/sbin/policy-rc.d
MARK="lifeboat set-up"

require_debian() {
    local ID="" ID_LIKE="" release=${OS_RELEASE:-/etc/os-release}
    if [ -r "$release" ]; then . "$release"; fi
    case " $ID $ID_LIKE " in
        *" debian "* | *" ubuntu "*) ;;
        *) die "this is ${ID:-an unknown system}; set-up knows Debian's kind only (Debian 12 or newer, Ubuntu 24.04 or newer)" ;;
    esac
}

postgres_bin() {
    local folder
    if [ -n "${LIFEBOAT_PG_BIN:-}" ]; then
        [ -x "$LIFEBOAT_PG_BIN/initdb" ] || die "LIFEBOAT_PG_BIN=$LIFEBOAT_PG_BIN holds no initdb; correct or unset it"
        echo "$LIFEBOAT_PG_BIN"
        return
    fi
    for folder in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort --version-sort --reverse); do
        if [ -x "$folder/initdb" ] && [ "$(basename "$(dirname "$folder")")" -ge 15 ]; then
            echo "$folder"
            return
        fi
    done
}

missing_packages() {
    local pair
    [ -n "$(postgres_bin)" ] || echo postgresql
    for pair in pgbouncer:pgbouncer pgpool:pgpool2 knotd:knot kdig:knot-dnsutils ip:iproute2 iptables:iptables haproxy:haproxy \
        sshd:openssh-server redis-server:redis-server rabbitmq-server:rabbitmq-server pgbackrest:pgbackrest \
        mkfs.xfs:xfsprogs; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done
    [ -n "$(python_for_venv)" ] || echo python3-venv
}

install_missing_packages() {
    local missing sudo=() environment=()
    # A bad LIFEBOAT_PG_BIN must end set-up, not a subshell of it.
    postgres_bin >/dev/null
    missing=$(missing_packages | tr '\n' ' ')
    if [ -z "$missing" ] && ! grep -qs "$MARK" "$POLICY"; then
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null ||
            die "packages are missing: $missing; have root install them (apt-get install $missing), or install sudo"
        sudo=(sudo)
        # Without a terminal sudo's password could never be typed.
        [ -t 0 ] || sudo=(sudo -n)
        "${sudo[@]}" true || die "sudo refuses; have root install: apt-get install $missing"
    fi
    for name in http_proxy https_proxy no_proxy; do
        [ -z "${!name:-}" ] || environment+=("$name=${!name}")
    done
    say "Debian packages: ${missing:-(left over from a set-up that was cut off)}"
    # By text, not by path: root may not be able to read this checkout (a network home).
    # shellcheck disable=SC2086 # one word a package
    "${sudo[@]}" env "${environment[@]}" bash -c "$(cat scripts/lib/install_packages.sh)" install_packages $missing \
        </dev/null || die "apt could not install $missing (see above); install them by hand, then try again"
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] ||
        die "still missing: $missing(needed: PostgreSQL >= 15, Python >= 3.11; Debian 12 or Ubuntu 24.04 have both)"
}
