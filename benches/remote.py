#!/usr/bin/env python3
"""What a server costs and brings: ten copies of examples/tour, here and on buildbox-casd, with the bytes that moved.

usage: benches/remote.py QUIPU [ROUNDS]     the command to measure; the server is installed by tests/servers/casd.sh

Every round is done in full before the next, so that what else the machine does falls on all rows alike. Medians; ratios
mean more than seconds.
"""
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUIPU = os.path.abspath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
COPIES = 10


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Meter:
    """A proxy that counts."""

    def __init__(self, to):
        self.to, self.sent, self.received = to, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.to))
            for pair in ((client, server, "sent"), (server, client, "received")):
                threading.Thread(target=self.copy, args=pair, daemon=True).start()

    def copy(self, source, target, name):
        try:
            while data := source.recv(1 << 16):
                setattr(self, name, getattr(self, name) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def take(self):
        moved, self.sent, self.received = (self.sent, self.received), 0, 0
        return moved


def workspace(dir, salt):
    """Ten copies, none of whose compilations is another's."""
    os.makedirs(dir)
    with open(f"{dir}/quipu.toml", "w") as file:
        file.write('[workspace]\nmembers = ["copy*"]\n')
    for n in range(COPIES):
        shutil.copytree(f"{ROOT}/examples/tour", f"{dir}/copy{n}")
        path = f"{dir}/copy{n}/quipu.toml"
        text = open(path).read().replace("[workspace]\n", "", 1)
        assert "-std=c11" in text
        open(path, "w").write(text.replace("-std=c11", f"-std=c11 -DCOPY={salt}_{n}", 1))


def run(dir, name, config, *arguments):
    """Seconds, and the last event."""
    os.makedirs(f"{dir}/{name}", exist_ok=True)
    with open(f"{dir}/{name}/config.toml", "w") as file:
        file.write(config)
    env = dict(os.environ, QUIPU_STORE=f"{dir}/{name}/store", QUIPU_CONFIG=f"{dir}/{name}")
    start = time.monotonic()
    ran = subprocess.run([QUIPU, "-C", f"{dir}/ws", "run", "--json", *arguments], env=env, capture_output=True, text=True)
    took = time.monotonic() - start
    assert ran.returncode == 0, [line for line in ran.stdout.splitlines() if "failed" in line]
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    warnings = [e for e in events if e.get("event") == "warning"]
    assert not warnings, warnings
    return took, events[-1]


def clean(dir):
    """What tasks put into the workspace is not there in a checkout."""
    for n in range(COPIES):
        for name in ("bin", "obj", "gen", "lib"):
            shutil.rmtree(f"{dir}/ws/copy{n}/{name}", ignore_errors=True)


def round_of(number, rows):
    with tempfile.TemporaryDirectory() as dir:
        casd, port = f"{ROOT}/target/servers/casd", free_port()
        server = subprocess.Popen([f"{ROOT}/tests/servers/casd.sh", "serve", casd, str(port), f"{dir}/data", "--exec"])
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.05)
            meter = Meter(port)

            def row(name, store, config, *arguments):
                took, summary = run(dir, store, config, *arguments)
                rows.setdefault(name, []).append((took, *meter.take(), summary))

            def fresh(part):
                shutil.rmtree(f"{dir}/ws", ignore_errors=True)
                workspace(f"{dir}/ws", f"{number}_{part}")

            farm = f'[remote.farm]\nurl = "grpc://127.0.0.1:{meter.port}"\nread = false\nsame-tools = true\nslots = '
            for slots in (1, 2):
                fresh(slots)
                row(f"cold, one slot here, {slots} there", f"farm{slots}", f"{farm}{slots}\n", "-j1", "--remote", "farm")
            fresh(0)
            row("cold, one slot here", "alone", "", "-j1")
            fresh(9)
            cache = f'[remote.cache]\nurl = "grpc://127.0.0.1:{meter.port}"\n'
            row("cold, two slots here, all sent on", "first", cache + "push = true\n", "-j2")
            row("nothing to do, asked for again", "first", cache, "-j2")
            clean(dir)
            row("all known, placed from the store", "first", cache, "-j2")
            clean(dir)
            shutil.copyfile(f"{dir}/first/key", f"{dir}/key")
            os.makedirs(f"{dir}/second")
            shutil.copyfile(f"{dir}/key", f"{dir}/second/key")
            os.chmod(f"{dir}/second/key", 0o600)
            row("another store, placed from the cache", "second", cache, "-j2")
        finally:
            server.terminate()
            server.wait()


def main():
    rows = {}
    for number in range(ROUNDS):
        round_of(number, rows)
    print("| | seconds | ran | blobs fetched | kB sent | kB received |\n|---|---|---|---|---|---|")
    for name, all in rows.items():
        seconds = statistics.median(r[0] for r in all)
        sent, received = (statistics.median(r[n] for r in all) / 1000 for n in (1, 2))
        last = all[-1][3]
        counts = last.get("counts", last)
        print(f"| {name} | {seconds:.2f} | {counts.get('ran')} | {last.get('fetched')} | {sent:.0f} | {received:.0f} |")


main()
