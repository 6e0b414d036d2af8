//! What real tools make of files that are there and not declared: as if they were not there, without a complaint.
//!
//! The rows of a table in which each way of isolating was compared, column by column; this is that of namespaces.

use crate::kit::{TestSpace, needs_ns, needs_programs};

/// Runs one task over files of which some are declared; gives what it printed, and whether it succeeded.
fn run(files: &[(&str, &str)], declared: &[&str], script: &str) -> (bool, String) {
    let declared = declared.iter().map(|path| format!("'{path}'")).collect::<Vec<_>>().join(", ");
    let space = TestSpace::new(&format!(
        "[workspace]\n[task.t]\nrun = '''\n{script}'''\ninputs = [{declared}]\noutputs = [{{ path = 'out/', optional = true }}]\n"
    ));
    for (path, text) in files {
        space.write(path, text);
    }
    let ran = space.build(&[]);
    if ran.output.status == 0 {
        space.nothing_to_do(&[]);
    }
    let log = space.run(&["log", "t"]);
    (ran.output.status == 0, log.stdout + &log.stderr)
}

fn said(files: &[(&str, &str)], declared: &[&str], script: &str) -> String {
    let (succeeded, said) = run(files, declared, script);
    assert!(succeeded, "{said}");
    said
}

#[test]
fn a_compiler_takes_the_header_that_is_declared() {
    if !needs_ns() || !needs_programs(&["gcc"]) {
        return;
    }
    let main = "#include \"v.h\"\n#include <stdio.h>\n#if __has_include(\"extra.h\")\n#define E 1\n#else\n#define E 0\n#endif\n\
                int main(void) { printf(\"%d %d\\n\", A, E); return 0; }\n";
    let files = [("main.c", main), ("und/v.h", "#define A 1\n"), ("inc/v.h", "#define A 2\n"), ("und/extra.h", "")];
    let script = "mkdir -p out; gcc -Iund -Iinc main.c -o out/main; out/main";
    assert_eq!(said(&files, &["main.c", "inc/v.h"], script), "2 0\n");
    assert_eq!(said(&files, &["main.c", "inc/v.h", "und/*.h"], script), "1 1\n");
}

#[test]
fn make_knows_no_rule_for_what_is_not_declared() {
    if !needs_ns() || !needs_programs(&["make"]) {
        return;
    }
    let files = [("Makefile", "all: a b\n\tcat a b\n"), ("a", "a\n"), ("b", "b\n")];
    let (succeeded, output) = run(&files, &["Makefile", "a"], "make -s");
    assert!(!succeeded && output.contains("No rule to make target"), "{output}");
    assert_eq!(said(&files, &["Makefile", "a", "b"], "make -s"), "a\nb\n");
}

#[test]
fn git_finds_no_repository_and_nobody_s_configuration() {
    if !needs_ns() || !needs_programs(&["git"]) {
        return;
    }
    let files = [("a", "a\n"), (".git/HEAD", "ref: refs/heads/main\n"), (".git/config", "[core]\n\tbare = false\n")];
    let script = "git status --short 2>&1 || true; git hash-object a";
    let expected = "fatal: not a git repository (or any of the parent directories): .git\n\
                    78981922613b2afb6025042ff6bd878ac1994e85\n";
    assert_eq!(said(&files, &["a"], script), expected);
}

#[test]
fn python_imports_and_lists_what_is_declared() {
    if !needs_ns() || !needs_programs(&["python3"]) {
        return;
    }
    let main = "import glob, os, declared\n\
                try:\n  import undeclared\n  print('found')\nexcept ImportError:\n  print('none')\n\
                print(sorted(glob.glob('*.py')), os.path.exists('undeclared.py'), os.access('undeclared.py', os.R_OK))\n";
    let files = [("main.py", main), ("declared.py", "print('declared')\n"), ("undeclared.py", "")];
    assert_eq!(
        said(&files, &["main.py", "declared.py"], "python3 -B main.py"),
        "declared\nnone\n['declared.py', 'main.py'] False False\n"
    );
}

#[test]
fn node_finds_no_module_and_no_package_that_is_not_declared() {
    if !needs_ns() || !needs_programs(&["node"]) {
        return;
    }
    let main = "const fs = require('fs');\n\
                try { require('./undeclared.js'); console.log('found') } catch (e) { console.log(e.code) }\n\
                console.log(fs.existsSync('undeclared.js'), typeof module);\n";
    let files = [("main.js", main), ("undeclared.js", ""), ("package.json", "{ \"type\": \"module\" }\n")];
    assert_eq!(said(&files, &["main.js"], "node main.js"), "MODULE_NOT_FOUND\nfalse object\n");
    // With it the file means something else.
    let (succeeded, output) = run(&files, &["main.js", "package.json"], "node main.js");
    assert!(!succeeded && output.contains("require is not defined"), "{output}");
}

#[test]
fn debugging_information_is_the_same_in_any_checkout() {
    if !needs_ns() || !needs_programs(&["gcc"]) {
        return;
    }
    let object = || {
        let space = TestSpace::new(
            "[workspace]\n[task.o]\nrun = 'gcc -g -c \"$PWD/src/main.c\" -o out/main.o'\ninputs = ['src/']\noutputs = ['out/main.o']\n",
        );
        space.write("src/main.c", "#include \"inc.h\"\nint main(void) { return sizeof __FILE__ + N; }\n");
        space.write("src/inc.h", "#define N 1\n");
        space.build_twice(&[]);
        std::fs::read(space.path("out/main.o")).expect("was made")
    };
    assert_eq!(object(), object());
}
