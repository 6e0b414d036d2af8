//! What receipts are looked up by, and which receipts of others stay beside ours.
//!
//! Unaware of where and in which form they are kept.

use crate::cid::{InvocationId, Link, TaskId};
use crate::sign::SignedReceipt;

/// Receipts for one subject that are kept together: one for each of so many issuers.
pub const MAX_ISSUERS: usize = 4;

/// A task or an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A task, whose inputs are promises of other tasks.
    Task(TaskId),
    /// An invocation, whose inputs are content.
    Invocation(InvocationId),
}

impl Subject {
    /// Everything that a receipt is about.
    pub fn all_of(signed: &SignedReceipt) -> Vec<Self> {
        let tasks = signed.receipt.meta.settles.keys().map(|id| Self::Task(*id));
        tasks.chain([Self::Invocation(signed.receipt.ran)]).collect()
    }

    /// Its id.
    pub fn link(self) -> Link {
        match self {
            Self::Task(id) => id.link(),
            Self::Invocation(id) => id.link(),
        }
    }

    /// Whether a receipt is about it.
    pub fn is_of(self, signed: &SignedReceipt) -> bool {
        match self {
            Self::Task(id) => signed.receipt.meta.settles.contains_key(&id),
            Self::Invocation(id) => signed.receipt.ran == id,
        }
    }

    /// Keeps what other issuers say of it beside what we say; tells whether anything of theirs was kept.
    pub fn merge(self, ours: &mut Vec<Vec<u8>>, theirs: Vec<Vec<u8>>) -> bool {
        let issuers: Vec<_> =
            ours.iter().filter_map(|r| SignedReceipt::verify(r).ok()).map(|signed| signed.issuer).collect();
        let before = ours.len();
        for bytes in theirs {
            let Ok(signed) = SignedReceipt::verify(&bytes) else { continue };
            if self.is_of(&signed) && !issuers.contains(&signed.issuer) && ours.len() < MAX_ISSUERS {
                ours.push(bytes);
            }
        }
        ours.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{Meta, Output, Receipt};
    use crate::sign::Signer;

    fn receipt(key: u8, task: TaskId) -> Vec<u8> {
        let receipt = Receipt {
            ran: InvocationId::of(b"i"),
            out: Ok(Output::default()),
            issued_at: 1,
            expires_at: None,
            meta: Meta { settles: [(task, Default::default())].into(), tier: "ns".into(), ..Meta::default() },
        };
        Signer::from_secret(&[key; 32]).sign(&receipt).expect("fits").bytes
    }

    #[test]
    fn others_receipts_stay_and_ours_is_replaced() {
        let (task, other) = (TaskId::of(b"t"), TaskId::of(b"other"));
        let mut ours = vec![receipt(1, task)];
        let theirs = vec![receipt(1, task), receipt(2, other), b"no receipt".to_vec(), receipt(3, task)];
        assert!(Subject::Task(task).merge(&mut ours, theirs));
        assert_eq!(ours, [receipt(1, task), receipt(3, task)]);
        let many = (4..40).map(|key| receipt(key, task)).collect();
        assert!(Subject::Task(task).merge(&mut ours, many));
        assert_eq!((ours.len(), &ours[0]), (MAX_ISSUERS, &receipt(1, task)));
        assert!(!Subject::Task(other).merge(&mut ours, vec![receipt(9, task)]));
    }

    #[test]
    fn a_receipt_is_about_its_tasks_and_its_invocation() {
        let task = TaskId::of(b"t");
        let signed = SignedReceipt::verify(&receipt(1, task)).expect("signed");
        let all = Subject::all_of(&signed);
        assert_eq!(all, [Subject::Task(task), Subject::Invocation(InvocationId::of(b"i"))]);
        assert!(all.iter().all(|subject| subject.is_of(&signed)));
        assert_eq!(all[0].link(), task.link());
    }
}
