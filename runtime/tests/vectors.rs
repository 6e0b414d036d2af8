//! The published vectors of tasks and invocations: what the code makes now must be what `tests/vectors/tasks.json`
//! says, and every negative vector must be refused.
//!
//! `QUIPU_BLESS=1 cargo test -p quipu-runtime --test vectors` writes the file anew. `tests/independent/` checks it
//! with another implementation.

#[path = "vectors/workflows.rs"]
mod workflows;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use quipu_runtime::canon::MAX_TASK_BYTES;
use quipu_runtime::graph::{Graph, TaskIdx};
use quipu_runtime::identity::{Ids, decode_task};
use quipu_runtime::narrow::Depfile;
use quipu_runtime::process::{OutputKind, OutputSpec, ProcessSpec, Tier};
use quipu_runtime::run::values::artifact;
use quipu_runtime::service::ServiceSpec;
use quipu_runtime::task::{DEFAULT_SUBJECT, Invocation, PROCESS, SERVICE, Task, Work};
use quipu_runtime::value::{Branch, On, Value};
use quipu_runtime::wait::{WaitFor, WaitSpec};
use quipu_runtime::workflow::Workflow;
use quipu_store::cid::{BlobId, TaskId, TreeId};
use quipu_store::dag::MAX_INT;
use quipu_store::tree::{Entry, Name, Tree};
use serde_json::{Value as Json, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let nibble = |b: u8| char::from(b).to_digit(16).expect("hex digits") as u8;
    text.as_bytes().chunks_exact(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

/// `bytes` with the first `old` in them replaced.
fn swap(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|w| w == old).expect("the part to replace is there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| -> String {
        let n = (0..3).fold(0_usize, |n, i| n << 8 | usize::from(chunk.get(i).copied().unwrap_or(0)));
        (0..=chunk.len()).map(|i| char::from(DIGITS[n >> (18 - 6 * i) & 63])).collect()
    };
    bytes.chunks(3).map(group).collect()
}

/// A value as DAG-JSON, promises written out as the maps they are.
fn dag_json(value: &Value, id_of: &impl Fn(On) -> TaskId) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(n) => (*n).into(),
        Value::Text(text) => (**text).into(),
        Value::Bytes(bytes) => json!({"/": {"bytes": base64(bytes)}}),
        Value::List(items) => items.iter().map(|v| dag_json(v, id_of)).collect(),
        Value::Map(pairs) => {
            pairs.iter().map(|(k, v)| (k.to_string(), dag_json(v, id_of))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Link(link) => json!({"/": link.to_string()}),
        Value::AwaitHere(..) | Value::AwaitId(_) => {
            let promise = value.as_promise().expect("these are the promises");
            let plain = json!({promise.branch.key(): {"/": id_of(promise.on).to_string()}});
            if promise.at.is_empty() {
                return plain;
            }
            let path = promise.at.iter().map(|part| Json::from(&**part));
            json!({"quipu/at": std::iter::once(plain).chain(path).collect::<Vec<_>>()})
        }
    }
}

fn task(cmd: &str, args: Value) -> Task {
    Task { sub: DEFAULT_SUBJECT.into(), cmd: cmd.into(), args, nonce: Box::default() }
}

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::map(pairs).expect("distinct keys")
}

fn sources(paths: &[&str]) -> TreeId {
    let file = |n: &&str| {
        let blob = BlobId::of(n.as_bytes());
        (Name::new(n).expect("a name"), Entry::File { blob, size: n.len() as u64, exec: false })
    };
    Tree::new(paths.iter().map(file).collect()).expect("distinct names").encode().expect("small").id
}

fn file_output(path: &str) -> OutputSpec {
    OutputSpec { path: path.into(), kind: OutputKind::File, optional: false }
}

fn process(argv: &[&str], from: TreeId, outputs: Vec<OutputSpec>) -> ProcessSpec {
    ProcessSpec {
        steps: vec![argv.iter().map(|a| Value::text(*a)).collect()],
        env: BTreeMap::from([("LANG".into(), "C.UTF-8".into()), ("PATH".into(), "/usr/bin:/bin".into())]),
        dir: "".into(),
        stdin: None,
        stdout: None,
        depfile: None,
        sources: Some(from),
        inputs: BTreeMap::new(),
        outputs,
        platform: ("linux".into(), "x86_64".into()),
        tools: BTreeMap::new(),
        tier: Tier::Ns,
        network: false,
        secrets: Vec::new(),
        services: vec![],
    }
}

fn args(spec: &ProcessSpec) -> Value {
    let args = spec.to_args().expect("has a form");
    assert_eq!(ProcessSpec::from_args(&args).as_ref(), Ok(spec), "arguments read back");
    args
}

fn values() -> Value {
    let borders = [0, 23, 24, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296, MAX_INT];
    let ints = borders.into_iter().chain([-1, -24, -25, -256, -257, -65_537, -4_294_967_297, -MAX_INT]).map(Value::Int);
    map([
        ("z", Value::Null),
        ("aa", Value::list([Value::Bool(true), Value::Bool(false)])),
        ("b", Value::list(ints)),
        ("text", Value::list(["", "knot", "\u{e9}\u{1f9f6}", &"long ".repeat(60)].map(Value::text))),
        ("bytes", Value::list([vec![], vec![0, 255], vec![7; 24]].map(|b| Value::Bytes(b.into())))),
        ("links", Value::list([BlobId::of(b"hello").link().into(), sources(&["a"]).link().into()])),
        ("", map([("empty", Value::list([])), ("none", Value::Map([].into()))])),
        ("await/ok", "one key of several: no promise".into()),
    ])
}

/// Tasks by name, some of them awaiting others.
fn workflow() -> Workflow {
    let mut w = Workflow::new();
    let mut add = |name: &str, task: Task| w.add(name, task).expect("names differ");
    let ok = |on: TaskIdx, at: &[&str]| Value::promise(Branch::Ok, On::Here(on), at.to_vec());

    add("the smallest", task("/test/nothing", map([])));
    add("every kind of value", task("/test/values", values()));
    add("the smallest, with a nonce", Task { nonce: [1, 2, 3].into(), ..task("/test/nothing", map([])) });
    let deep = (0..64).fold(Value::Null, |inner, _| Value::list([inner]));
    add("nested as deep as may be", task("/test/values", deep));
    let own = "did:web:example.com";
    add("the smallest, in another name space", Task { sub: own.into(), ..task("/test/nothing", map([])) });

    let mut codegen =
        process(&["sh", "-euc", "tools/gen > gen/types.h"], sources(&["schema"]), vec![file_output("gen/types.h")]);
    codegen.tier = Tier::None;
    let codegen = add("process: codegen", task(PROCESS, args(&codegen)));

    let mut compile =
        process(&["cc", "-c", "main.c", "-o", "main.o"], sources(&["main.c"]), vec![file_output("main.o")]);
    compile.inputs = BTreeMap::from([("gen/types.h".into(), ok(codegen, &["outputs", "gen/types.h"]))]);
    compile.tools = BTreeMap::from([("cc".into(), BlobId::of(b"the compiler"))]);
    let compile = add("process: compile, awaiting one file", task(PROCESS, args(&compile)));

    let mut package = process(&["pack"], sources(&["LICENSE"]), vec![]);
    package.steps = vec![vec!["strip".into(), "main.o".into()], vec!["pack".into(), ok(codegen, &["stdout"])]];
    package.inputs = BTreeMap::from([
        ("@compile".into(), ok(compile, &["outputs"])),
        ("doc/a".into(), ok(codegen, &["outputs", "doc", "a"])),
    ]);
    package.stdin = Some(ok(codegen, &["outputs", "gen/types.h"]));
    package.stdout = Some("out/log".into());
    package.dir = "out".into();
    package.network = true;
    package.outputs = vec![
        file_output("out/log"),
        OutputSpec { path: "out/pkg".into(), kind: OutputKind::Dir, optional: false },
        OutputSpec { path: "out/*.map".into(), kind: OutputKind::Glob, optional: true },
    ];
    add("process: every argument there is", task(PROCESS, args(&package)));

    let mut named = process(&["pack"], sources(&["LICENSE"]), vec![]);
    let version = ok(codegen, &["stdout"]);
    named.steps[0].push(Value::list(["app-".into(), version.clone(), ".tar".into()]));
    named.env.insert("TAG".into(), Value::list(["v".into(), version]));
    add("process: texts with what a task prints in them", task(PROCESS, args(&named)));

    let mut exact = process(
        &["cc", "-MD", "-c", "main.c", "-o", "main.o"],
        sources(&["main.c", "a.h"]),
        vec![file_output("main.o"), file_output("main.d")],
    );
    exact.depfile = Some(Depfile { path: "main.d".into(), always: vec!["main.c".into()] });
    add("process: compile, saying what it read", task(PROCESS, args(&exact)));

    let ready = WaitSpec { what: WaitFor::Tcp("127.0.0.1:5432".into()), every: Duration::from_millis(200) };
    let mut server = process(&["server"], sources(&["server.conf"]), vec![]);
    server.inputs = BTreeMap::from([("schema".into(), ok(codegen, &["outputs", "gen/types.h"]))]);
    let server = ServiceSpec { process: args(&server), ready }.to_args();
    add("service: a server", task(SERVICE, server.clone()));
    let mut check = process(&["check"], sources(&["check"]), vec![]);
    check.services = vec![server];
    add("process: check, which needs the server", task(PROCESS, args(&check)));

    let whole = |branch| Value::promise(branch, On::Here(compile), [] as [&str; 0]);
    add(
        "promises on each branch",
        task("/test/await", Value::list([Branch::Ok, Branch::Error, Branch::Any].map(whole))),
    );
    let elsewhere = Value::promise(Branch::Ok, On::Id(TaskId::of(b"another workflow's")), ["outputs"]);
    add("a promise on another workflow's task", task("/test/await", elsewhere));
    w
}

/// `compile` once `codegen` has run.
fn invocation() -> Invocation {
    let mut spec = process(&["cc", "-c", "main.c", "-o", "main.o"], sources(&["main.c"]), vec![file_output("main.o")]);
    let header = Entry::File { blob: BlobId::of(b"typedef int knot;\n"), size: 18, exec: false };
    spec.inputs = BTreeMap::from([("gen/types.h".into(), artifact(&header))]);
    spec.tools = BTreeMap::from([("cc".into(), BlobId::of(b"the compiler"))]);
    Invocation { sub: DEFAULT_SUBJECT.into(), cmd: PROCESS.into(), args: args(&spec), nonce: Box::default() }
}

fn refused(good: &[u8]) -> Vec<Json> {
    let no = |name: &str, bytes: &[u8]| json!({"name": name, "bytes": hex(bytes)});
    let with_args =
        |name: &str, args: &[u8]| no(name, &swap(good, b"\x64args\xa0", &[&b"\x64args"[..], args].concat()));
    let link = BlobId::of(b"hello").link().to_bytes();
    let task = TaskId::of(b"t").link().to_bytes();
    let tag = |cid: &[u8]| [&b"\xd8\x2a\x58\x25\x00"[..], cid].concat();
    let map1 = |key: &[u8], value: &[u8]| [&b"\xa1"[..], key, value].concat();
    let plain = map1(b"\x68await/ok", &tag(&task));
    vec![
        no("no bytes", b""),
        no("cut short", &good[..good.len() - 1]),
        no("trailing byte", &[good, b"\0"].concat()),
        no("a list", b"\x80"),
        no("without nonce", &swap(&swap(good, b"\x65nonce\x40", b""), b"\xa4", b"\xa3")),
        no("with a fifth field", &swap(&[good, b"\x66policy\xf6"].concat(), b"\xa4", b"\xa5")),
        no("nonce as text", &swap(good, b"\x65nonce\x40", b"\x65nonce\x60")),
        no("command as bytes", &swap(good, b"\x63cmd\x6d", b"\x63cmd\x4d")),
        no("subject of null", &swap(good, &[&b"\x63sub\x73"[..], DEFAULT_SUBJECT.as_bytes()].concat(), b"\x63sub\xf6")),
        no("keys out of order", &swap(good, b"\x64args\xa0\x65nonce\x40", b"\x65nonce\x40\x64args\xa0")),
        no("a key twice", &swap(&swap(good, b"\x64args\xa0", b"\x64args\xa0\x64args\xa0"), b"\xa4", b"\xa5")),
        no("map of indefinite length", &swap(&[good, b"\xff"].concat(), b"\xa4", b"\xbf")),
        no("map length in the long form", &swap(good, b"\xa4", b"\xb8\x04")),
        with_args("integer in the long form", b"\x18\x01"),
        with_args("integer of 2^53", b"\x1b\x00\x20\0\0\0\0\0\0"),
        with_args("integer of -2^53", b"\x3b\x00\x1f\xff\xff\xff\xff\xff\xff"),
        with_args("float", b"\xfb\x3f\xf8\0\0\0\0\0\0"),
        with_args("float that is whole", b"\xfb\x3f\xf0\0\0\0\0\0\0"),
        with_args("undefined", b"\xf7"),
        with_args("simple value in the long form", b"\xf8\x15"),
        with_args("text of indefinite length", b"\x7f\x61a\xff"),
        with_args("text that is not UTF-8", b"\x61\xff"),
        with_args("a tag other than that of links", b"\xc1\x00"),
        with_args("link without its leading NUL", &[&b"\xd8\x2a\x58\x24"[..], &link].concat()),
        with_args("link of another hash", &tag(&swap(&link, &[1, 0x55, 0x1e], &[1, 0x55, 0x12]))),
        with_args("link of another codec", &tag(&swap(&link, &[1, 0x55], &[1, 0x70]))),
        with_args("key that is an integer", b"\xa1\x01\x01"),
        with_args("keys by bytes before length", b"\xa2\x62aa\x01\x61b\x01"),
        with_args("nested 65 deep", &[&[0x81; 65][..], b"\xf6"].concat()),
        with_args("nested 100 deep", &[&[0x81; 100][..], b"\xf6"].concat()),
        with_args("huge claimed length", b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"),
        with_args("promise on no branch", &map1(b"\x6aawait/nope", &tag(&task))),
        with_args("promise on a number", &map1(b"\x68await/ok", b"\x01")),
        with_args("promise on a blob", &map1(b"\x68await/ok", &tag(&link))),
        with_args("part of nothing", &map1(b"\x68quipu/at", b"\x80")),
        with_args("part without a path", &map1(b"\x68quipu/at", &[&b"\x81"[..], &plain].concat())),
        with_args("part by number", &map1(b"\x68quipu/at", &[&b"\x82"[..], &plain, b"\x01"].concat())),
        with_args("part of no promise", &map1(b"\x68quipu/at", b"\x82\xa0\x61a")),
        with_args(
            "part of a part",
            &map1(
                b"\x68quipu/at",
                &[&b"\x82"[..], &map1(b"\x68quipu/at", &[&b"\x82"[..], &plain, b"\x61a"].concat()), b"\x61b"].concat(),
            ),
        ),
        json!({"name": "larger than a task may be", "repeat": {"bytes": "00", "times": MAX_TASK_BYTES + 1}}),
    ]
}

fn made() -> Json {
    let workflow = workflow();
    let ids = Ids::compute(&workflow, &Graph::build(&workflow).expect("no ring")).expect("ids");
    let id_of = |on: On| match on {
        On::Here(idx) => ids.of(idx),
        On::Id(id) => id,
    };
    let quadruple = |sub: &str, cmd: &str, args: &Value, nonce: &[u8]| json!({"sub": sub, "cmd": cmd, "args": dag_json(args, &id_of), "nonce": {"/": {"bytes": base64(nonce)}}});
    let mut accept = vec![];
    for (i, node) in workflow.nodes().iter().enumerate() {
        let Work::Task(task) = &node.work else { panic!("a task") };
        let block = quadruple(&task.sub, &task.cmd, &task.args, &task.nonce);
        let id = ids.of(TaskIdx::new(i)).to_string();
        accept.push(
            json!({"name": &*node.name, "kind": "task", "id": id, "bytes": hex(&ids.block(task)), "block": block}),
        );
    }
    let invocation = invocation();
    let (id, bytes) = invocation.encode();
    let block = quadruple(&invocation.sub, &invocation.cmd, &invocation.args, &invocation.nonce);
    let name = "process: compile, its promise resolved";
    accept
        .push(json!({"name": name, "kind": "invocation", "id": id.to_string(), "bytes": hex(&bytes), "block": block}));
    let smallest = unhex(accept[0]["bytes"].as_str().expect("hex"));
    json!({
        "about": "Task and invocation blocks. Normative text: docs/formats/task.md. `block` is DAG-JSON, promises as the maps they are.",
        "accept": accept,
        "reject": refused(&smallest),
    })
}

#[test]
fn tasks_and_invocations_are_as_published() {
    let made = made();
    for item in made["accept"].as_array().expect("a list") {
        let bytes = unhex(item["bytes"].as_str().expect("hex"));
        let task = decode_task(&bytes).expect("accepted");
        assert_eq!(TaskId::of(&bytes).to_string(), item["id"], "{}", item["name"]);
        let by_id = |on: On| match on {
            On::Id(id) => id,
            On::Here(_) => panic!("blocks name tasks by id"),
        };
        assert_eq!(dag_json(&task.args, &by_id), item["block"]["args"], "{}", item["name"]);
    }
    let rejects = made["reject"].as_array().expect("a list");
    let taken = rejects.iter().filter(|item| {
        let bytes = match item.get("repeat") {
            Some(rule) => vec![0; rule["times"].as_u64().expect("a count") as usize],
            None => unhex(item["bytes"].as_str().expect("hex")),
        };
        decode_task(&bytes).is_ok()
    });
    assert_eq!(taken.map(|item| &item["name"]).collect::<Vec<_>>(), Vec::<&Json>::new(), "must be refused");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tasks.json");
    if std::env::var_os("QUIPU_BLESS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&made).expect("JSON") + "\n").expect("can be written");
    }
    let there: Json = serde_json::from_slice(&std::fs::read(&path).expect("vectors are committed")).expect("JSON");
    assert!(there == made, "tests/vectors/tasks.json differs from what the code makes; QUIPU_BLESS=1 writes it anew");
}

#[test]
fn base64_is_that_of_dag_json() {
    for (bytes, text) in
        [(&b""[..], ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"foob", "Zm9vYg"), (&[251, 255], "+/8")]
    {
        assert_eq!(base64(bytes), text);
    }
}
