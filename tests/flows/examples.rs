//! The stories of `examples/monorepo` and `examples/release`.

use crate::kit::TestSpace;

#[test]
fn a_repository_of_packages_builds_only_what_is_new() {
    let space = TestSpace::example("monorepo");
    let first = space.build_twice(&[]);
    assert_eq!(first.count("ran"), 25);
    assert!(space.read("packages/app-web/dist/app-web-1.pkg").starts_with("app-web 1 strict=no limit=4\n"));
    assert!(space.read("packages/json/dist/json-0.10.pkg").starts_with("json 0.10 strict=yes limit=none\n"));
    // One more version is one more task, and the report.
    space.edit("packages/core/quipu.toml", "1.{0..3}", "1.{0..4}");
    let second = space.build_twice(&[]);
    assert_eq!(second.ran(), "core:build[1.4] core:test report");
    // Another platform is for apps only, and both are kept.
    let large = space.build_twice(&["report", "*:build", "--set", "platform=large"]);
    assert_eq!(large.ran(), "app-cli:build app-sync:build app-web:build report");
    assert!(space.read("packages/app-web/dist/app-web-1.pkg").contains("limit=64"));
    assert_eq!(space.build(&["report", "*:build"]).ran(), "");
    assert!(space.read("packages/app-web/dist/app-web-1.pkg").contains("limit=4"));
    // From below a member, and by what the workspace says of members.
    assert_eq!(space.build(&["-C", "packages/json/src", "--force", "build[0.9]"]).ran(), "json:build[0.9]");
    let listed = space.ok(&["list", "tag:parser"]).stdout;
    assert_eq!(listed.lines().count(), 6, "{listed}");
    let affected = space.ok(&["affected", "--changed", "packages/http/src/main.txt"]).stdout;
    let mut names: Vec<&str> = affected.lines().filter_map(|l| l.split_whitespace().next()).collect();
    names.sort_unstable();
    assert_eq!(
        names.join(" "),
        "app-sync:build app-sync:test app-web:build app-web:test ci:check-names ci:check-todo http:build[3.0] http:test report"
    );
    space.write("packages/text/src/main.txt", "# text\nabout text\nTODO\n");
    let said = space.run(&["run", "-k"]);
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("failed ci:check-todo"), "{}", said.stderr);
}

#[test]
fn a_release_does_what_its_params_say() {
    let space = TestSpace::example("release");
    let first = space.build(&["release"]);
    assert_eq!(
        (first.output.status, first.count("ran"), first.count("left_out")),
        (0, 19, 1),
        "{}",
        first.output.stderr
    );
    space.nothing_to_do(&["release"]);
    assert!(space.read("reckon.sh").starts_with("# reckon 1.4.0\n"));
    assert!(space.exists("dist/reckon-1.4.0.stable") && !space.exists("mirror"));
    let out = space.build_twice(&["release", "--set", "publish=true", "--set", "notes=six operations"]);
    assert_eq!(out.ran(), "announce upload");
    assert_eq!(space.read("mirror/announcement.txt"), "reckon 1.4.0 (stable): six operations\n");
    let beta = space.build(&["release", "--set", "publish=true", "--set", "channel=beta"]);
    assert_eq!((beta.ran().as_str(), beta.count("left_out")), ("archive sums", 1));
    space.edit("VERSION", "1.4.0", "1.5.0");
    assert_eq!(space.build_twice(&["release"]).ran(), "announce archive library sums version");
    space.edit("tests/gcd.txt", "12 18 6", "12 18 7");
    let failed = space.build(&["-k", "release"]);
    assert_eq!((failed.output.status, failed.ended("failed").as_str()), (1, "test[gcd]"));
}
