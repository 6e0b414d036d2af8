#!/usr/bin/env python3
"""Runs with nothing to do, and cold ones, beside ninja on the same graph: medians, spread and ratios.

usage: benches/null_run.py [TASKS ...]      (default: 1000 10000; QUIPU names the binary, else target/release/quipu)

Independent copies of tiny files, `sandbox = "none"` on quipu's side. The two tools take turns, so that drift of the
machine hits both.
"""
import os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ROUNDS = 9
QUIPU = os.environ.get("QUIPU", str(Path(__file__).resolve().parent.parent / "target/release/quipu"))


def make(root, tasks):
    (root / "src").mkdir(parents=True)
    (root / "out").mkdir()
    toml, ninja = ['[workspace]\nsandbox = "none"\n'], ["rule r\n  command = $cmd\n  restat = 1\n"]
    for i in range(tasks):
        (root / f"src/t{i}.txt").write_text(f"source {i}\n")
        toml.append(f'[task.t{i}]\nrun = ["cp", "src/t{i}.txt", "out/t{i}.txt"]\n'
                    f'inputs = ["src/t{i}.txt"]\noutputs = ["out/t{i}.txt"]\n')
        ninja.append(f"build out/t{i}.txt: r src/t{i}.txt\n  cmd = cp src/t{i}.txt out/t{i}.txt\n")
    (root / "quipu.toml").write_text("".join(toml))
    (root / "build.ninja").write_text("".join(ninja))


def timed(cmd, root, env):
    start = time.perf_counter()
    subprocess.run(cmd, cwd=root, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def show(tasks, what, ours, theirs):
    a, b = statistics.median(ours), statistics.median(theirs)
    spread = lambda v: f"{min(v):.3f}-{max(v):.3f}"
    print(f"{tasks:>7} {what:5} quipu {a:.3f} s ({spread(ours)})  ninja {b:.3f} s ({spread(theirs)})  ratio {a / b:.2f}")


def main():
    if not shutil.which("ninja"):
        sys.exit("this compares with ninja, which is not on the PATH")
    jobs = f"-j{os.cpu_count()}"
    for tasks in [int(n) for n in sys.argv[1:]] or [1000, 10000]:
        with tempfile.TemporaryDirectory() as top:
            ours, theirs = Path(top) / "quipu", Path(top) / "ninja"
            make(ours, tasks)
            make(theirs, tasks)
            env = {**os.environ, "QUIPU_STORE": f"{top}/store", "QUIPU_CONFIG": f"{top}/config"}
            a, b = [QUIPU, "run", "-q", jobs], ["ninja", "--quiet", jobs]
            show(tasks, "cold", [timed(a, ours, env)], [timed(b, theirs, env)])
            for cmd, root in ((a, ours), (b, theirs)):
                timed(cmd, root, env)   # settles what was too young to be trusted
            pairs = [(timed(a, ours, env), timed(b, theirs, env)) for _ in range(ROUNDS)]
            show(tasks, "null", *zip(*pairs))


main()
