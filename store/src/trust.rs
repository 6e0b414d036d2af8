//! Whose receipts count: keys, best first, and how much is asked of each source.
//!
//! Takes what a person has decided and judges receipts by it; unaware of files, of stores and of what is shown.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::cid::ReceiptId;
use crate::sign::{PublicKey, SignedReceipt};

/// What is asked of receipts of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// A trusted key has issued it.
    #[default]
    Signed,
    /// So many trusted keys have issued receipts that claim the same.
    Agreed(u32),
    /// Nothing: whoever issued it, it counts.
    Any,
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of `signed`, `any` and `2-of-n` (or another number from 2 to 64)")]
pub struct PolicyError(String);

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "signed" => Ok(Self::Signed),
            "any" => Ok(Self::Any),
            _ => {
                let k = text.strip_suffix("-of-n").filter(|k| !k.starts_with(['0', '+'])).and_then(|k| k.parse().ok());
                let k = k.filter(|k| (2..=64).contains(k));
                k.map(Self::Agreed).ok_or_else(|| PolicyError(text.chars().take(40).collect()))
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed => f.write_str("signed"),
            Self::Agreed(k) => write!(f, "{k}-of-n"),
            Self::Any => f.write_str("any"),
        }
    }
}

/// Policies by the name of the source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    /// For sources that are not named.
    pub default: Policy,
    /// For those that are: `files`, or a remote's name.
    pub by_source: BTreeMap<String, Policy>,
}

impl Policies {
    /// What is asked of a source.
    pub fn of(&self, source: &str) -> Policy {
        self.by_source.get(source).copied().unwrap_or(self.default)
    }

    /// What is asked of all sources alike, when that is so.
    pub fn uniform(&self) -> Option<Policy> {
        self.by_source.values().all(|p| *p == self.default).then_some(self.default)
    }
}

/// Why a receipt is as if it were not there. One kind, one warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    /// Nobody trusts its issuer.
    Untrusted,
    /// Its time is over.
    Expired,
    /// Too few trusted issuers claim the same.
    TooFew,
}

/// What becomes of a receipt that was made elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts. With the issuer's place among the trusted keys, if it has one.
    Counts(Option<u32>),
    /// It does not.
    Not(Doubt),
}

/// Judges one of several receipts that were found together. `source` is asked only where that makes a difference.
pub fn judge<E>(
    keys: &[PublicKey],
    policies: &Policies,
    now: u64,
    one: &SignedReceipt,
    together: &[&SignedReceipt],
    source: impl FnOnce(ReceiptId) -> Result<String, E>,
) -> Result<Verdict, E> {
    let current = |r: &SignedReceipt| r.receipt.expires_at.is_none_or(|at| at > now);
    let rank = keys.iter().position(|k| *k == one.issuer).map(|rank| rank as u32);
    let policy = match policies.uniform() {
        Some(policy) => policy,
        None => policies.of(&source(one.id)?),
    };
    if rank.is_none() && policy != Policy::Any {
        return Ok(Verdict::Not(Doubt::Untrusted));
    }
    if !current(one) {
        return Ok(Verdict::Not(Doubt::Expired));
    }
    if let Policy::Agreed(k) = policy {
        let same = |r: &SignedReceipt| r.receipt.ran == one.receipt.ran && r.receipt.out == one.receipt.out;
        let agreeing = together.iter().filter(|r| same(r) && current(r));
        let mut issuers: Vec<PublicKey> = agreeing.map(|r| r.issuer).filter(|k| keys.contains(k)).collect();
        issuers.sort_unstable();
        issuers.dedup();
        if (issuers.len() as u64) < u64::from(k) {
            return Ok(Verdict::Not(Doubt::TooFew));
        }
    }
    Ok(Verdict::Counts(rank))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::InvocationId;
    use crate::receipt::{Meta, Output, Receipt};
    use crate::sign::Signer;

    fn signed(key: u8, ran: u8, expires_at: Option<u64>) -> SignedReceipt {
        let (ran, out, issued_at) = (InvocationId::of(&[ran]), Ok(Output::default()), u64::from(key));
        let receipt = Receipt { ran, out, issued_at, expires_at, meta: Meta::default() };
        Signer::from_secret(&[key; 32]).sign(&receipt).expect("fits")
    }

    fn verdict(policies: &Policies, keys: &[u8], all: &[&SignedReceipt]) -> Verdict {
        let keys: Vec<PublicKey> = keys.iter().map(|k| Signer::from_secret(&[*k; 32]).public()).collect();
        let source = |_| Ok::<_, std::convert::Infallible>("files".to_owned());
        judge(&keys, policies, 100, all[0], all, source).expect("cannot fail")
    }

    fn policies(files: &str) -> Policies {
        Policies { by_source: [("files".to_owned(), files.parse().expect("valid"))].into(), ..Policies::default() }
    }

    #[test]
    fn a_trusted_key_counts_with_its_rank_and_no_other_does() {
        let one = signed(1, 1, None);
        assert_eq!(verdict(&Policies::default(), &[2, 1], &[&one]), Verdict::Counts(Some(1)));
        assert_eq!(verdict(&Policies::default(), &[2], &[&one]), Verdict::Not(Doubt::Untrusted));
        assert_eq!(verdict(&policies("any"), &[2], &[&one]), Verdict::Counts(None));
        let late = signed(1, 1, Some(100));
        assert_eq!(verdict(&Policies::default(), &[1], &[&late]), Verdict::Not(Doubt::Expired));
        assert_eq!(verdict(&policies("any"), &[], &[&late]), Verdict::Not(Doubt::Expired));
        assert_eq!(verdict(&Policies::default(), &[1], &[&signed(1, 1, Some(101))]), Verdict::Counts(Some(0)));
    }

    #[test]
    fn agreement_counts_trusted_current_issuers_of_the_same_claim_once_each() {
        let (a, again, b) = (signed(1, 1, None), signed(1, 1, Some(500)), signed(2, 1, None));
        let (other, stale) = (signed(2, 9, None), signed(2, 1, Some(1)));
        let two = policies("2-of-n");
        assert_eq!(verdict(&two, &[1, 2], &[&a, &b]), Verdict::Counts(Some(0)));
        for (why, keys, all) in [
            ("alone", &[1, 2][..], vec![&a]),
            ("the same key twice", &[1, 2], vec![&a, &again]),
            ("another claim", &[1, 2], vec![&a, &other]),
            ("expired", &[1, 2], vec![&a, &stale]),
            ("not trusted", &[1], vec![&a, &b]),
        ] {
            assert_eq!(verdict(&two, keys, &all), Verdict::Not(Doubt::TooFew), "{why}");
        }
    }

    #[test]
    fn policies_have_one_text_each() {
        for text in ["signed", "any", "2-of-n", "64-of-n"] {
            assert_eq!(text.parse::<Policy>().expect("valid").to_string(), text);
        }
        for bad in ["", "Signed", "1-of-n", "0-of-n", "02-of-n", "+2-of-n", "65-of-n", "-of-n", "2-of-3"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }
}
