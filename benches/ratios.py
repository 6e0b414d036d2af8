#!/usr/bin/env python3
"""What runs cost beside what other programs take for the same: medians, spread and ratios, as the tables of docs/performance.md.

usage: benches/ratios.py [--quick] [PART ...]

parts: start null change cold restore files memory tree hash spawn kill plan runs growth receipts (default: all, about ten minutes on
a quiet machine; --quick leaves out what takes long). Two programs that are compared take turns, and who begins alternates, so that
drift of the machine hits both; ratios are of medians. Wall and processor time (user and system, children included) are in
milliseconds. Nothing is deleted before the end: on ext4 without a journal whoever makes files looks at all that were deleted in the
last minutes (docs/performance.md, "Where the limit lies"), so wait as long after a run of this, or name a TMPDIR with a journal.

QUIPU names the binary, else target/release/quipu of this checkout is used; `plan`, `runs` and `receipts` need the examples
(`cargo build --release -p quipu-runtime -p quipu-store --examples`) beside it. What is not installed (ninja, b3sum, turbo with bun) is
left out and said so. TMPDIR says where the trees are made. QUIPU_BENCH_TASKS, QUIPU_BENCH_FILES and QUIPU_BENCH_RECEIPTS are lists of sizes.
"""
import atexit, json, math, os, shutil, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ARGS = [a for a in sys.argv[1:] if a != "--quick"]
QUICK = "--quick" in sys.argv
QUIPU = os.environ.get("QUIPU", str(Path(__file__).resolve().parent.parent / "target/release/quipu"))
JOBS = f"-j{os.cpu_count()}"
RUN = [QUIPU, "run", "-q", JOBS]
NINJA = ["ninja", "--quiet", JOBS]
ROUNDS = 5 if QUICK else 9


def sizes(name, usual, quick):
    return [int(n) for n in os.environ.get(name, quick if QUICK else usual).split()]


TASKS = sizes("QUIPU_BENCH_TASKS", "1000 10000", "1000")
FILES = sizes("QUIPU_BENCH_FILES", "10000 100000", "10000")
RECEIPTS = sizes("QUIPU_BENCH_RECEIPTS", "10 1000 100000", "10 1000")


class Place:
    """A directory for trees, with a store in it that nobody else uses. Whoever is measured sees the locale that tasks of
    quipu see: what a locale costs each process that reads one is not what is compared."""

    def __init__(self):
        self.top = Path(tempfile.mkdtemp(prefix="quipu-ratios-"))
        atexit.register(shutil.rmtree, self.top, ignore_errors=True)
        self.env = {**os.environ, "QUIPU_STORE": str(self.top / "store"), "QUIPU_CONFIG": str(self.top / "config"),
                    "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

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

    def rest(self, *runs):
        """What was too young to be relied on grows old."""
        for _ in range(3):
            for run in runs:
                run()
            time.sleep(0.05)


def table(title, *columns):
    print(f"\n### {title}\n\n| what | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)


COMPARED = ("quipu: wall (least-most), cpu", "beside: wall (least-most), cpu", "ratio of wall / of cpu")


def one(values):
    wall = [v[0] * 1e3 for v in values]
    spread = f" ({min(wall):.1f}-{max(wall):.1f})" if len(wall) > 1 else ""
    return f"{statistics.median(wall):.1f}{spread}, {statistics.median(v[1] for v in values) * 1e3:.1f}"


def show(what, ours, theirs=None, name=""):
    """A line of a table; the ratios are of wall and of processor time."""
    by = lambda values, n: max(statistics.median(v[n] for v in values), 1e-4)
    if theirs:
        ratios = f"**{by(ours, 0) / by(theirs, 0):.2f}** / {by(ours, 1) / by(theirs, 1):.2f}"
        print(f"| {what} | {one(ours)} | {name} {one(theirs)} | {ratios} |", flush=True)
    else:
        print(f"| {what} | {one(ours)} | | |", flush=True)


def turns(ours, theirs, before=lambda n: None, rounds=None):
    """Both in turn, some rounds, beginning with one and then with the other; `before` makes each round different."""
    a, b = [], []
    for n in range(rounds or ROUNDS):
        before(n)
        if theirs and n % 2:
            b.append(theirs())
        a.append(ours())
        if theirs and n % 2 == 0:
            b.append(theirs())
    return a, b


def have(program):
    if not shutil.which(program):
        print(f"({program} is not on the PATH: left out)")
        return False
    return True


def start():
    table("Start", *COMPARED)
    p = Place()
    show("`--version`", *turns(lambda: p.time([QUIPU, "--version"]), lambda: p.time(["true"]), rounds=31), "`true`")


def graph(root, tasks, layers, sandbox="none"):
    """Copies of tiny files, each alone or made of three of the layer before."""
    (root / "src").mkdir(parents=True)
    (root / "out").mkdir()
    toml, ninja = [f'[workspace]\nsandbox = "{sandbox}"\n'], ["rule r\n  command = $cmd\n  restat = 1\n"]
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


def graphs(tasks, layers, sandbox="none"):
    """The same workload for quipu and for ninja, in a place of its own."""
    p = Place()
    graph(p.top / "q", tasks, layers, sandbox)
    graph(p.top / "n", tasks, layers)
    return p


def called(tasks, layers):
    return f"{tasks} tasks" + (f" in {layers} layers" if layers > 1 else "")


def both(tasks, layers, measure):
    if have("ninja"):
        p = graphs(tasks, layers)
        measure(p, called(tasks, layers), lambda: p.time(RUN, "q"), lambda: p.time(NINJA, "n"))


def null():
    table("Nothing to do (target 1.0)", *COMPARED)

    def measure(p, named, ours, theirs):
        ours(), theirs(), p.rest(ours, theirs)
        show(named, *turns(ours, theirs), "ninja")
    for n in TASKS:
        both(n, 1, measure)
        both(n, 10, measure)


def change():
    table("One edit (target 1.1 in layers)", *COMPARED)

    def measure(p, named, ours, theirs):
        def edit(n):
            for tool in ("q", "n"):
                (p.top / tool / "src/l0t0.txt").write_text(f"edit {n}\n")
        ours(), theirs(), p.rest(ours, theirs)
        show(named, *turns(ours, theirs, edit), "ninja")
    for n in TASKS:
        both(n, 1, measure)
        both(n, 10, measure)


def cold():
    table("Cold (target 1.1; 1.6 with `ns`)", *COMPARED)
    if not have("ninja"):
        return
    for n in TASKS:
        for layers in (1, 10):
            for sandbox in ("none", "ns"):
                if n > 1000 and (layers, sandbox) == (10, "ns"):
                    continue            # takes minutes, and says what the others say
                places = [graphs(n, layers, sandbox) for _ in range(5 if n <= 1000 else 1)]
                left = iter(places)
                now = []
                runs = turns(lambda: now[-1].time(RUN, "q"), lambda: now[-1].time(NINJA, "n"),
                             lambda _: now.append(next(left)), len(places))
                show(f"{called(n, layers)}, `{sandbox}`", *runs, "ninja")


def restore():
    # Moved away, and not deleted: see above.
    table("Outputs put back after they were moved away (target 0.2 of Turborepo)", *COMPARED)
    for n in TASKS:
        for layers in (1, 10):
            p = Place()
            graph(p.top / "q", n, layers)
            p.time(RUN, "q"), p.time(RUN, "q")
            shutil.copytree(p.top / "q/out", p.top / "q/kept")

            def away(k):
                (p.top / "q/out").rename(p.top / f"out-{k}")
                if k:
                    (p.top / "q/other").rename(p.top / f"other-{k}")
            ours, rounds = (lambda: p.time(RUN, "q")), 5 if n <= 1000 else 3
            runs = turns(ours, lambda: p.time(["cp", "-r", "kept", "other"], "q"), away, rounds)
            show(called(n, layers), *runs, "`cp -r`")
            if n > 1000 or not have("turbo") or not have("bun"):
                continue
            packages(p, p.top / "t", n, layers)
            turbo = ["turbo", "run", "build", "--output-logs=none", f"--concurrency={os.cpu_count()}", "--ui=stream"]
            p.time(turbo, "t"), p.time(turbo, "t")

            def both_away(k):
                (p.top / "q/out").rename(p.top / f"out-again-{k}")
                (p.top / f"t-{k}").mkdir()
                for out in (p.top / "t/pkgs").glob("*/out.txt"):
                    out.rename(p.top / f"t-{k}/{out.parent.name}")
            show(called(n, layers), *turns(ours, lambda: p.time(turbo, "t"), both_away, rounds), "Turborepo")


def packages(p, root, tasks, layers):
    """The workload of `graph` for Turborepo: a package for each task, in a repository, which it is faster with."""
    p.env |= {"TURBO_TELEMETRY_DISABLED": "1", "TURBO_NO_UPDATE_NOTIFIER": "1", "DO_NOT_TRACK": "1"}
    root.mkdir()
    said = {"name": "root", "private": True, "packageManager": "bun@1.3.0", "workspaces": ["pkgs/*"]}
    (root / "package.json").write_text(json.dumps(said))
    (root / "turbo.json").write_text(json.dumps(
        {"tasks": {"build": {"dependsOn": ["^build"], "inputs": ["src.txt"], "outputs": ["out.txt"]}}}))
    (root / ".gitignore").write_text("out.txt\nnode_modules\n.turbo\n")
    width = tasks // layers
    for layer in range(layers):
        for i in range(width):
            name = f"l{layer}t{i}"
            deps = [f"l{layer - 1}t{(i + k) % width}" for k in range(3)] if layer else []
            made = f"cat src.txt {' '.join(f'../{d}/out.txt' for d in deps)} | cksum > out.txt"
            package = root / "pkgs" / name
            package.mkdir(parents=True)
            (package / "src.txt").write_text(f"source of {name}\n")
            (package / "package.json").write_text(json.dumps(
                {"name": name, "version": "1.0.0", "private": True, "dependencies": {d: "*" for d in deps},
                 "scripts": {"build": made if layers > 1 else "cp src.txt out.txt"}}))
    git = ["git", "-c", "user.name=quipu", "-c", "user.email=quipu@localhost", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=root, check=True)


def data(root, files):
    for i in range(files):
        path = root / f"data/{i // 100}/{i % 100}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{i}\n" * 20)


def files():
    table("One task with many inputs, by pattern (target 1.0 when nothing is to do)", *COMPARED)
    if not have("ninja"):
        return
    for n in FILES:
        p = Place()
        for tool in ("q", "n"):
            data(p.top / tool, n)
        (p.top / "q/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "echo > out"\n'
                                            'inputs = ["data/**/*.txt"]\noutputs = ["out"]\n')
        names = " ".join(f"data/{i // 100}/{i % 100}.txt" for i in range(n))
        (p.top / "n/build.ninja").write_text(f"rule r\n  command = echo > out\nbuild out: r {names}\n")
        ours, theirs = (lambda: p.time(RUN, "q")), (lambda: p.time(NINJA, "n"))
        show(f"{n} inputs, cold (ninja reads no content)", [ours()], [theirs()], "ninja")
        p.rest(ours, theirs)
        show(f"{n} inputs, nothing to do", *turns(ours, theirs), "ninja")

        def edit(k):
            for tool in ("q", "n"):
                (p.top / tool / "data/0/0.txt").write_text(f"edit {k}\n")
        show(f"{n} inputs, one edit", *turns(ours, theirs, edit, 5), "ninja")


def memory():
    table("Most memory of a run with nothing to do (target 3 times ninja)", "quipu, MB", "ninja, MB", "ratio")
    if not have("ninja") or not Path("/usr/bin/time").exists():
        return

    def measure(p, named, ours, theirs):
        ours(), theirs(), p.rest(ours, theirs)

        def most(cmd, root, **more):
            said = subprocess.run(["/usr/bin/time", "-f", "%M", *cmd], cwd=p.top / root, env={**p.env, **more},
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True).stderr
            return int(said.split()[-1]) / 1024
        quipu, ninja, long = most(RUN, "q"), most(NINJA, "n"), most(RUN, "q", QUIPU_GLANCE="0")
        print(f"| {named} | {quipu:.1f} | {ninja:.1f} | {quipu / ninja:.2f} |")
        print(f"| {named}, all looked up | {long:.1f} | {ninja:.1f} | {long / ninja:.2f} |", flush=True)
    for n in TASKS:
        both(n, 1, measure)


def tree():
    table("A tree of 10,000 files put back (target 1.2)", *COMPARED)
    p = Place()
    data(p.top / "ws", 10_000)
    (p.top / "ws/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "cp -r data copy"\n'
                                         'inputs = ["data/**/*.txt"]\noutputs = ["copy/"]\n')
    p.time(RUN, "ws"), p.time(RUN, "ws")

    def away(k):
        (p.top / "ws/copy").rename(p.top / f"copy-{k}")
        if k:
            (p.top / "ws/other").rename(p.top / f"other-{k}")
    show("10,000 files", *turns(
        lambda: p.time(RUN, "ws"), lambda: p.time(["cp", "-r", "data", "other"], "ws"), away, 5), "`cp -r`")


def hashing():
    table("Reading inputs whose times changed (target 1.1)", *COMPARED)
    if not have("b3sum"):
        return
    small, big = (10_000, 256) if QUICK else (100_000, 2048)
    p = Place()
    (p.top / "ws").mkdir()
    with open(p.top / "ws/big", "wb") as f:
        for _ in range(big):
            f.write(os.urandom(1 << 20))
    (p.top / "ws/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "echo > out"\n'
                                         'inputs = ["big"]\noutputs = ["out"]\n')
    p.time(RUN, "ws")
    show(f"{big} MiB in one file", *turns(
        lambda: p.time(RUN, "ws"), lambda: p.time(["b3sum", "big"], "ws"), lambda _: os.utime(p.top / "ws/big"), 5), "`b3sum`")
    p = Place()
    data(p.top / "ws", small)
    (p.top / "ws/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "echo > out"\n'
                                         'inputs = ["data/**/*.txt"]\noutputs = ["out"]\n')
    p.time(RUN, "ws")

    def touch(_):
        for path in (p.top / "ws/data").rglob("*.txt"):
            os.utime(path)
    show(f"{small} small files", *turns(
        lambda: p.time(RUN, "ws"),
        lambda: p.time(["sh", "-c", "find data -name '*.txt' -print0 | xargs -0 b3sum"], "ws"), touch, 3), "`b3sum`")


def spawn():
    table("`true`, 1,000 times, one after the other, with receipts (target 1.5; 3 with `ns`)", *COMPARED)

    def loop():
        start, used = time.perf_counter(), os.times()
        for _ in range(1000):
            os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        now = os.times()
        return time.perf_counter() - start, sum(now[:4]) - sum(used[:4])
    for sandbox in ("none", "ns"):
        p = Place()
        (p.top / "ws").mkdir()
        text = [f'[workspace]\nsandbox = "{sandbox}"\n']
        text += [f'[task.t{i}]\nrun = ["true"]\ninputs = []\nenv = {{ N = "@{i}" }}\n' for i in range(1000)]

        def anew(n):
            (p.top / "ws/quipu.toml").write_text("".join(text).replace("@", f"{n}."))
        show(f"`{sandbox}`", *turns(lambda: p.time([*RUN[:-1], "-j1"], "ws"), loop, anew, 5), "`posix_spawn`")


def kill():
    table("Killed (SIGKILL) when half is done, then again (target: at most 2 done twice)", "done, then", "done twice")
    for sandbox in ("none", "ns"):
        p = Place()
        graph(p.top / "ws", 200, 10, sandbox)
        child = subprocess.Popen([*RUN, "--json"], cwd=p.top / "ws", env=p.env, stdout=subprocess.PIPE, text=True,
                                 start_new_session=True)
        ran = lambda lines: sum('"end":"ran"' in line for line in lines)
        first = 0
        for line in child.stdout:
            first += '"end":"ran"' in line
            if first >= 100:
                os.killpg(child.pid, signal.SIGKILL)
                break
        first += ran(child.stdout)
        child.wait()
        again = subprocess.run([*RUN, "--json"], cwd=p.top / "ws", env=p.env, stdout=subprocess.PIPE, text=True)
        second = ran(again.stdout.splitlines())
        print(f"| 200 tasks in 10 layers, `{sandbox}` | {first}, {second} | {first + second - 200} |", flush=True)


def example(name):
    path = Path(QUIPU).parent / "examples" / name
    if not path.exists():
        print(f"(the example {name} is not built: left out)")
        return None
    return str(path)


def plan():
    if scale := example("plan_scale"):
        print("\n### A plan of tasks that are all cached (target: 1 KiB a task)\n", flush=True)
        subprocess.run([scale, *(["10000", "100000"] if QUICK else ["10000", "100000", "1000000"])], check=True)


def slopes(title, runs):
    """How time grows with size: the slope is that of time over size, in logarithms."""
    table(title, "wall (least-most), cpu", "slope of wall / of cpu")
    last = None
    for what, size, values in runs:
        now = [max(statistics.median(v[n] for v in values), 1e-4) for n in (0, 1)]
        slope = "" if last is None else " / ".join(
            f"{math.log(a / b) / math.log(size / last[0]):.2f}" for a, b in zip(now, last[1]))
        print(f"| {what} | {one(values)} | {slope} |", flush=True)
        last = size, now


def growth():
    def tasks():
        for n in (100, 1000, 10_000) if QUICK else (100, 1000, 10_000, 100_000):
            p = Place()
            # One process for all: what is measured is the run after.
            (p.top / "ws/all").mkdir(parents=True)
            for i in range(n):
                (p.top / f"ws/all/{i}").write_text(f"{i}")
            text = [f'[task.t{i}]\nrun = ["true"]\ninputs = ["all/{i}"]\n' for i in range(n)]
            (p.top / "ws/quipu.toml").write_text('[workspace]\nsandbox = "none"\n' + "".join(text))
            yield f"{n} tasks", n, p

    def inputs():
        for n in (1000, 10_000) if QUICK else (1000, 10_000, 100_000, 1_000_000):
            p = Place()
            data(p.top / "ws", n)
            (p.top / "ws/quipu.toml").write_text('[workspace]\nsandbox = "none"\n[task.a]\nrun = "echo > out"\n'
                                                 'inputs = ["data/**/*.txt"]\noutputs = ["out"]\n')
            yield f"{n} inputs", n, p
    for what, made in (("tasks", tasks()), ("inputs of one task", inputs())):
        kinds = {"first": [], "nothing to do": [], "all looked up": []}
        for named, n, p in made:
            run = lambda: p.time(RUN, "ws")
            kinds["first"].append((named, n, [run()]))
            p.rest(run)
            kinds["nothing to do"].append((named, n, turns(run, None, rounds=5)[0]))
            p.env["QUIPU_GLANCE"] = "0"
            kinds["all looked up"].append((named, n, turns(run, None, rounds=5)[0]))
        for kind, rows in kinds.items():
            slopes(f"Growth with {what}, {kind}", rows)


def runs():
    if scale := example("run_scale"):
        print("\n### Runs of tasks that cost nothing themselves\n", flush=True)
        subprocess.run([scale, str(Place().top), *(["1000", "10000", "100000"] if QUICK else [])], check=True)


def receipts():
    if scale := example("store_scale"):
        print("\n### Stores of many receipts\n", flush=True)
        p = Place()
        subprocess.run([scale, str(p.top / "store"), *map(str, RECEIPTS)], check=True)


PARTS = {"start": start, "null": null, "change": change, "cold": cold, "restore": restore, "files": files, "memory": memory,
         "tree": tree, "hash": hashing, "spawn": spawn, "kill": kill, "plan": plan, "runs": runs, "growth": growth,
         "receipts": receipts}

for part in ARGS or PARTS:
    if part not in PARTS:
        sys.exit(f"{part} is none of {' '.join(PARTS)}")
    began = time.monotonic()
    PARTS[part]()
    print(f"({part}: {time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
