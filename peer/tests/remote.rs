//! A peer as a remote: the server of this crate, and servers that do what none should.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use quipu_peer::{Config, PeerRemote, ServeOptions, Server};
use quipu_store::cid::{BlobId, Codec, InvocationId, Link, TaskId};
use quipu_store::receipt::{Meta, Output, Receipt, Via};
use quipu_store::remote::{Fetched, Remote, RemoteError, Want};
use quipu_store::sign::{SignedReceipt, Signer};
use quipu_store::tree::Tree;
use quipu_store::{Options, Record, SignerSource, Store};

const TOKEN: &str = "0123456789abcdef0123";

fn memory(key: u8) -> Store {
    Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[key; 32]))))
}

fn peer(address: SocketAddr, timeout: f64) -> PeerRemote {
    let config = Config { timeout, ..Config::new(format!("http://{address}")) };
    PeerRemote::new("peer", &config, &|_| None).expect("is good")
}

/// A server of this crate over a store, for as long as the process lives.
fn serve(store: &Store, token: Option<&str>) -> SocketAddr {
    let options = ServeOptions { token: token.map(str::to_owned), share: Arc::new(|_, _| true) };
    let server = Server::bind(store.clone(), "127.0.0.1:0".parse().expect("an address"), options).expect("listens");
    let address = server.address();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("starts").block_on(server.run(std::future::pending()))
    });
    address
}

fn record(store: &Store, task: TaskId) -> InvocationId {
    let ran = InvocationId::of(task.digest());
    let receipt = Receipt {
        ran,
        out: Ok(Output::default()),
        issued_at: 1_700_000_000,
        expires_at: None,
        meta: Meta { settles: [(task, Via::new())].into(), tier: "ns".to_owned(), ..Meta::default() },
    };
    store.record(Record { receipt, blocks: vec![], done: Box::new(|_| {}) }).expect("is kept");
    ran
}

fn want(bytes: &[u8]) -> Want {
    Want { link: BlobId::of(bytes).link(), size: Some(bytes.len() as u64) }
}

/// What a server that is none does with each connection.
type Does = dyn Fn(&mut TcpStream, &str) + Send + Sync;

/// Answers every connection in a way of its own, on threads that live as long as the process; counts them.
fn odd(does: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let (address, asked) = (listener.local_addr().expect("has one"), Arc::new(AtomicUsize::new(0)));
    let (does, counted): (Arc<Does>, _) = (Arc::new(does), Arc::clone(&asked));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let does = Arc::clone(&does);
            std::thread::spawn(move || {
                let mut head = vec![];
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                does(&mut stream, &String::from_utf8_lossy(&head));
            });
        }
    });
    (address, asked)
}

/// A whole answer with this head and body, and the end of the connection.
fn answer(head: &str, body: &[u8]) -> impl Fn(&mut TcpStream, &str) + Send + Sync + 'static {
    let bytes = [head.as_bytes(), b"\r\nConnection: close\r\n\r\n", body].concat();
    move |stream: &mut TcpStream, _: &str| drop(stream.write_all(&bytes))
}

#[test]
fn receipts_and_blocks_of_another_store_are_had() {
    let theirs = memory(1);
    let tasks: Vec<TaskId> = (0..2000_u32).map(|n| TaskId::of(&n.to_le_bytes())).collect();
    let ran: Vec<InvocationId> = tasks.iter().step_by(500).map(|task| record(&theirs, *task)).collect();
    let large = vec![5; 3 << 20];
    let blobs = [&b""[..], b"small", &vec![4; 100_000], &large];
    for bytes in blobs {
        theirs.put(Codec::Raw, bytes.to_vec()).expect("fits");
    }
    let remote = peer(serve(&theirs, None), 60.0);
    let ours = memory(2);
    // More than fit in one question; each finds its own.
    let found = remote.find_tasks(&ours, true, &tasks).expect("answers");
    for (i, envelopes) in found.iter().enumerate() {
        assert_eq!(envelopes.len(), usize::from(i % 500 == 0), "{i}");
        for bytes in envelopes {
            let signed = SignedReceipt::verify(bytes).expect("is signed");
            assert!(signed.receipt.meta.settles.contains_key(&tasks[i]));
        }
    }
    let found = remote.find_invocations(&ours, true, &[ran[3], ran[3], InvocationId::of(b"unknown")]).expect("answers");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 0]);
    assert_eq!(remote.find_tasks(&ours, true, &[]).expect("is not asked"), Vec::<Vec<Vec<u8>>>::new());

    // A directory is a block of another kind.
    let tree = theirs.put_tree(&Tree::new(vec![]).expect("is one")).expect("fits");
    let node = Want { link: tree.link(), size: None };
    assert_eq!(remote.fetch(&ours, &[node]).expect("answers").blobs, 1);
    assert!(ours.tree(tree).expect("reads").is_some());

    let mut wants: Vec<Want> = blobs.iter().map(|bytes| want(bytes)).collect();
    wants.push(Want { link: BlobId::of(b"small").link(), size: None });
    wants.push(want(b"nobody has this"));
    let fetched = remote.fetch(&ours, &wants).expect("answers");
    assert_eq!((fetched.blobs, fetched.false_blobs), (5, 0));
    for bytes in blobs {
        assert_eq!(ours.get(BlobId::of(bytes).link(), u64::MAX).expect("reads").as_deref(), Some(bytes));
    }
    assert!(!ours.has(want(b"nobody has this").link).expect("reads"));
}

#[test]
fn the_token_is_shown_and_a_refusal_is_final() {
    let theirs = memory(1);
    theirs.put(Codec::Raw, b"x".to_vec()).expect("fits");
    let address = serve(&theirs, Some(TOKEN));
    let ours = memory(2);
    let none = peer(address, 60.0).find_tasks(&ours, true, &[TaskId::of(b"t")]).expect_err("asks for one");
    assert!(matches!(&none, RemoteError::Denied(why) if why.contains("asks for a token")) && none.is_final(), "{none}");
    let config = Config { token_env: Some("T".into()), ..Config::new(format!("http://{address}")) };
    let with = |token: &str| PeerRemote::new("peer", &config, &|_| Some(token.to_owned())).expect("is good");
    let wrong = with("another-token-than-that").fetch(&ours, &[want(b"x")]).expect_err("is wrong");
    assert!(matches!(&wrong, RemoteError::Denied(why) if why.contains("does not take")), "{wrong}");
    assert_eq!(with(TOKEN).fetch(&ours, &[want(b"x")]).expect("is right").blobs, 1);
    assert!(!format!("{none} {wrong}").contains("another-token"), "tokens are not printed");
}

#[test]
fn nothing_false_gets_into_the_store() {
    let right = vec![7_u8; 2 << 20];
    let flipped = |at: usize| {
        let mut bad = right.clone();
        bad[at] ^= 1;
        bad
    };
    let longer = [&right[..], b"x"].concat();
    for (name, body, sized) in [
        ("first byte", flipped(0), true),
        ("last byte", flipped(right.len() - 1), true),
        ("shorter", right[..right.len() - 1].to_vec(), true),
        ("longer", longer.clone(), true),
        ("longer, unannounced", longer, false),
        ("empty", vec![], true),
        ("another", vec![8; 2 << 20], false),
    ] {
        let length = if sized { format!("\r\nContent-Length: {}", body.len()) } else { String::new() };
        let (address, _) = odd(answer(&format!("HTTP/1.1 200 OK{length}"), &body));
        let ours = memory(2);
        let small = want(b"small");
        let fetched = peer(address, 60.0).fetch(&ours, &[want(&right), small]).expect("answers");
        assert_eq!(fetched, Fetched { blobs: 0, bytes: 0, false_blobs: 2 }, "{name}");
        assert!(!ours.has(want(&right).link).expect("reads") && !ours.has(small.link).expect("reads"), "{name}");
    }
    // A directory node may be no larger than any, whatever is announced.
    let (address, _) = odd(answer("HTTP/1.1 200 OK\r\nContent-Length: 999999999999", &right));
    let node = Want { link: Link { codec: Codec::DagCbor, digest: [1; 32] }, size: None };
    assert_eq!(peer(address, 60.0).fetch(&memory(2), &[node]).expect("answers").false_blobs, 1);
}

#[test]
fn answers_that_make_no_sense_are_errors_and_leave_nothing() {
    let ids = [TaskId::of(b"t")];
    let endless = |stream: &mut TcpStream, _: &str| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(&[b'a'; 1000]).is_ok() {}
    };
    let many = |stream: &mut TcpStream, _: &str| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while stream.write_all(&[&b"10000\r\n"[..], &[0x11; 0x10000], b"\r\n"].concat()).is_ok() {}
    };
    let elsewhere = odd(answer("HTTP/1.1 200 OK\r\nContent-Length: 0", b""));
    let moved = format!("HTTP/1.1 307 Gone\r\nLocation: http://{}/\r\nContent-Length: 0", elsewhere.0);
    let cases: Vec<(&str, SocketAddr)> = vec![
        ("no HTTP", odd(answer("SSH-2.0-OpenSSH", b"")).0),
        ("closes at once", odd(|_, _| {}).0),
        ("500", odd(answer("HTTP/1.1 500 Oops\r\nContent-Length: 0", b"")).0),
        ("404", odd(answer("HTTP/1.1 404 No\r\nContent-Length: 0", b"")).0),
        ("elsewhere", odd(answer(&moved, b"")).0),
        ("no CAR", odd(answer("HTTP/1.1 200 OK\r\nContent-Length: 4", b"what")).0),
        ("an empty CAR", odd(answer("HTTP/1.1 200 OK\r\nContent-Length: 0", b"")).0),
        ("a cut CAR", odd(answer("HTTP/1.1 200 OK\r\nContent-Length: 999", b"\x3a\xa2")).0),
        ("bad chunks", odd(answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"zz\r\n")).0),
        ("a head without end", odd(endless).0),
        ("a body without end", odd(many).0),
    ];
    for (name, address) in cases {
        let ours = memory(2);
        let error = peer(address, 60.0).find_tasks(&ours, true, &ids).expect_err(name);
        assert!(matches!(error, RemoteError::Odd(_) | RemoteError::Unreachable(_)), "{name}: {error:?}");
    }
    assert_eq!(elsewhere.1.load(Ordering::SeqCst), 0, "nobody sends us elsewhere");
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port was free");
    let error = peer(gone, 60.0).fetch(&memory(2), &[want(b"x")]).expect_err("nobody is there");
    assert!(matches!(&error, RemoteError::Unreachable(why) if why.contains("cannot be reached")), "{error:?}");
    // A fetch that breaks off in the middle leaves nothing, and what it waits for is not waited for again.
    let (cut, asked) =
        odd(|stream, _| drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\nabc")));
    let ours = memory(2);
    let wants: Vec<Want> = (0..500_u32).map(|n| Want { size: Some(9_000_000), ..want(&n.to_le_bytes()) }).collect();
    assert!(peer(cut, 60.0).fetch(&ours, &wants).is_err());
    assert!(asked.load(Ordering::SeqCst) < 50, "{asked:?} of 500 were asked for");
}

#[test]
fn a_receipt_that_cannot_be_verified_is_handed_on_to_be_told_of() {
    let theirs = memory(1);
    let task = TaskId::of(b"t");
    record(&theirs, task);
    let good = theirs.find_tasks(&[task]).expect("reads")[0].receipts[0].signed.clone();
    let mut bytes = good.bytes.clone();
    *bytes.last_mut().expect("not empty") ^= 1;
    let forged = Arc::new(SignedReceipt { id: quipu_store::cid::ReceiptId::of(&bytes), bytes, ..(*good).clone() });
    let mut file = vec![];
    quipu_store::car::pack(&[forged], &mut file).expect("written to memory");
    let (address, _) = odd(answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}", file.len()), &file));
    let found = peer(address, 60.0).find_tasks(&memory(2), true, &[task]).expect("answers");
    assert!(SignedReceipt::verify(&found[0][0]).is_err());
}

#[test]
fn who_stalls_or_drips_is_waited_for_once() {
    let (never, waits) = mpsc::channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let stall = move |_: &mut TcpStream, _: &str| drop(waits.lock().map(|w| w.recv()));
    let drip = |stream: &mut TcpStream, _: &str| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let wants: Vec<Want> = (0..100_u32).map(|n| Want { size: Some(60), ..want(&n.to_le_bytes()) }).collect();
    for (name, address) in [("stalls", odd(stall).0), ("drips", odd(drip).0)] {
        let remote = peer(address, 0.3);
        let ours = memory(2);
        let error = remote.find_tasks(&ours, true, &[TaskId::of(b"t")]).expect_err(name);
        assert!(matches!(error, RemoteError::Slow(_)) && error.is_final(), "{name}: {error:?}");
        let error = remote.fetch(&ours, &wants).expect_err(name);
        assert!(matches!(error, RemoteError::Slow(_)), "{name}: {error:?}");
    }
    drop(never);
}
