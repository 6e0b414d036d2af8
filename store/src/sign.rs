//! Signed envelopes: ed25519 keys as `did:key`, and receipts in the UCAN 1.0 shape.
//!
//! Knows keys and bytes; unaware of whom a person trusts and of where keys are kept.
//! Sources: UCAN invocation 1.0.0-rc.1, varsig v1, did:key.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::cid::ReceiptId;
use crate::dag;
use crate::receipt::{MAX_RECEIPT_BYTES, Receipt, ReceiptError, WirePayload};

/// Varsig v1 header: prefix 0x34, version 1, EdDSA (0xed) on edwards25519 (0xed) over SHA2-512 (0x13), DAG-CBOR (0x71).
pub const VARSIG: [u8; 8] = [0x34, 0x01, 0xed, 0x01, 0xed, 0x01, 0x13, 0x71];

/// Multicodec prefix of an ed25519 public key.
const ED25519_PUB: [u8; 2] = [0xed, 0x01];

/// A text that is no ed25519 `did:key`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an ed25519 key in the form `did:key:z6Mk...`")]
pub struct KeyError(String);

/// A public key: who issued a receipt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The 32 bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 34];
        bytes[..2].copy_from_slice(&ED25519_PUB);
        bytes[2..].copy_from_slice(&self.0);
        write!(f, "did:key:{}", cid::multibase::encode(cid::multibase::Base::Base58Btc, bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = || KeyError(text.chars().take(80).collect());
        if text.len() > 80 {
            return Err(bad());
        }
        let (_, bytes) = cid::multibase::decode(text.strip_prefix("did:key:").ok_or_else(bad)?).map_err(|_| bad())?;
        let key: [u8; 32] = bytes.strip_prefix(&ED25519_PUB).and_then(|k| k.try_into().ok()).ok_or_else(bad)?;
        let key = Self(key);
        // Bases other than base58btc spell the same key: one key has one name.
        if key.to_string() == text && VerifyingKey::from_bytes(&key.0).is_ok() { Ok(key) } else { Err(bad()) }
    }
}

/// A signing key. `Debug` shows the public half only.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    issuer: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.issuer)
    }
}

impl Signer {
    /// A signer from its 32 secret bytes.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(secret);
        let issuer = PublicKey(key.verifying_key().to_bytes()).to_string();
        Self { key, issuer }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key().to_bytes())
    }

    /// Signs bytes of another format. That must begin with a text of its own: what begins like a receipt could
    /// be taken for one.
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        self.key.sign(bytes).to_bytes()
    }

    /// Signs what a receipt says.
    pub fn sign(&self, receipt: &Receipt) -> Result<SignedReceipt, ReceiptError> {
        let signed = WireSigned { h: ByteBuf::from(VARSIG), payload: WirePayload::new(receipt, &self.issuer) };
        let signature = self.key.sign(&dag::encode(&signed)?);
        let bytes = dag::encode(&WireEnvelope(ByteBuf::from(signature.to_bytes()), signed))?;
        if bytes.len() > MAX_RECEIPT_BYTES {
            let (found_bytes, limit_bytes) = (bytes.len() as u64, MAX_RECEIPT_BYTES as u64);
            return Err(dag::DagError::TooLarge { found_bytes, limit_bytes }.into());
        }
        Ok(SignedReceipt { id: ReceiptId::of(&bytes), issuer: self.public(), receipt: receipt.clone(), bytes })
    }
}

/// A receipt with its issuer and the very bytes its id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    /// Id of the envelope.
    pub id: ReceiptId,
    /// Who says so.
    pub issuer: PublicKey,
    /// What is said.
    pub receipt: Receipt,
    /// The envelope, encoded.
    pub bytes: Vec<u8>,
}

/// Who an envelope says it is from. Most of a store's receipts are by one key, and reading its name takes longer than
/// all the rest of a receipt.
fn issuer_of(text: &str) -> Result<PublicKey, ReceiptError> {
    thread_local! {
        static LAST: RefCell<Option<(String, PublicKey)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((known, key)) if known == text => Ok(*key),
        _ => {
            let key = text.parse().map_err(|e: KeyError| ReceiptError::Unexpected(e.to_string()))?;
            *last = Some((text.to_owned(), key));
            Ok(key)
        }
    })
}

#[derive(Serialize, Deserialize)]
struct WireEnvelope(ByteBuf, WireSigned);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSigned {
    h: ByteBuf,
    #[serde(rename = "ucan/inv@1.0.0-rc.1")]
    payload: WirePayload,
}

impl SignedReceipt {
    /// Decodes an envelope from anywhere and checks form and signature. Says nothing of trust or expiry.
    pub fn verify(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let envelope: WireEnvelope = dag::decode(bytes, MAX_RECEIPT_BYTES)?;
        let WireEnvelope(signature, signed) = &envelope;
        let issuer = issuer_of(&signed.payload.iss)?;
        let key = VerifyingKey::from_bytes(&issuer.0).map_err(|_| ReceiptError::Signature)?;
        let signature = Signature::from_slice(signature).map_err(|_| ReceiptError::Signature)?;
        key.verify_strict(&dag::encode(signed)?, &signature).map_err(|_| ReceiptError::Signature)?;
        Self::open(envelope, issuer, bytes)
    }

    /// Decodes an envelope of our own store, whose bytes were checked against its id: the signature was
    /// made or verified when it came in.
    pub fn read_own(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let envelope: WireEnvelope = dag::decode_own(bytes, MAX_RECEIPT_BYTES)?;
        let issuer = issuer_of(&envelope.1.payload.iss)?;
        Self::open(envelope, issuer, bytes)
    }

    fn open(envelope: WireEnvelope, issuer: PublicKey, bytes: &[u8]) -> Result<Self, ReceiptError> {
        if envelope.1.h.as_ref() != VARSIG {
            return Err(ReceiptError::Unexpected("signature header is not ed25519 over DAG-CBOR".to_owned()));
        }
        let receipt = envelope.1.payload.into_receipt()?;
        Ok(Self { id: ReceiptId::of(bytes), issuer, receipt, bytes: bytes.to_vec() })
    }
}
