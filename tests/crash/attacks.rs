//! Attacks of the threat table that are seen through the whole command; `docs/reliability.md` lists the others with their tests.
//!
//! Numbers are those of the table.

use std::fs;
use std::io::Write;
use std::process::Command;

use quipu_runtime::workfile::load_text;
use quipu_store::dag;
use quipu_store::sign::SignedReceipt;
use quipu_store::tree::Node;

use super::inject;
use super::space::{Space, panic_in, sandbox_is_there, temp};

/// Blocks that promise more than they have, or are deeper than anybody needs.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let mut cases: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, head) in [("list", 0x9b_u8), ("map", 0xbb), ("bytes", 0x5b), ("text", 0x7b)] {
        for length in [u64::MAX, 1 << 62, 1 << 40, 1 << 32] {
            cases.push((name, [&[head], &length.to_be_bytes()[..]].concat()));
        }
    }
    for (name, byte) in
        [("lists in lists", 0x81_u8), ("maps in maps", 0xa1), ("tags in tags", 0xd8), ("lists without end", 0x9f)]
    {
        for length in [300, 100_000, 2 << 20] {
            cases.push((name, vec![byte; length]));
        }
    }
    // Two million small things, which a tree of values would make two hundred million bytes of.
    let mut many = vec![0x9a];
    many.extend(2_000_000_u32.to_be_bytes());
    many.resize(many.len() + 2_000_000, 0x80);
    cases.push(("many empty lists", many));
    let mut wide = vec![0xa1, 0x67];
    wide.extend(b"entries");
    wide.push(0x9a);
    wide.extend(900_000_u32.to_be_bytes());
    wide.resize(wide.len() + 900_000, 0xa0);
    cases.push(("many empty entries", wide));
    cases
}

/// What a child does that may have little memory.
pub(crate) fn read_hostile_blocks() -> Result<(), String> {
    for (name, bytes) in hostile() {
        if SignedReceipt::verify(&bytes).is_ok()
            || SignedReceipt::read_own(&bytes).is_ok()
            || Node::decode(&bytes).is_ok()
        {
            return Err(format!("accepted: {name}"));
        }
        dag::is_canonical(&bytes);
    }
    let _ = writeln!(std::io::stdout(), "read {}", hostile().len());
    Ok(())
}

#[test]
fn attack_4_huge_and_deep_blocks_are_refused_in_little_memory() {
    let temp = temp();
    let child = super::child::command("hostile", temp.path());
    let mut limited = Command::new("sh");
    // Address space, in KiB: the test itself, its threads' stacks, and the blocks.
    limited.args(["-c", "ulimit -v 400000; exec \"$@\"", "sh"]).arg(child.get_program()).args(child.get_args());
    child.get_envs().for_each(|(name, value)| {
        value.map(|value| limited.env(name, value));
    });
    let output = limited.output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("read "),
        "{}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn attack_11_workfiles_that_grow_without_end_are_refused() {
    let root = std::path::Path::new("/nowhere/at/all");
    let digits = |n: usize| (0..n).map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", ");
    // 10^12 variants of one task.
    let keys: String = (0..6).map(|k| format!("k{k} = [{}], ", digits(100))).collect();
    let product = format!("[workspace]\n[task.a]\nrun = \"true\"\nmatrix = {{ {} }}\n", keys.trim_end_matches(", "));
    // Each text is ten of the one before.
    let mut laughs = "[workspace]\n[vars]\nv0 = \"ha\"\n".to_owned();
    for n in 1..=12 {
        laughs += &format!("v{n} = \"{}\"\n", format!("{{{{v{}}}}}", n - 1).repeat(10));
    }
    laughs += "[task.a]\nrun = \"{{v12}}\"\n";
    let mut ring = "[workspace]\n".to_owned();
    for n in 0..2000 {
        ring += &format!("[task.t{n}]\nrun = \"true\"\nneeds = [\"t{}\"]\n", (n + 1) % 2000);
    }
    let deep = format!("[workspace]\n[task.a]\nrun = {}\"x\"{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let braces = format!("[workspace]\n[task.a]\nrun = \"true\"\ninputs = [\"{}\"]\n", "{a,b}".repeat(60));
    for (name, text) in [("product", product), ("laughs", laughs), ("ring", ring), ("deep", deep), ("braces", braces)] {
        match load_text(root, &text) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() < 10_000, "{name}: said in few words");
                assert!(name != "ring" || text.contains("... 1960 more ..."), "{text}");
            }
            Ok(loaded) => panic!("{name} was taken: {} tasks", loaded.recipes.len()),
        }
    }
}

fn ns_space(workfile: &str) -> Option<(tempfile::TempDir, Space)> {
    if !sandbox_is_there() {
        eprintln!("skipped: no namespaces here");
        return None;
    }
    let temp = temp();
    let space = Space { dir: temp.path().to_owned() };
    fs::create_dir_all(space.work()).expect("is made");
    fs::write(temp.path().join("host"), b"untouched").expect("is written");
    let host = temp.path().to_string_lossy().into_owned();
    space.write("quipu.toml", workfile.replace("@host@", &host).as_bytes());
    Some((temp, space))
}

#[test]
fn attack_7_outputs_of_other_kinds_are_refused_or_reduced() {
    for (make, is_kept) in [
        ("mkfifo out/x", false),
        ("ln -s /etc/passwd out/x", false),
        ("ln -s ../../.. out/x", false),
        ("mknod out/x c 1 3 2>/dev/null || mkfifo out/x", false),
        ("echo s > out/x; chmod 6755 out/x 2>/dev/null || true", true),
    ] {
        let workfile =
            format!("[workspace]\n[task.x]\nrun = \"mkdir -p out; {make}\"\noutputs = [\"out/\"]\nsandbox = \"ns\"\n");
        let Some((_temp, space)) = ns_space(&workfile) else { return };
        let output = space.run_command().output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success(), is_kept, "{make}: {text}");
        let found = fs::symlink_metadata(space.work().join("out/x"));
        if is_kept {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(found.expect("is placed").permissions().mode() & 0o6000, 0, "{make}");
        } else {
            assert!(found.is_err(), "{make}: nothing is placed");
        }
    }
}

#[test]
fn attack_18_what_a_task_leaves_running_changes_nothing() {
    let run = "(sleep 0.5; echo late > out; echo late > @host@/host) & setsid sh -c 'sleep 0.5; echo later > out' & echo now > out";
    let workfile = format!("[workspace]\n[task.x]\nrun = \"{run}\"\noutputs = [\"out\"]\nsandbox = \"ns\"\n");
    let Some((temp, space)) = ns_space(&workfile) else { return };
    space.run().expect("runs");
    std::thread::sleep(std::time::Duration::from_millis(900));
    assert_eq!(fs::read(space.work().join("out")).expect("placed"), b"now\n");
    assert_eq!(fs::read(temp.path().join("host")).expect("is there"), b"untouched");
    assert_eq!(space.run().expect("runs").started, Vec::<String>::new());
}

#[test]
fn attack_20_a_task_writes_nowhere_but_its_outputs() {
    let tries = "set +e; echo x > @host@/host; echo x > @host@/new; echo x > /etc/quipu-attack; echo x > /usr/bin/quipu-attack; \
                 echo x > $HOME/quipu-attack; echo x > ../../quipu-attack; rm -rf @host@/store; \
                 echo x > /tmp/quipu-attack; echo x > /dev/shm/quipu-attack; true";
    let workfile = format!(
        "[workspace]\n[task.x]\nrun = \"{{ {tries}; }} 2>/dev/null; echo done > out\"\noutputs = [\"out\"]\nsandbox = \"ns\"\n"
    );
    let Some((temp, space)) = ns_space(&workfile) else { return };
    let workfile = fs::read_to_string(space.work().join("quipu.toml")).expect("is there");
    space.run().expect("the task itself is well");
    assert_eq!(fs::read(temp.path().join("host")).expect("is there"), b"untouched");
    for path in ["/etc", "/usr/bin", "/tmp", "/dev/shm", "/"] {
        assert!(!std::path::Path::new(path).join("quipu-attack").exists(), "{path}");
    }
    let mut names: Vec<String> = space.files().into_keys().collect();
    names.sort();
    assert_eq!(names, ["out", "quipu.toml"]);
    assert!(space.store_dir().join("version").exists());
    // What it writes beside its outputs is told, and goes nowhere either.
    let beside = workfile.replace("echo done", "echo x >> quipu.toml; echo done");
    space.write("quipu.toml", beside.as_bytes());
    let output = space.run_command().output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("undeclared-output") && text.contains("`quipu.toml`"), "{text}");
    assert_eq!(fs::read(space.work().join("quipu.toml")).expect("is there"), beside.as_bytes());
}

/// Looking at a workfile starts nothing.
#[test]
fn attack_10_to_plan_explain_list_and_graph_starts_no_process() {
    if !inject::is_possible() {
        eprintln!("skipped: system calls cannot be watched here");
        return;
    }
    let temp = temp();
    let space = Space::new(&temp.path().join("space"));
    let beside = temp.path().join("beside");
    fs::create_dir(&beside).expect("is made");
    let ran = inject::run(space.run_command(), &space.dir, &beside, &[]).expect("is watched");
    assert!(ran.children > 0, "a run starts processes, and they are seen");
    space.edit();
    for args in [&["plan"][..], &["run", "-n"], &["explain", "sum"], &["list"], &["graph"], &["log"], &["verify"]] {
        let outcome = inject::run(space.quipu(args), &space.dir, &beside, &[]).expect("is watched");
        assert_eq!(outcome.children, 0, "{args:?}: {}{}", outcome.stdout, outcome.stderr);
        assert!(panic_in(&outcome.stderr).is_none(), "{args:?}: {}", outcome.stderr);
    }
}
