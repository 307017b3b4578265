# shellcheck shell=bash
# install_packages PACKAGE…, as root: nothing that it installs is started or left enabled, and nothing that was
# there before is restarted or changed.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C.UTF-8
MARK="lifeboat set-up"
POLICY=/usr/sbin/policy-rc.d
CLUSTERS=/etc/postgresql-common/createcluster.d
log=""

# Its words only when it fails: hundreds of lines otherwise, among which a warning of ours would be lost.
apt() {
    apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        return 1
    }
}

# A unit is enabled by the links that its package makes, whether or not systemd runs here.
enabled() { find /etc/systemd/system -path '*.wants/*' -type l -printf '%f\n' 2>/dev/null | sort -u; }
scripts() { find /etc/init.d -type f -printf '%f\n' 2>/dev/null | sort -u; }

restore() {
    if grep -qs "$MARK" "$POLICY"; then rm -f "$POLICY"; fi
    rm -f "$CLUSTERS/lifeboat.conf"
    rmdir --ignore-fail-on-non-empty "$CLUSTERS" 2>/dev/null || true
    if [ -n "$log" ]; then rm -f "$log"; fi
}
trap restore EXIT
trap 'exit 130' INT TERM HUP

[ $# -gt 0 ] || exit 0

if [ ! -e "$POLICY" ]; then
    # invoke-rc.d asks this before every start: 101 forbids it.
    printf '#!/bin/sh\n# %s: removed when it ends\nexit 101\n' "$MARK" >"$POLICY"
    chmod 755 "$POLICY"
fi
mkdir -p "$CLUSTERS"
echo "create_main_cluster = false" >"$CLUSTERS/lifeboat.conf"

units_before=$(enabled)
scripts_before=$(scripts)
log=$(mktemp)
# One source of several that is out of reach need not keep the packages from us.
apt update || echo "setup: apt-get update failed; going on with the lists that are here" >&2
apt install --yes --no-install-recommends --no-upgrade "$@"

for unit in $(comm -13 <(echo "$units_before") <(enabled)); do
    echo "setup: $unit came with the packages; it is left disabled"
    if [ -d /run/systemd/system ]; then systemctl stop "$unit"; fi
    # Without systemctl (a container) the links are all that enables it.
    if ! { command -v systemctl && systemctl disable "$unit"; } >/dev/null 2>&1; then
        find /etc/systemd/system -path '*.wants/*' -type l -name "$unit" -delete
    fi
done
for script in $(comm -13 <(echo "$scripts_before") <(scripts)); do
    # Where a policy-rc.d of somebody else's let it start.
    if [ ! -d /run/systemd/system ]; then "/etc/init.d/$script" stop >/dev/null 2>&1 || true; fi
    update-rc.d "$script" disable >/dev/null 2>&1 || echo "setup: $script could not be disabled; do it by hand" >&2
done
