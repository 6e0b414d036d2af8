//! Persistent workers: many tasks, one warm process, which sees what each of them declares.

use crate::kit::{TestSpace, needs_ns};

/// Counts its requests; says how many files of `src` it sees.
const WORKER: &str = r#"
n=0
while IFS= read -r line; do
  n=$((n + 1))
  id=${line##*\"requestId\":}; id=${id%%[,\}]*}
  args=${line#*\"arguments\":\[\"}; in=${args%%\"*}; args=${args#*\",\"}; out=${args%%\"*}
  code=0
  case $in in
    *die*) exit 3 ;;
    *rubbish*) echo "what?"; continue ;;
    *late*) id=$((id + 1)) ;;
    *fail*) code=4 ;;
    *litter*) echo x > litter; echo x > "$out" ;;
    *change*) echo more >> "$in"; echo x > "$out" ;;
    *) { cat "$in"; echo "$n $(ls src | wc -l)"; } > "$out" ;;
  esac
  echo "complains" >&2
  printf '{"exitCode":%s,"output":"did %s\\n","requestId":%s}\n' "$code" "$in" "$id"
done
"#;

fn space(words: &str) -> TestSpace {
    let space = TestSpace::new(&format!(
        "[task.up]\nmatrix = {{ word = '{words}' }}\nworker = ['sh', 'tools/worker.sh']\n\
         run = ['src/{{{{word}}}}', 'out/{{{{word}}}}']\ninputs = ['tools/worker.sh', 'src/{{{{word}}}}']\n\
         outputs = ['out/{{{{word}}}}']\n"
    ));
    space.write("tools/worker.sh", WORKER);
    let words: Vec<String> = match words.split_once("{1..") {
        Some((name, last)) => {
            let last: u32 = last.trim_end_matches('}').parse().expect("is a number");
            (1..=last).map(|n| format!("{name}{n}")).collect()
        }
        None => words.split(' ').map(str::to_owned).collect(),
    };
    words.iter().for_each(|word| space.write(&format!("src/{word}"), &format!("{word}\n")));
    space
}

#[test]
fn twenty_tasks_are_served_by_one_process_and_a_second_run_asks_nothing() {
    if !needs_ns() {
        return;
    }
    let space = space("w{1..20}");
    let ran = space.build_twice(&["-j1"]);
    assert_eq!(ran.count("ran"), 20, "{}", ran.output.stderr);
    let mut counts: Vec<u32> = vec![];
    for n in 1..=20 {
        let text = space.read(&format!("out/w{n}"));
        let (first, rest) = text.split_once('\n').expect("two lines");
        assert_eq!(first, format!("w{n}"));
        let (count, seen) = rest.trim().split_once(' ').expect("two numbers");
        assert_eq!(seen, "1", "of `src`, a request sees what it declares");
        counts.push(count.parse().expect("is a number"));
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>(), "one process counted all requests");
    // One edit is one request.
    space.write("src/w7", "seven\n");
    assert_eq!(space.build_twice(&[]).ran(), "up[w7]");
    assert!(space.read("out/w7").starts_with("seven\n1 "), "a new process, in a new run");
    let said = space.ok(&["run", "--force", "up[w7]"]);
    assert!(said.stdout.contains("did src/w7") || said.stderr.contains("did src/w7"), "{}{}", said.stdout, said.stderr);
    // Another worker is other work.
    space.edit("tools/worker.sh", "complains", "says");
    assert_eq!(space.build_twice(&["-j4"]).count("ran"), 20);
}

#[test]
fn a_worker_that_is_no_use_fails_its_task_alone_and_is_started_anew() {
    if !needs_ns() {
        return;
    }
    for (word, expected) in [
        ("die", "its worker ended before it answered"),
        ("rubbish", "its worker answers `what?`, which is no answer"),
        ("late", "and was asked"),
        ("fail", "exit code 4"),
        ("litter", "wrote `litter`, which it does not declare"),
        ("change", "wrote `src/change`, which it does not declare"),
    ] {
        let space = space(&format!("a {word} z"));
        let ran = space.build(&["-j1", "--keep-going"]);
        assert_eq!((ran.output.status, ran.ended("failed")), (1, format!("up[{word}]")), "{}", ran.output.stderr);
        let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
        let reason = failed["reason"].as_str().expect("says why");
        assert!(reason.contains(expected), "{word}: {reason}");
        assert_eq!(ran.ran(), "up[a] up[z]", "{word}");
        for other in ["a", "z"] {
            assert!(space.read(&format!("out/{other}")).ends_with(" 1\n"), "{word}");
        }
    }
}

#[test]
fn a_worker_ends_with_its_run_and_with_the_time_of_its_task() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[task.slow]\nworker = ['sh', 'w.sh', 'SPACE']\nrun = []\ninputs = ['w.sh']\ntimeout = '200ms'\n\
         [task.quick]\nworker = ['sh', 'w.sh', 'SPACE']\nrun = ['x']\ninputs = ['w.sh']\n",
    );
    // Something it started that does not end by itself, and can be told from all other processes.
    let mark = format!("31{:09}", std::process::id());
    let workfile = space.read("quipu.toml").replace("SPACE", &mark).replace("run = []", "run = ['hang']");
    space.write("quipu.toml", &workfile);
    space.write(
        "w.sh",
        "sleep $1 &\nwhile IFS= read -r line; do case $line in *hang*) wait ;; esac; \
         printf '{\"exitCode\":0,\"requestId\":1}\\n'; done\n",
    );
    let running = || {
        let all = std::fs::read_dir("/proc").expect("is there").flatten();
        let args = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        args.filter(|args| args.split(|b| *b == 0).any(|arg| arg == mark.as_bytes()) && args.starts_with(b"sleep"))
            .count()
    };
    assert_eq!(space.build(&["quick"]).output.status, 0);
    crate::kit::wait_until("what it started has ended", || running() == 0);
    let ran = space.build(&["slow"]);
    let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
    assert_eq!(failed["failure"], "timeout");
    crate::kit::wait_until("what it started has ended", || running() == 0);
}

#[test]
fn what_a_worker_writes_after_its_answer_is_no_part_of_what_it_made() {
    if !needs_ns() {
        return;
    }
    let task = |name: &str, more: &str| {
        format!(
            "[task.{name}]\nworker = ['sh', 'w.sh']\nrun = ['out/{name}']\ninputs = ['w.sh']\n\
             outputs = ['out/{name}']\n{more}"
        )
    };
    let space = TestSpace::new(&format!(
        "{}{}[task.reads]\nrun = 'head -c 4 out/first > seen'\ninputs = ['out/first']\n\
         outputs = ['seen']\nafter = ['second']\n",
        task("first", ""),
        task("second", "after = ['first']\n")
    ));
    // What it made for the request before is still open, and is written to in the middle of the next.
    space.write(
        "w.sh",
        "n=0\nwhile IFS= read -r line; do n=$((n + 1)); out=${line#*[}; out=${out%%]*}; out=${out#?}; out=${out%?}\n\
         [ $n = 1 ] || printf late >&3\n\
         head -c 100000 /dev/zero | tr '\\0' x > $out; exec 3<> $out\n\
         printf '{\"exitCode\":0,\"requestId\":%s}\\n' $n; done\n",
    );
    let ran = space.build_twice(&["-j1", "reads"]);
    assert_eq!((ran.output.status, ran.count("ran")), (0, 3), "{}", ran.output.stderr);
    assert_eq!(space.read("seen"), "xxxx");
    assert_eq!(space.run(&["verify"]).status, 0, "all that is kept is what its id says");
}

#[test]
fn links_that_a_worker_plants_while_its_inputs_are_brought_lead_nowhere() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(
        "[task.first]\nworker = ['sh', 'w.sh', 'PLACE']\nrun = ['x']\ninputs = ['w.sh']\n\
         [task.second]\nworker = ['sh', 'w.sh', 'PLACE']\nrun = ['x']\ninputs = ['w.sh', 'src/*', 't/*']\nafter = ['first']\n",
    );
    space.edit("quipu.toml", "PLACE", space.beside("host").to_str().expect("is text"));
    space.edit("quipu.toml", "PLACE", space.beside("host").to_str().expect("is text"));
    space.write(
        "w.sh",
        "while [ ! -e src/a1 ]; do :; done && ln -s $1/file src/z && ln -s $1 t &\n\
         n=0; while IFS= read -r line; do n=$((n + 1)); printf '{\"exitCode\":0,\"requestId\":%s}\\n' $n; done\n",
    );
    // Brought in the order of their names: between the first and the last there is time.
    (1..=600).for_each(|n| space.write(&format!("src/a{n}"), "source\n"));
    for last in ["src/z", "t/file", "t/new"] {
        space.write(last, "source\n");
    }
    std::fs::create_dir(space.beside("host")).expect("is made");
    std::fs::write(space.beside("host/file"), "a person's\n").expect("is written");
    let ran = space.build(&["-j1", "second"]);
    assert!(ran.ran().contains("first"), "{}", ran.output.stderr);
    assert_eq!(std::fs::read_to_string(space.beside("host/file")).expect("is there"), "a person's\n");
    assert!(!space.beside("host/new").exists());
}

#[test]
fn a_worker_that_ended_is_not_waited_for_while_another_holds_its_input() {
    if !needs_ns() {
        return;
    }
    let space = TestSpace::new(&format!(
        "[task.a]\nworker = ['sh', '-c', 'sleep 300 <&0 &']\nrun = ['{}']\ninputs = []\ntimeout = '1m'\n",
        "x".repeat(100_000)
    ));
    let ran = space.build(&[]);
    let failed = ran.events.iter().find(|e| e["end"] == "failed").expect("one failed");
    assert!(failed["reason"].as_str().expect("says why").contains("its worker ended before it answered"), "{failed}");
}

#[test]
fn there_are_only_so_many_workers_that_wait() {
    if !needs_ns() {
        return;
    }
    let mark = format!("41{:09}", std::process::id());
    let space = TestSpace::new(&format!(
        "[task.up]\nmatrix = {{ n = '{{1..36}}' }}\nworker = ['sh', 'w.sh', '{{{{n}}}}', '{mark}']\nrun = ['x']\ninputs = ['w.sh']\n\
         [task.last]\nrun = 'while [ ! -e go ]; do sleep 0.01; done'\nsandbox = 'none'\ninputs = []\nafter = ['up']\n"
    ));
    space.write("w.sh", "while IFS= read -r line; do printf '{\"exitCode\":0,\"requestId\":1}\\n'; done\n");
    let mut running = space.start(&["-j1", "last"]);
    running.wait_for("task-started", "last");
    let all = std::fs::read_dir("/proc").expect("is there").flatten();
    let args = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let count = args.filter(|args| args.split(|b| *b == 0).any(|arg| arg == mark.as_bytes())).count();
    space.write("go", "");
    let ran = running.end();
    assert_eq!((ran.output.status, ran.count("ran"), count), (0, 37, 32), "{}", ran.output.stderr);
}

#[test]
fn what_is_no_request_is_an_error() {
    let space = TestSpace::new(
        "[task.a]\nworker = ['w']\nrun = 'x y'\ninputs = []\nsandbox = 'ns'\n\
         [task.b]\nworker = ['w']\nrun = ['x']\nstdin = 'y'\ninputs = []\nsandbox = 'ns'\n\
         [task.c]\nworker = ['w']\nrun = ['x']\ninputs = []\nsandbox = 'none'\n\
         [task.d]\nworker = []\nrun = ['x']\ninputs = []\nsandbox = 'ns'\n",
    );
    let output = space.run(&["plan"]);
    for message in [
        "task `a` has `worker`, and no list of arguments for it",
        "task `b` has `worker`, and `stdin` beside it",
        "task `c` has `worker`, and is not in the sandbox `ns`",
        "`worker` of task `d` is empty",
    ] {
        assert!(output.stderr.contains(message), "{message} in {}", output.stderr);
    }
}
