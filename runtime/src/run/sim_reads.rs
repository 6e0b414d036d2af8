//! Tasks of the simulation that read some of their files and say which, or that are done elsewhere.
//!
//! The ids are those of the real thing; what is kept, and what is read, are values.

use std::collections::BTreeSet;

use quipu_store::cid::{InvocationId, ReceiptId, TaskId};
use quipu_store::receipt::{Output, Via};
use quipu_store::tree::Entry;

use super::sim::World;
use super::step::Candidate;
use crate::narrow::{self, Depfile, Files};
use crate::task::Invocation;
use crate::value::Text;

impl World {
    /// What somebody delivers for work that is done elsewhere: a file that depends on what it is asked to be.
    pub(super) fn delivered(&mut self, task: TaskId, id: InvocationId) -> Vec<Candidate> {
        let mut output = Output::default();
        output.artifacts.insert("o".into(), self.file(id.digest(), "o"));
        let receipt = self.record(task, id, Via::new(), Ok(output.into()));
        self.candidates(None, |r| r.id == receipt)
    }

    /// What a task that picks reads, and what comes of it.
    pub(super) fn picks(invocation: &Invocation) -> (Files, Vec<Text>, Vec<u8>) {
        let files = narrow::files(&invocation.args, []).expect("its inputs are files");
        let (mut read, mut content) = (vec![], format!("{:?}", invocation.args.get("source")).into_bytes());
        let (paths, mut at): (Vec<&Text>, usize) = (files.keys().collect(), 0);
        while let Some(path) = paths.get(at) {
            let Entry::File { blob, .. } = &files[*path] else { unreachable!("it reads files alone") };
            content.extend(blob.digest());
            read.push(Text::clone(path));
            at += 1 + usize::from(blob.digest()[0] % 2);
        }
        (files, read, content)
    }

    pub(super) fn keep_reads(&mut self, invocation: &Invocation, receipt: ReceiptId) {
        let Some(depfile) = Depfile::of(&invocation.args) else { return };
        let (files, read, _) = Self::picks(invocation);
        let weak = narrow::weak(invocation, &depfile, &files);
        let strong = narrow::strong(weak, &files, &read).expect("all are there");
        self.reads.entry(weak).or_default().push((strong, receipt, read));
    }

    pub(super) fn by_reads(&self, invocation: &Invocation) -> Vec<Candidate> {
        let Some(depfile) = Depfile::of(&invocation.args) else { return vec![] };
        let files = narrow::files(&invocation.args, []).expect("its inputs are files");
        let weak = narrow::weak(invocation, &depfile, &files);
        let kept = self.reads.get(&weak).into_iter().flatten();
        let fits =
            kept.filter(|(strong, _, read)| self.any_reads || narrow::strong(weak, &files, read) == Some(*strong));
        let receipts: BTreeSet<ReceiptId> = fits.map(|(_, receipt, _)| *receipt).collect();
        self.candidates(None, |r| receipts.contains(&r.id))
    }
}
