#!/usr/bin/env bash
# moto, a real server of S3's protocol that keeps everything in memory.
#
#   moto.sh install DIR        once; into DIR/lib. Exit 77: not to be had here, and why.
#   moto.sh serve DIR PORT - [TLS]   on loopback, in the foreground, for at most QUIPU_SERVER_SECONDS; with
#                              TLS/server.pem and TLS/key.pem over TLS.
set -euo pipefail

pins=$(dirname "$(realpath "$0")")/moto.txt

skip() { echo "skipped: $*" >&2; exit 77; }

install() {
    local dir=$1
    mkdir -p "$dir"
    # Several test programs may want it at once.
    exec 9>"$dir/lock"
    flock 9
    cmp -s "$pins" "$dir/lib/pins" && return
    command -v python3 >/dev/null || skip "python3 is not there to install the S3 server with"
    rm -rf "$dir/new"
    timeout 240 python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --target "$dir/new" -r "$pins" >"$dir/pip.log" 2>&1 \
        || skip "no package registry to install the S3 server from ($(tail -n1 "$dir/pip.log"))"
    PYTHONPATH=$dir/new python3 -c 'import moto.server' 2>>"$dir/pip.log" || skip "the packaged S3 server does not start here"
    cp "$pins" "$dir/new/pins"
    rm -rf "$dir/lib"
    mv "$dir/new" "$dir/lib"
}

serve() {
    export PYTHONPATH=$1/lib PYTHONDONTWRITEBYTECODE=1
    local tls=()
    [ -z "${4:-}" ] || tls=(--ssl --ssl-cert "$4/server.pem" --ssl-key "$4/key.pem")
    exec timeout -k 5 "${QUIPU_SERVER_SECONDS:-600}" python3 -m moto.server -H 127.0.0.1 -p "$2" "${tls[@]}"
}

case ${1:-} in
    install) install "$2" ;;
    serve) shift; serve "$@" ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
