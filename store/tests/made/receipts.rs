//! Vectors of signed receipts.
//!
//! The payload of each is written out here a second time as DAG-JSON, field by field, so that the published
//! meaning does not come from the code under test.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer as _, SigningKey};
use libipld::cid::Cid;
use libipld::ipld::Ipld;
use quipu_store::cid::{BlobId, InvocationId, Link, OutputId, ReceiptId, TaskId, TreeId};
use quipu_store::receipt::{Failure, FailureKind, MAX_RECEIPT_BYTES, Meta, Output, Receipt, Via};
use quipu_store::sign::{Signer, VARSIG};
use quipu_store::tree::{Entry, Tree};
use serde_json::{Value, json};

use super::{hex, reject, swap};

const SECRET: [u8; 32] = [7; 32];
const OTHER_SECRET: [u8; 32] = [8; 32];
/// The order of the ed25519 group, least significant byte first.
const GROUP_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

fn dag_link(link: impl Into<Link>) -> Value {
    json!({"/": link.into().to_string()})
}

fn with(map: &mut Value, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map[key] = value;
    }
}

fn ok_json(output: &Output) -> Value {
    let artifact = |entry: &Entry| match entry {
        Entry::File { blob, size, exec } => {
            let mut out = json!({"kind": "file", "cid": dag_link(*blob), "size": size});
            with(&mut out, "exec", exec.then_some(true.into()));
            out
        }
        Entry::Dir { tree } => json!({"kind": "dir", "cid": dag_link(*tree)}),
        Entry::Symlink { target } => json!({"kind": "symlink", "target": target}),
    };
    let outputs: serde_json::Map<String, Value> =
        output.artifacts.iter().map(|(p, e)| (p.to_string(), artifact(e))).collect();
    let mut ok = json!({"outputs": outputs});
    with(&mut ok, "stdout", output.stdout.map(dag_link));
    with(&mut ok, "stderr", output.stderr.map(dag_link));
    ok
}

fn error_json(failure: &Failure) -> Value {
    let mut error = match &failure.kind {
        FailureKind::Exit { code } => json!({"kind": "exit", "code": code}),
        FailureKind::Signal { signal } => json!({"kind": "signal", "code": signal}),
        FailureKind::Timeout { limit_ms } => json!({"kind": "timeout", "code": limit_ms}),
        FailureKind::OutOfMemory => json!({"kind": "out-of-memory"}),
        FailureKind::MissingOutput { path } => json!({"kind": "missing-output", "path": path}),
        FailureKind::UndeclaredOutput { path } => json!({"kind": "undeclared-output", "path": path}),
        FailureKind::BadOutput { path, why } => json!({"kind": "bad-output", "path": path, "why": why}),
        FailureKind::Spawn { why } => json!({"kind": "spawn", "why": why}),
        FailureKind::Delivered { why } => json!({"kind": "delivered", "why": why}),
        other => panic!("no receipt records {other:?}"),
    };
    with(&mut error, "stdout", failure.stdout.map(dag_link));
    with(&mut error, "stderr", failure.stderr.map(dag_link));
    error
}

/// The payload of a receipt, as DAG-JSON.
pub(crate) fn payload(receipt: &Receipt, issuer: &str) -> Value {
    let out = match &receipt.out {
        Ok(output) => json!({"ok": ok_json(output)}),
        Err(failure) => json!({"error": error_json(failure)}),
    };
    let meta = &receipt.meta;
    let via = |via: &Via| -> Value {
        via.iter().map(|(t, o)| (t.to_string(), dag_link(*o))).collect::<serde_json::Map<_, _>>().into()
    };
    let settles: serde_json::Map<String, Value> = meta.settles.iter().map(|(t, v)| (t.to_string(), via(v))).collect();
    let ins: Vec<Value> = meta.ins.iter().map(|id| dag_link(*id)).collect();
    let mut quipu = json!({
        "v": 1, "for": settles, "ins": ins, "ms": meta.wall_ms, "cpu_ms": meta.cpu_ms, "rss": meta.rss_bytes, "tier": meta.tier,
    });
    with(&mut quipu, "host", meta.host.as_deref().map(Value::from));
    json!({
        "iss": issuer, "sub": issuer, "cmd": "/ucan/assert/receipt", "args": {"ran": dag_link(receipt.ran), "out": out},
        "prf": [], "nonce": {"/": {"bytes": ""}}, "exp": receipt.expires_at, "iat": receipt.issued_at, "meta": {"quipu": quipu},
    })
}

fn plain(out: Result<Output, Failure>) -> Receipt {
    Receipt {
        ran: InvocationId::of(b"invocation"),
        out,
        issued_at: 1_700_000_000,
        expires_at: None,
        meta: Meta { tier: "ns".to_owned(), ..Meta::default() },
    }
}

fn full() -> Receipt {
    let file = |bytes: &[u8], exec| Entry::File { blob: BlobId::of(bytes), size: bytes.len() as u64, exec };
    let gen_dir = Tree::default().encode().expect("fits").id;
    let output = Output {
        artifacts: BTreeMap::from([
            ("bin/app".into(), file(b"\x7fELF", true)),
            ("gen".into(), Entry::Dir { tree: gen_dir }),
            ("obj/a.o".into(), file(b"object", false)),
            ("latest".into(), Entry::Symlink { target: "bin/app".into() }),
            ("z".into(), file(b"", false)),
        ]),
        stdout: Some(BlobId::of(b"built\n")),
        stderr: Some(BlobId::of(b"1 warning\n")),
    };
    let via = Via::from([
        (TaskId::of(b"compile"), OutputId::of(b"objects")),
        (TaskId::of(b"codegen"), OutputId::of(b"header")),
    ]);
    Receipt {
        ran: InvocationId::of(b"invocation"),
        out: Ok(output),
        issued_at: 1_735_689_600,
        expires_at: Some(1_767_225_600),
        meta: Meta {
            settles: BTreeMap::from([
                (TaskId::of(b"link"), via),
                (TaskId::of(b"link, as another workfile has it"), Via::new()),
            ]),
            ins: vec![ReceiptId::of(b"receipt of compile"), ReceiptId::of(b"receipt of codegen")],
            wall_ms: 1234,
            cpu_ms: 2001,
            rss_bytes: 73_400_320,
            tier: "none".to_owned(),
            host: Some("knot".to_owned()),
        },
    }
}

fn accepted() -> Vec<(&'static str, Receipt)> {
    let printed = |kind: FailureKind| {
        plain(Err(Failure { kind, stdout: Some(BlobId::of(b"out\n")), stderr: Some(BlobId::of(b"err\n")) }))
    };
    let silent = |kind: FailureKind| plain(Err(kind.into()));
    let path = || "gen/types.h".to_owned();
    vec![
        ("ok, nothing written", plain(Ok(Output::default()))),
        ("ok, printed only", plain(Ok(Output { stdout: Some(BlobId::of(b"3.2\n")), ..Output::default() }))),
        ("ok, every kind of output, hints, inputs, measurements, expiry", full()),
        ("failed: exit", printed(FailureKind::Exit { code: 2 })),
        ("failed: exit with a negative code", silent(FailureKind::Exit { code: -1_073_741_819 })),
        ("failed: signal", printed(FailureKind::Signal { signal: 11 })),
        ("failed: timeout", printed(FailureKind::Timeout { limit_ms: 90_000 })),
        ("failed: out of memory", silent(FailureKind::OutOfMemory)),
        ("failed: missing output", silent(FailureKind::MissingOutput { path: path() })),
        ("failed: undeclared output", silent(FailureKind::UndeclaredOutput { path: path() })),
        ("failed: bad output", silent(FailureKind::BadOutput { path: path(), why: "it is a socket".to_owned() })),
        ("failed: spawn", silent(FailureKind::Spawn { why: "no such file or directory".to_owned() })),
        ("failed: delivered", silent(FailureKind::Delivered { why: "not approved".to_owned() })),
    ]
}

fn encode(value: &Ipld) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("has a canonical form")
}

/// An envelope over whatever `change` makes of a good receipt's header and payload, signed as it should be.
fn forged(secret: &[u8; 32], from: &Receipt, change: impl FnOnce(&mut Ipld)) -> Vec<u8> {
    let bytes = Signer::from_secret(&SECRET).sign(from).expect("small").bytes;
    let Ok(Ipld::List(mut envelope)) = serde_ipld_dagcbor::from_slice(&bytes) else { panic!("an envelope is a list") };
    change(&mut envelope[1]);
    envelope[0] = Ipld::Bytes(SigningKey::from_bytes(secret).sign(&encode(&envelope[1])).to_bytes().to_vec());
    encode(&Ipld::List(envelope))
}

/// What stands at `path` in maps of maps; made when it is not there.
fn at<'a>(value: &'a mut Ipld, path: &str) -> &'a mut Ipld {
    path.split(' ').fold(value, |value, key| {
        let Ipld::Map(map) = value else { panic!("a map above `{key}`") };
        map.entry(key.to_owned()).or_insert(Ipld::Null)
    })
}

fn remove(value: &mut Ipld, path: &str) {
    let (above, key) = path.rsplit_once(' ').expect("a path of two keys or more");
    let Ipld::Map(map) = at(value, above) else { panic!("a map above `{key}`") };
    map.remove(key).expect("was there");
}

const PAYLOAD: &str = "ucan/inv@1.0.0-rc.1";

/// Good signatures over claims that no reader may take.
fn refused_claims() -> Vec<Value> {
    let full = full();
    let failed = plain(Err(FailureKind::Exit { code: 2 }.into()));
    let set = |name: &str, why: &str, from: &Receipt, path: &str, to: Ipld| {
        reject(name, why, &forged(&SECRET, from, |v| *at(v, &format!("{PAYLOAD} {path}")) = to))
    };
    let drop_key = |name: &str, why: &str, from: &Receipt, path: &str| {
        reject(name, why, &forged(&SECRET, from, |v| remove(v, &format!("{PAYLOAD} {path}"))))
    };
    let text = |t: &str| Ipld::String(t.to_owned());
    let cid = |link: Link| Ipld::Link(Cid::try_from(&link.to_bytes()[..]).expect("a CID"));
    let sha2: Cid = "bafyreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq".parse().expect("a CID");
    let (blob, tree) = (BlobId::of(b"b").link(), TreeId::of(b"t").link());
    let file = |cid: Ipld| {
        Ipld::Map(BTreeMap::from([
            ("cid".to_owned(), cid),
            ("kind".to_owned(), text("file")),
            ("size".to_owned(), Ipld::Integer(1)),
        ]))
    };
    let (out, outputs, quipu) = ("args out", "args out ok outputs", "meta quipu");
    let output = |name: &str, path: &str| {
        let path_key = path.to_owned();
        let bytes = forged(&SECRET, &full, |v| {
            let Ipld::Map(map) = at(v, &format!("{PAYLOAD} {outputs}")) else { panic!("outputs are a map") };
            map.insert(path_key, file(cid(blob)));
        });
        reject(name, "unexpected", &bytes)
    };
    let other_did = Signer::from_secret(&OTHER_SECRET).public().to_string();
    let task = TaskId::of(b"task").to_string();
    let hint = |key: &str| Ipld::Map(BTreeMap::from([(key.to_owned(), Ipld::Map(BTreeMap::new()))]));
    let header = |name: &str, h: &[u8]| {
        reject(name, "unexpected", &forged(&SECRET, &full, |v| *at(v, "h") = Ipld::Bytes(h.to_vec())))
    };
    let over = i128::from(quipu_store::dag::MAX_INT) + 1;
    vec![
        header("header of the draft before version 1", &[0x34, 0xed, 0x01, 0x13, 0x71]),
        header("header for DAG-JSON", &[0x34, 0x01, 0xed, 0x01, 0xed, 0x01, 0x13, 0xa9, 0x02]),
        header("header of secp256k1", &[0x34, 0x01, 0xec, 0x01, 0xe7, 0x01, 0x12, 0x71]),
        header("empty header", &[]),
        reject("header with a field beside it", "form", &forged(&SECRET, &full, |v| *at(v, "x") = Ipld::Null)),
        reject(
            "payload of another UCAN version",
            "form",
            &forged(&SECRET, &full, |v| {
                let taken = at(v, PAYLOAD).clone();
                *v = Ipld::Map(BTreeMap::from([
                    ("h".to_owned(), Ipld::Bytes(VARSIG.to_vec())),
                    ("ucan/inv@1.0.0".to_owned(), taken),
                ]));
            }),
        ),
        set("other command", "unexpected", &full, "cmd", text("/ucan/revoke")),
        set("command with a slash at its end", "unexpected", &full, "cmd", text("/ucan/assert/receipt/")),
        set("subject is somebody else", "unexpected", &full, "sub", text(&other_did)),
        set("issuer is no did:key", "unexpected", &full, "iss", text("did:web:quipu.build")),
        set("issuer in another base", "unexpected", &full, "iss", text(&base16_did())),
        set("proofs", "unexpected", &full, "prf", Ipld::List(vec![cid(tree)])),
        set("nonce", "unexpected", &full, "nonce", Ipld::Bytes(vec![1])),
        set("audience", "form", &full, "aud", text(&other_did)),
        set("meta of somebody else's", "form", &full, "meta other", Ipld::Null),
        drop_key("no expiry field", "form", &full, "exp"),
        drop_key("no time of issue", "form", &full, "iat"),
        drop_key("no meta", "form", &full, "meta"),
        set("time of issue as a float", "form", &full, "iat", Ipld::Float(1.5)),
        set("negative time of issue", "form", &full, "iat", Ipld::Integer(-1)),
        set("time of issue of 2^53", "unexpected", &full, "iat", Ipld::Integer(over)),
        set("expiry of 2^53", "unexpected", &full, "exp", Ipld::Integer(over)),
        set("version 2", "version", &full, "meta quipu v", Ipld::Integer(2)),
        set("version 0", "version", &full, "meta quipu v", Ipld::Integer(0)),
        set("measurement of 2^53", "unexpected", &full, &format!("{quipu} rss"), Ipld::Integer(over)),
        set("a measurement nobody knows", "form", &full, &format!("{quipu} gpu"), Ipld::Integer(1)),
        set("host of null", "form", &full, &format!("{quipu} host"), Ipld::Null),
        set("hint for something that is no id", "unexpected", &full, &format!("{quipu} for"), hint("link")),
        set("hint for a blob", "unexpected", &full, &format!("{quipu} for"), hint(&blob.to_string())),
        set("hint in upper case", "unexpected", &full, &format!("{quipu} for"), hint(&task.to_uppercase())),
        set("input receipt that is a blob", "form", &full, &format!("{quipu} ins"), Ipld::List(vec![cid(blob)])),
        set("ran is a blob", "form", &full, "args ran", cid(blob)),
        set("ran is text", "form", &full, "args ran", text(&task)),
        set("ran has another hash", "form", &full, "args ran", Ipld::Link(sha2)),
        set("out is empty", "unexpected", &full, out, Ipld::Map(BTreeMap::new())),
        set(
            "out is ok and error",
            "unexpected",
            &full,
            "args out error",
            Ipld::Map(BTreeMap::from([("kind".to_owned(), text("out-of-memory"))])),
        ),
        drop_key("ok without outputs", "form", &full, outputs),
        set("ok with a field nobody knows", "form", &full, "args out ok exit", Ipld::Integer(0)),
        output("output above the workspace", "../x"),
        output("output by absolute path", "/etc/passwd"),
        output("output with an empty part", "a//b"),
        output("output with a dot part", "./a"),
        output("output with a slash at its end", "a/"),
        output("output with a NUL", "a\0b"),
        output("output without a name", ""),
        output("output with a long name", &"n".repeat(256)),
        set("stdout is a tree", "form", &full, "args out ok stdout", cid(tree)),
        set("output of no kind", "form", &full, &format!("{outputs} z kind"), text("socket")),
        set("file that is a tree", "unexpected", &full, &format!("{outputs} z cid"), cid(tree)),
        set("file with exec false", "unexpected", &full, &format!("{outputs} z exec"), Ipld::Bool(false)),
        set("file with a target", "unexpected", &full, &format!("{outputs} z target"), text("a")),
        set("file of 2^53 bytes", "unexpected", &full, &format!("{outputs} z size"), Ipld::Integer(over)),
        drop_key("file without size", "unexpected", &full, &format!("{outputs} z size")),
        set("directory that is a blob", "unexpected", &full, &format!("{outputs} gen cid"), cid(blob)),
        set("directory with a size", "unexpected", &full, &format!("{outputs} gen size"), Ipld::Integer(1)),
        set("link without target", "unexpected", &full, &format!("{outputs} latest target"), text("")),
        set("link with a NUL in its target", "unexpected", &full, &format!("{outputs} latest target"), text("a\0")),
        set("link with content", "unexpected", &full, &format!("{outputs} latest cid"), cid(blob)),
        set("error of no kind", "unexpected", &failed, "args out error kind", text("sulked")),
        set(
            "error no receipt records: branch-mismatch",
            "unexpected",
            &failed,
            "args out error kind",
            text("branch-mismatch"),
        ),
        set(
            "error no receipt records: input-changed",
            "unexpected",
            &failed,
            "args out error kind",
            text("input-changed"),
        ),
        set("error no receipt records: executor", "unexpected", &failed, "args out error kind", text("executor")),
        drop_key("exit without code", "unexpected", &failed, "args out error code"),
        set("exit code beyond 32 bits", "unexpected", &failed, "args out error code", Ipld::Integer(1 << 31)),
        set("exit with a path", "unexpected", &failed, "args out error path", text("a")),
        set("exit on a task", "unexpected", &failed, "args out error on", cid(TaskId::of(b"t").link())),
    ]
}

fn base16_did() -> String {
    format!("did:key:fed01{}", hex(Signer::from_secret(&SECRET).public().as_bytes()))
}

/// Adds the group order to the second half of a signature: the same equation holds, with other bytes.
fn malleated(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut carry = 0_u16;
    // `82 58 40`, then 32 bytes of R and 32 of S.
    for (place, order) in out[35..67].iter_mut().zip(GROUP_ORDER) {
        let sum = u16::from(*place) + u16::from(order) + carry;
        (*place, carry) = (sum as u8, sum >> 8);
    }
    out
}

/// Bytes that a lenient reader would take for a good receipt, and bytes that are none.
fn refused_bytes() -> Vec<Value> {
    let signer = Signer::from_secret(&SECRET);
    let good = signer.sign(&full()).expect("small").bytes;
    let flipped = |at: usize| {
        let mut out = good.clone();
        out[at] ^= 1;
        out
    };
    // `82 | 58 40 sig | a2 | 61 h 48 varsig | 73 name payload`
    let (sig, rest) = (&good[1..67], &good[67..]);
    let (h, body) = (&rest[1..12], &rest[12..]);
    assert!(good[0] == 0x82 && rest[0] == 0xa2 && h[3..] == VARSIG && body[0] == 0x73);
    let other = forged(&OTHER_SECRET, &full(), |_| {});
    let resigned = forged(&SECRET, &full(), |v| *at(v, &format!("{PAYLOAD} iat")) = Ipld::Integer(1_735_689_601));
    // The neutral element as key: anybody can make signatures that the plain equation accepts for it.
    let mut neutral = [0; 34];
    neutral[..3].copy_from_slice(&[0xed, 0x01, 1]);
    let did = Ipld::String(format!("did:key:{}", cid::multibase::encode(cid::multibase::Base::Base58Btc, neutral)));
    let mut weak = forged(&SECRET, &full(), |v| {
        *at(v, &format!("{PAYLOAD} iss")) = did.clone();
        *at(v, &format!("{PAYLOAD} sub")) = did;
    });
    weak[3..67].fill(0);
    weak[3] = 1;
    let iat = 1_735_689_600_u32.to_be_bytes();
    let iat = |head: &[u8]| [&b"\x63iat"[..], head, &iat].concat();
    vec![
        reject("no bytes", "form", b""),
        reject("cut short", "form", &good[..good.len() - 1]),
        reject("trailing byte", "form", &[&good[..], &[0]].concat()),
        reject("a second receipt behind it", "form", &[&good[..], &good].concat()),
        reject("a map", "form", b"\xa0"),
        reject("list of one", "form", &[&[0x81][..], sig].concat()),
        reject("list of three", "form", &[&[0x83][..], sig, rest, &[0xf6]].concat()),
        reject("list of indefinite length", "form", &[&[0x9f][..], sig, rest, &[0xff]].concat()),
        reject("map of indefinite length", "form", &[&[0x82][..], sig, &[0xbf], h, body, &[0xff]].concat()),
        reject("bytes of indefinite length", "form", &[&[0x82, 0x5f][..], sig, &[0xff], rest].concat()),
        reject("list length in the long form", "form", &[&[0x98, 2][..], sig, rest].concat()),
        reject("bytes length in the long form", "form", &[&[0x82, 0x59, 0, 0x40][..], &sig[2..], rest].concat()),
        reject("keys out of order", "form", &[&[0x82][..], sig, &[0xa2], body, h].concat()),
        reject("a key twice", "form", &[&[0x82][..], sig, &[0xa3], h, h, body].concat()),
        reject("integer in the long form", "form", &swap(&good, &iat(&[0x1a]), &iat(&[0x1b, 0, 0, 0, 0]))),
        reject(
            "undefined for null",
            "form",
            &swap(&signer.sign(&plain(Ok(Output::default()))).expect("small").bytes, b"\x63exp\xf6", b"\x63exp\xf7"),
        ),
        reject(
            "link without its leading NUL",
            "form",
            &swap(&good, b"\x63ran\xd8\x2a\x58\x25\x00", b"\x63ran\xd8\x2a\x58\x24"),
        ),
        reject("link without its tag", "form", &swap(&good, b"\x63ran\xd8\x2a", b"\x63ran")),
        reject("another tag", "form", &swap(&good, b"\x63ran\xd8\x2a", b"\x63ran\xd8\x2b")),
        reject("text that is not UTF-8", "form", &swap(&good, b"\x64knot", b"\x64kno\xff")),
        reject("huge claimed length", "form", b"\x82\x5b\x7f\xff\xff\xff\xff\xff\xff\xff"),
        reject("nested 300 deep", "form", &[0x81; 300]),
        json!({"name": "larger than a receipt may be", "why": "too-large", "repeat": {"bytes": "00", "times": MAX_RECEIPT_BYTES + 1}}),
        reject("signature changed", "signature", &flipped(10)),
        reject("claim changed after signing", "signature", &[&good[..67], &resigned[67..]].concat()),
        reject("signed by somebody else", "signature", &other),
        reject("signature of 63 bytes", "signature", &[&[0x82, 0x58, 0x3f][..], &sig[2..65], rest].concat()),
        reject("no signature", "signature", &[&[0x82, 0x40][..], rest].concat()),
        reject("signature moved by the group order", "signature", &malleated(&good)),
        reject("weak key", "signature", &weak),
    ]
}

pub(crate) fn receipts() -> Value {
    let signer = Signer::from_secret(&SECRET);
    let accept = accepted().into_iter().map(|(name, receipt)| {
        let signed = signer.sign(&receipt).expect("small");
        let mut item = json!({
            "name": name, "id": signed.id.to_string(), "bytes": hex(&signed.bytes),
            "payload": payload(&receipt, &signer.public().to_string()),
        });
        let id = receipt.out.as_ref().map_or_else(Failure::id, Output::id);
        item["output_id"] = id.to_string().into();
        item
    });
    let accept: Vec<Value> = accept.collect();
    let key = |secret: &[u8; 32]| {
        let public = Signer::from_secret(secret).public();
        json!({"secret": hex(secret), "public": hex(public.as_bytes()), "did": public.to_string()})
    };
    let mut negative = refused_bytes();
    negative.extend(refused_claims());
    json!({
        "about": "Signed receipts. Normative text: docs/formats/receipt.md. `payload` is DAG-JSON. Claims under `reject` carry good signatures unless their name says otherwise.",
        "keys": [key(&SECRET), key(&OTHER_SECRET)], "header": hex(&VARSIG), "accept": accept, "reject": negative,
    })
}
