#!/usr/bin/env bash
# BuildGrid with PostgreSQL and a worker: a server of the Remote Execution API that schedules, on one machine.
#
#   buildgrid.sh install DIR          once; BuildGrid, and the runner that casd.sh installs. Exit 77: not to be had, and why.
#   buildgrid.sh serve DIR PORT DATA  on loopback, in the foreground, for at most QUIPU_SERVER_SECONDS. Needs initdb and
#                                     pg_ctl (PostgreSQL 12 or later) and bubblewrap.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

skip() { echo "skipped: $*" >&2; exit 77; }

# PostgreSQL's own programs are not on everybody's PATH.
postgres() {
    command -v initdb >/dev/null || PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n1)
    command -v initdb >/dev/null && command -v pg_ctl >/dev/null || skip "PostgreSQL (initdb, pg_ctl) is not there"
}

install() {
    local dir=$1
    mkdir -p "$dir"
    exec 9>"$dir/lock"
    flock 9
    postgres
    "$here/casd.sh" install "$dir/casd"
    [ -x "$dir/v/bin/bgd" ] && return
    rm -rf "$dir/v"
    python3 -m venv "$dir/v" || skip "python3 makes no environments (python3-venv)"
    # Its newest release that runs with Python 3.11; the driver is the one its notifications need.
    timeout 600 "$dir/v/bin/pip" install --quiet --disable-pip-version-check 'buildgrid==0.4.4' psycopg2-binary \
        >"$dir/pip.log" 2>&1 || { rm -rf "$dir/v"; skip "no package registry to install BuildGrid from ($(tail -n1 "$dir/pip.log"))"; }
}

serve() {
    local dir port=$2 data=$3
    dir=$(realpath "$1")
    postgres
    mkdir -p "$data"
    data=$(realpath "$data")
    local sql=$((port + 1)) as=()
    # PostgreSQL does not run as root.
    if [ "$(id -u)" = 0 ]; then
        as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
        chmod 755 "$data"
    fi
    mkdir -p "$data/db"
    [ "$(id -u)" != 0 ] || chown nobody:nogroup "$data/db"
    "${as[@]}" env PATH="$PATH" initdb -D "$data/db" -A trust -U bgd --no-sync >"$data/initdb.log"
    local pids=()
    stop() {
        trap - EXIT TERM INT
        for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
        "${as[@]}" env PATH="$PATH" pg_ctl -D "$data/db" -m immediate stop >/dev/null 2>&1 || true
        wait
    }
    trap stop EXIT
    trap 'exit 0' TERM INT
    "${as[@]}" env PATH="$PATH" pg_ctl -D "$data/db" -w -l "$data/db/log" \
        -o "-c listen_addresses=127.0.0.1 -p $sql -k $data/db -c fsync=off" start >/dev/null
    local url="postgresql+psycopg2://bgd@127.0.0.1:$sql"
    "$dir/v/bin/python" - "$url" <<'PY'
import sys
from sqlalchemy import create_engine, text
with create_engine(sys.argv[1] + "/postgres", isolation_level="AUTOCOMMIT").connect() as c:
    c.execute(text("create database bgd"))
PY
    sed -e "s,@PORT@,$port,; s,@SQL@,$url/bgd,; s,@DATA@,$data," "$here/buildgrid.yml" > "$data/buildgrid.yml"
    "$dir/v/bin/bgd" migrate apply "$url/bgd" >"$data/migrate.log" 2>&1
    "$dir/v/bin/bgd" server start "$data/buildgrid.yml" >"$data/bgd.log" 2>&1 &
    pids+=($!)
    local binds=()
    for bind in /usr:/usr /usr/bin:/bin /usr/lib:/lib /usr/lib64:/lib64 /etc/alternatives:/etc/alternatives; do
        [ ! -e "${bind%%:*}" ] || binds+=(--ro-bind-mount="$bind")
    done
    PATH=$dir/casd/bin:/usr/bin:/bin BUILDBOX_RUN=$dir/casd/bin/buildbox-run \
        "$dir/v/bin/python" "$here/bot.py" "127.0.0.1:$port" 2 --disable-localcas "${binds[@]}" >"$data/bot.log" 2>&1 &
    pids+=($!)
    sleep "${QUIPU_SERVER_SECONDS:-600}" &
    pids+=($!)
    # Whoever ends first ends all.
    wait -n
}

case ${1:-} in
    install) install "$2" ;;
    serve) shift; serve "$@" ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
