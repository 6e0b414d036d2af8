//! C as people build it: exact headers by the depfile of the compiler.

use crate::kit::TestSpace;

/// Two units, of which each reads some of the headers, one of them generated.
fn space(tier: &str) -> TestSpace {
    let space = TestSpace::new(&format!(
        r##"
        [workspace]
        sandbox = "{tier}"
        [task.gen]
        run = "mkdir -p gen; awk '{{ print \"#define \" $0 }}' values > gen/values.h; echo '#define G 1' > gen/other.h"
        inputs = ["values"]
        outputs = ["gen/values.h", "gen/other.h"]
        [task.compile]
        matrix = {{ unit = ["main", "util"] }}
        run = "cc -MD -MP -MF obj/{{{{unit}}}}.d -Ifirst -Iinclude -Igen -c src/{{{{unit}}}}.c -o obj/{{{{unit}}}}.o"
        inputs = ["src/{{{{unit}}}}.c", "flags.txt", "include/**/*.h", "first/**/*.h", "gen/*.h"]
        outputs = ["obj/{{{{unit}}}}.o"]
        depfile = "obj/{{{{unit}}}}.d"
        [task.link]
        run = "cc obj/main.o obj/util.o -o app"
        inputs = ["obj/*.o"]
        outputs = ["app"]
        "##
    ));
    space.write("values", "VALUE 40\n");
    space.write("flags.txt", "");
    space.write(
        "src/main.c",
        "#include \"util.h\"\n#include <deep/one.h>\nint main(void) { return util() - ONE - 41; }\n",
    );
    space.write("src/util.c", "#include \"util.h\"\n#include \"values.h\"\nint util(void) { return VALUE + 2; }\n");
    space.write("include/util.h", "int util(void);\n");
    space.write("include/deep/one.h", "#define ONE 1\n");
    space.write("include/unused.h", "#error nobody reads this\n");
    space.write("first/first.h", "\n");
    space
}

#[test]
fn only_those_run_again_that_read_what_changed() {
    for tier in ["none", "ns"] {
        let space = space(tier);
        space.build_twice(&["link"]);
        // A header that neither read, and one that a single unit read.
        space.write("include/unused.h", "#error nor this\n");
        let ran = space.build_twice(&["link"]);
        assert_eq!((ran.ran().as_str(), ran.count("cut_off")), ("", 3), "{tier}");
        space.write("include/deep/one.h", "#define ONE (1)\n");
        let ran = space.build_twice(&["link"]);
        assert_eq!(ran.ran(), "compile[main]", "{tier}: the object is as before");
        // Both at once: the receipt is that of the last time, for what was not read.
        space.write("include/unused.h", "// fine\n");
        space.write("include/util.h", "int util(void); // changed\n");
        assert_eq!(space.build_twice(&["link"]).ran(), "compile[main] compile[util]", "{tier}");
        // What another task made, and nobody but one unit reads.
        space.write("values", "VALUE 39 + 1\n");
        assert_eq!(space.build_twice(&["link"]).ran(), "compile[util] gen", "{tier}");
        // Back again: nothing runs, whatever changed beside it.
        space.write("include/unused.h", "// and fine\n");
        space.write("values", "VALUE 40\n");
        let ran = space.build_twice(&["link"]);
        assert_eq!(ran.ran(), "", "{tier}");
        // What is named one by one always counts.
        space.write("flags.txt", "changed\n");
        assert_eq!(space.build_twice(&["link"]).ran(), "compile[main] compile[util]", "{tier}");
        assert_eq!(std::process::Command::new(space.path("app")).status().expect("starts").code(), Some(0));
    }
}

#[test]
fn a_header_that_is_found_before_another_is_not_missed() {
    let space = space("ns");
    space.build_twice(&["link"]);
    space.write("first/util.h", "int util(void);\n#error found first\n");
    let ran = space.build(&["link"]);
    assert_eq!((ran.output.status, ran.count("failed") > 0), (1, true), "{}", ran.output.stdout);
    space.remove("first/util.h");
    space.nothing_to_do(&["link"]);
}

#[test]
fn an_optional_header_that_appears_is_not_missed() {
    let space = space("ns");
    let probe = "#if __has_include(\"extra.h\")\n#include \"extra.h\"\n#else\n#define EXTRA 2\n#endif\n";
    space.write("src/util.c", &format!("{probe}#include \"util.h\"\nint util(void) {{ return 40 + EXTRA; }}\n"));
    space.build_twice(&["link"]);
    space.write("include/extra.h", "#define EXTRA 3\n");
    space.build_twice(&["link"]);
    assert_eq!(std::process::Command::new(space.path("app")).status().expect("starts").code(), Some(1));
}

#[test]
fn a_depfile_that_names_what_nobody_watches_narrows_nothing() {
    let space = space("none");
    space.write("hidden/secret.h", "#define ONE 1\n");
    space.write("include/deep/one.h", "#include \"../../hidden/secret.h\"\n");
    let ran = space.build(&["link"]);
    let warned = ran.events.iter().filter_map(|e| e["message"].as_str());
    let expect = "all inputs of `compile[main]` count, since its depfile `obj/main.d` cannot be gone by: \
                  it names `hidden/secret.h`, which is not among the inputs";
    assert_eq!(warned.collect::<Vec<_>>(), [expect]);
    space.write("include/unused.h", "#error nor this\n");
    assert_eq!(space.build(&["link"]).ran(), "compile[main]");
}

#[test]
fn a_plan_says_what_the_run_will_find() {
    let space = space("ns");
    space.build(&["link"]);
    space.write("include/unused.h", "#error nor this\n");
    let text = space.ok(&["plan", "link"]).stdout;
    assert!(text.contains("nothing to do"), "{text}");
    assert!(text.contains("3 cut off"), "{text}");
}
