#!/usr/bin/env python3
"""What runs cost beside what other programs take for the same: medians, spread and ratios.

usage: benches/ratios.py [PART ...]      parts: start tasks layers files tree hash spawn growth (default: all but growth)

QUIPU names the binary, else target/release/quipu of this checkout is used. Two programs that are compared take turns, so
that drift of the machine hits both. What is not installed (ninja, b3sum) is left out and said so. TMPDIR says where the
trees are made. QUIPU_BENCH_TASKS and QUIPU_BENCH_FILES are lists of sizes, by default `1000 10000`.
"""
import math, os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ROUNDS = 9
QUIPU = os.environ.get("QUIPU", str(Path(__file__).resolve().parent.parent / "target/release/quipu"))
JOBS = f"-j{os.cpu_count()}"
RUN = [QUIPU, "run", "-q", JOBS]
NINJA = ["ninja", "--quiet", JOBS]
SIZES = lambda name: [int(n) for n in os.environ.get(name, "1000 10000").split()]


class Place:
    """A directory for trees, with a store in it that nobody else uses."""

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory()
        self.top = Path(self.dir.name)
        self.env = {**os.environ, "QUIPU_STORE": str(self.top / "store"), "QUIPU_CONFIG": str(self.top / "config")}
        return self

    def __exit__(self, *_):
        self.dir.cleanup()

    def time(self, cmd, root="."):
        """Seconds of wall time, and of processor time with that of children."""
        start = time.perf_counter()
        child = subprocess.Popen(cmd, cwd=self.top / root, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = child.stderr.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - start
        if child.returncode:
            sys.exit(f"{cmd} failed: {said.decode()}")
        return took, used.ru_utime + used.ru_stime


def show(what, ours, theirs=None, name=""):
    """A line of the table; the ratios are of wall and of processor time."""
    def one(values):
        seconds = [v[0] * 1e3 for v in values]
        spread = f"{min(seconds):.1f}-{max(seconds):.1f}"
        return f"{statistics.median(seconds):.1f} ms ({spread}), cpu {cpu(values) * 1e3:.1f}"
    cpu = lambda values: statistics.median(v[1] for v in values)
    wall = lambda values: statistics.median(v[0] for v in values)
    if theirs:
        ratios = f"{wall(ours) / wall(theirs):.2f} / {cpu(ours) / max(cpu(theirs), 1e-4):.2f}"
        print(f"| {what} | {one(ours)} | {name}: {one(theirs)} | {ratios} |", flush=True)
    else:
        print(f"| {what} | {one(ours)} | | |", flush=True)


def turns(ours, theirs, before=lambda n: None, rounds=ROUNDS):
    """Both in turn, some rounds; `before` makes each round different."""
    a, b = [], []
    for n in range(rounds):
        before(n)
        a.append(ours())
        if theirs:
            b.append(theirs())
    return a, b


def have(program):
    if not shutil.which(program):
        print(f"({program} is not on the PATH: left out)")
        return False
    return True


def start():
    with Place() as p:
        a, b = turns(lambda: p.time([QUIPU, "--version"]), lambda: p.time(["true"]), rounds=31)
        show("--version", a, b, "true")


def graph(root, tasks, layers):
    """Copies of tiny files, each alone or made of three of the layer before."""
    (root / "src").mkdir(parents=True)
    (root / "out").mkdir()
    toml, ninja = ['[workspace]\nsandbox = "none"\n'], ["rule r\n  command = $cmd\n  restat = 1\n"]
    width = tasks // layers
    for layer in range(layers):
        for i in range(width):
            name, src = f"l{layer}t{i}", f"src/l{layer}t{i}.txt"
            deps = [f"out/l{layer - 1}t{(i + k) % width}.txt" for k in range(3)] if layer else []
            out, ins = f"out/{name}.txt", [src, *deps]
            (root / src).write_text(f"source of {name}\n")
            argv = ["cp", src, out] if layers == 1 else ["sh", "-c", f"cat {' '.join(ins)} | cksum > {out}"]
            shell = f"cp {src} {out}" if layers == 1 else argv[2]
            toml.append(f"[task.{name}]\nrun = {quoted(argv)}\ninputs = {quoted(ins)}\noutputs = {quoted([out])}\n")
            ninja.append(f"build {out}: r {' '.join(ins)}\n  cmd = {shell}\n")
    (root / "quipu.toml").write_text("".join(toml))
    (root / "build.ninja").write_text("".join(ninja))


def quoted(texts):
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


def against_ninja(tasks, layers):
    if not have("ninja"):
        return
    with Place() as p:
        for tool in ("q", "n"):
            graph(p.top / tool, tasks, layers)
        ours, theirs = (lambda: p.time(RUN, "q")), (lambda: p.time(NINJA, "n"))
        what = f"{tasks} tasks, {layers} layers" if layers > 1 else f"{tasks} tasks"
        show(f"{what}: cold", [ours()], [theirs()], "ninja")
        for _ in range(3):          # what was too young to be relied on grows old
            ours(), theirs(), time.sleep(0.05)
        show(f"{what}: nothing to do", *turns(ours, theirs), "ninja")

        def edit(n):
            for tool in ("q", "n"):
                (p.top / tool / "src/l0t0.txt").write_text(f"edit {n}\n")
        show(f"{what}: one edit", *turns(ours, theirs, edit), "ninja")
        show(f"{what}: outputs deleted", turns(ours, None, lambda n: shutil.rmtree(p.top / "q/out"), rounds=3)[0])


def tasks():
    for n in SIZES("QUIPU_BENCH_TASKS"):
        against_ninja(n, 1)


def layers():
    for n in SIZES("QUIPU_BENCH_TASKS"):
        against_ninja(n, 10)


def data(root, files):
    for i in range(files):
        path = root / f"data/{i // 100}/{i % 100}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{i}\n" * 20)


def files():
    if not have("ninja"):
        return
    for n in SIZES("QUIPU_BENCH_FILES"):
        with Place() as p:
            for tool in ("q", "n"):
                data(p.top / tool, n)
            (p.top / "q/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "echo > out"\n'
                                                'inputs = ["data/**/*.txt"]\noutputs = ["out"]\n')
            names = " ".join(f"data/{i // 100}/{i % 100}.txt" for i in range(n))
            (p.top / "n/build.ninja").write_text(f"rule r\n  command = echo > out\nbuild out: r {names}\n")
            ours, theirs = (lambda: p.time(RUN, "q")), (lambda: p.time(NINJA, "n"))
            show(f"{n} inputs: cold", [ours()], [theirs()], "ninja")
            for _ in range(3):
                ours(), theirs(), time.sleep(0.05)
            show(f"{n} inputs: nothing to do", *turns(ours, theirs), "ninja")


def tree():
    with Place() as p:
        data(p.top / "ws", 10_000)
        (p.top / "ws/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "cp -r data copy"\n'
                                             'inputs = ["data/**/*.txt"]\noutputs = ["copy/"]\n')
        p.time(RUN, "ws"), p.time(RUN, "ws")

        def away(_):
            shutil.rmtree(p.top / "ws/copy")
            shutil.rmtree(p.top / "ws/other", ignore_errors=True)
        show("tree of 10000 files put back", *turns(
            lambda: p.time(RUN, "ws"), lambda: p.time(["cp", "-r", "data", "other"], "ws"), away, 5), "cp -r")


def hashing():
    if not have("b3sum"):
        return
    with Place() as p:
        (p.top / "ws").mkdir()
        with open(p.top / "ws/big", "wb") as f:
            for _ in range(2048):
                f.write(os.urandom(1 << 20))
        (p.top / "ws/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "echo > out"\n'
                                             'inputs = ["big"]\noutputs = ["out"]\n')
        p.time(RUN, "ws")
        show("2 GiB whose time changed", *turns(
            lambda: p.time(RUN, "ws"), lambda: p.time(["b3sum", "big"], "ws"), lambda _: os.utime(p.top / "ws/big"), 5), "b3sum")


def spawn():
    loop = "import os\nfor _ in range(1000): os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)"
    for sandbox in ("none", "ns"):
        with Place() as p:
            (p.top / "ws").mkdir()
            text = [f'[workspace]\nsandbox = "{sandbox}"\n']
            text += [f'[task.t{i}]\nrun = ["true"]\ninputs = []\nenv = {{ N = "@{i}" }}\n' for i in range(1000)]

            def anew(n):
                (p.top / "ws/quipu.toml").write_text("".join(text).replace("@", f"{n}."))
            ours = lambda: p.time([*RUN[:-1], "-j1"], "ws")
            show(f"1000 times true, {sandbox}", *turns(ours, lambda: p.time([sys.executable, "-c", loop]), anew, 5), "posix_spawn")


def growth():
    """How the cost of a run with nothing to do grows, both ways; the slope is that of time over size, in logarithms."""
    for long in (False, True):
        last = None
        for n in [100, 1000, 10_000, 100_000]:
            with Place() as p:
                graph(p.top / "ws", n, 1)
                # Made by the store itself: what is measured is the run after.
                p.time(RUN, "ws")
                for _ in range(3):
                    p.time(RUN, "ws"), time.sleep(0.05)
                if long:
                    p.env["QUIPU_GLANCE"] = "0"
                runs, _ = turns(lambda: p.time(RUN, "ws"), None, rounds=5)
                median = statistics.median(r[0] for r in runs)
                slope = "" if last is None else f", slope {math.log10(median / last):.2f}"
                last = median
                show(f"{n} tasks, {'all looked up' if long else 'glance'}{slope}", runs)


PARTS = {"start": start, "tasks": tasks, "layers": layers, "files": files, "tree": tree, "hash": hashing, "spawn": spawn,
         "growth": growth}

for part in sys.argv[1:] or [name for name in PARTS if name != "growth"]:
    if part not in PARTS:
        sys.exit(f"{part} is none of {' '.join(PARTS)}")
    PARTS[part]()
