//! The story of `examples/tour`, as its README tells it.

use crate::kit::TestSpace;

#[test]
fn the_tour_goes_as_its_readme_says() {
    let space = TestSpace::example("tour");
    let first = space.build(&[]);
    assert_eq!((first.output.status, first.count("ran")), (0, 11), "{}", first.output.stderr);
    space.nothing_to_do(&[]);
    assert_eq!(space.ok(&["run"]).stderr, "nothing to do: 11 tasks are up to date\n");

    // A comment: one unit, and the object is as it was.
    let source = space.read("src/eval.c");
    space.write("src/eval.c", &format!("/* A comment. */\n{source}"));
    let comment = space.build_twice(&[]);
    assert_eq!(comment.ran(), "compile[eval]");
    let cut: Vec<&str> = ["archive", "link", "test", "sums"].into_iter().collect();
    assert_eq!(comment.ended("cut-off").split_whitespace().collect::<Vec<_>>(), cut);

    // A header: its users, and there it stops.
    let header = space.read("src/ratio.h");
    space.write("src/ratio.h", &format!("/* A comment. */\n{header}"));
    let users = space.build_twice(&[]);
    let units = "compile[eval] compile[lexer] compile[main] compile[parser] compile[ratio] compile[selftest]";
    assert_eq!((users.ran().as_str(), users.count("cut_off")), (units, 4));

    // Lost outputs come back.
    for dir in ["obj", "lib", "bin", "gen"] {
        space.remove(dir);
    }
    let restored = space.build(&[]);
    assert_eq!((restored.output.status, restored.ran().as_str()), (0, ""));
    for path in ["obj/main.o", "lib/libreckon.a", "bin/reckon", "gen/operators.h"] {
        assert!(space.exists(path), "{path}");
    }
    space.nothing_to_do(&[]);

    // Back to the beginning: nothing runs.
    space.write("src/eval.c", &source);
    space.write("src/ratio.h", &header);
    let back = space.build(&[]);
    assert_eq!((back.output.status, back.ran().as_str(), back.count("cut_off")), (0, "", 0));
    space.nothing_to_do(&[]);

    // What breaks the program fails its tests, and says so.
    space.edit("sums.txt", "\n", "\n1 + 1\n");
    let broken = space.run(&["run"]);
    assert_eq!(broken.status, 1);
    assert!(broken.stderr.contains("failed sums"), "{}", broken.stderr);
}
