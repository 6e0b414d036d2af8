//! Tasks, graphs, plans and executors of quipu: give it tasks, and it runs only what no receipt settles.
//!
//! ```text
//!  workfile -> workflow -> graph -> identity -> run (state machine) <-> drive -> exec
//!                                                     |                   |
//!                                              plan, explain       observe, event_log
//! ```
//!
//! Everything above `drive` takes values and returns values. A program that brings tasks and executors of its
//! own needs no workfile:
//!
//! ```
//! use quipu_runtime::{drive::*, exec::*, graph::*, identity::*, run::*, task::*, value::*, workflow::*};
//! use quipu_store::{Options, SignerSource, Store, cid::Codec, receipt::Output, sign::Signer, tree::Entry};
//! use std::sync::Arc;
//!
//! let store = Store::memory(Options::new(SignerSource::Fixed(Signer::from_secret(&[7; 32]))));
//! let mut engine = Engine::new(store);
//! engine.executors.register("/demo/greet", native::native(|job: Job| async move {
//!     let text = job.invocation.args.get("name").and_then(Value::as_text).unwrap_or("nobody");
//!     let bytes = format!("hello, {text}").into_bytes();
//!     let size = bytes.len() as u64;
//!     let blob = job.store.put(Codec::Raw, bytes).expect("the store takes it").try_into().expect("raw");
//!     let artifact = ("greeting".into(), Entry::File { blob, size, exec: false });
//!     Ok(Output { artifacts: [artifact].into(), ..Output::default() })
//! }));
//!
//! let mut workflow = Workflow::new();
//! let args = Value::map([("name", "world".into())])?;
//! let greet = workflow.add("greet", Task::new("/demo/greet", args))?;
//! let promise = Value::promise(Branch::Ok, On::Here(greet), ["outputs", "greeting", ]);
//! let args = Value::map([("name", "again".into()), ("before", promise)])?;
//! let again = workflow.add("again", Task::new("/demo/greet", args))?;
//! let subject = Arc::new(Subject::new(workflow)?);
//!
//! let request = || Request::new(Arc::clone(&subject), vec![again], Rules::default());
//! let first = run_blocking(&engine, request(), never_stop)?;
//! assert_eq!(first.summary.counts.ran, 2);
//! let second = run_blocking(&engine, request(), never_stop)?;
//! assert_eq!((second.summary.counts.ran, second.summary.counts.cached), (0, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attest;
pub mod base64;
pub mod canon;
pub mod clock;
pub mod dag_json;
pub mod deliver;
pub mod drive;
pub mod event_log;
pub mod exec;
pub mod explain;
pub mod fetch;
pub mod graph;
pub mod identity;
pub mod learn;
pub mod narrow;
pub mod observe;
pub mod order;
pub mod path;
pub mod plan;
pub mod process;
pub mod project;
pub mod run;
pub mod service;
pub mod task;
pub mod value;
pub mod wait;
pub mod worker;
pub mod workfile;
pub mod workflow;
pub mod workflow_block;
