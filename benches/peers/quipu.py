"""quipu as a backend of a harness that compares task runners on one workload.

For a harness that reads plugins: it gives the names `Backend` (to subclass), `write` and `JOBS`, and takes the list
`PLUGIN_BACKENDS`. QUIPU names the binary, else the release build of this checkout is used.
"""
EXE = os.environ.get("QUIPU", str(Path(__file__).resolve().parents[2] / "target/release/quipu")) \
    if "__file__" in globals() else os.environ["QUIPU"]


class Quipu(Backend):
    """Tasks in namespaces of their own, as people get them. The stand-in for a compiler is an input: nothing of the
    machine but its system directories is to be seen. Nor is the file in which it writes down that it ran, so that is
    done afterwards, from the events."""
    name, restores, caches = "quipu", True, [".quipu"]
    supports = {"w1", "w2", "w3", "w6", "w7", "w8"}
    sandbox = "ns"

    def argv(self, t):
        argv = super().argv(t)
        return argv if t.tool == "cp" else ["bin/" + Path(argv[0]).name, *argv[1:]]

    def ins(self, t):
        return super().ins(t) + ([] if t.tool == "cp" else [self.argv(t)[0]])

    def gen(self, w, root):
        o = [f"[workspace]\nsandbox = {json.dumps(self.sandbox)}\n"]
        extra = ["data/**/*.txt"] if w.files else ["big.bin"] if w.big else []
        for t in w.tasks:
            o.append(f"[task.{t.name}]\nrun = {json.dumps(self.argv(t))}\n"
                     f"inputs = {json.dumps(self.ins(t) + extra)}\noutputs = {json.dumps([self.out(t.name)])}\n")
            if self.argv(t)[0].startswith("bin/"):
                (root / "bin").mkdir(exist_ok=True)
                shutil.copy(super().argv(t)[0], root / self.argv(t)[0])
        write(root / "quipu.toml", "\n".join(o))

    def environ(self, root):
        e = super().environ(root)
        # A store of its own for each tree: nothing is shared, as with the others.
        e["QUIPU_STORE"], e["QUIPU_CONFIG"] = str(Path(root) / ".quipu/store"), str(Path(root) / ".quipu/config")
        return e

    def cmd(self, w, root):
        # Only where runs are counted, never where they are timed.
        if RUNLOG.exists():
            told = f"""{EXE} run --json -j{JOBS} | tee .quipu/said.$$ | grep --line-buffered '"end":"ran"' >> {RUNLOG}; """ \
                   """tail -n1 .quipu/said.$$ | grep -q '"failed":0,"skipped":0,"unmet":0,"blocked":0,"cancelled":0'"""
            return ["sh", "-c", f"mkdir -p .quipu; {told}"]
        return [EXE, "run", "-q", f"-j{JOBS}"]


    def stale(self, w, root):
        # What is not there is not stale: a task that needs a file nobody declared fails, and says which.
        return sum(p.exists() and p.read_bytes() != want
                   for t, want in self.expected(w, root).items() for p in [Path(root) / self.out(t)])


class QuipuNone(Quipu):
    """Tasks right in the workspace."""
    name, sandbox = "quipu-none", "none"
    argv, ins = Backend.argv, Backend.ins

    def cmd(self, w, root):
        return [EXE, "run", "-q", f"-j{JOBS}"]


RUNLOG = HERE / "run" / "runlog"

PLUGIN_BACKENDS = [Quipu(), QuipuNone()]
