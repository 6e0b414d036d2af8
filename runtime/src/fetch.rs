//! Tasks that fetch: the typed form of the arguments of `/quipu/fetch`, both ways.
//!
//! What is fetched is said by its content alone; unaware of where it is to be had and of how it gets here.
//! Normative text: `docs/formats/task.md`.

use std::fmt;
use std::str::FromStr;

use crate::process::OutputKind;
use crate::value::{Text, Value};

/// The slots that tasks take which fetch, in place of one of those that `-j` counts.
pub const SLOT: &str = "network";
/// How many of these there are.
pub const SLOTS: u32 = 16;
/// Most folders that are stripped of what is unpacked.
pub const MAX_STRIP: u32 = 32;

/// What content is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sum {
    /// Its BLAKE3-256.
    Blake3([u8; 32]),
    /// Its SHA-256.
    Sha256([u8; 32]),
}

impl Sum {
    /// The digest.
    pub const fn digest(&self) -> &[u8; 32] {
        match self {
            Self::Blake3(digest) | Self::Sha256(digest) => digest,
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Blake3(_)) { "blake3:" } else { "sha256:" })?;
        self.digest().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// It is no hash with its name before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no `blake3:` or `sha256:` with 64 hexadecimal digits")]
pub struct NoSum;

impl FromStr for Sum {
    type Err = NoSum;

    fn from_str(text: &str) -> Result<Self, NoSum> {
        let (name, digits) = text.split_once(':').ok_or(NoSum)?;
        let digest = hexadecimal(digits).ok_or(NoSum)?;
        match name {
            "blake3" => Ok(Self::Blake3(digest)),
            "sha256" => Ok(Self::Sha256(digest)),
            _ => Err(NoSum),
        }
    }
}

/// The 32 bytes that 64 hexadecimal digits mean.
pub fn hexadecimal(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(digest)
}

/// How what is fetched is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unpack {
    /// A tar archive.
    Tar,
    /// A tar archive, compressed by gzip.
    TarGz,
    /// A tar archive, compressed by bzip2.
    TarBz2,
    /// A tar archive, compressed by xz.
    TarXz,
    /// A tar archive, compressed by zstd.
    TarZst,
    /// A zip archive.
    Zip,
}

impl Unpack {
    /// All there are.
    pub const ALL: [Self; 6] = [Self::Tar, Self::TarGz, Self::TarBz2, Self::TarXz, Self::TarZst, Self::Zip];

    /// The name in ids and workfiles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarGz => "tar.gz",
            Self::TarBz2 => "tar.bz2",
            Self::TarXz => "tar.xz",
            Self::TarZst => "tar.zst",
            Self::Zip => "zip",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// The arguments of a task that fetches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSpec {
    /// What is fetched.
    pub sum: Sum,
    /// How it is unpacked, when it is.
    pub unpack: Option<Unpack>,
    /// How many folders are taken off the paths of what is unpacked.
    pub strip: u32,
    /// Whether the file may be executed.
    pub executable: bool,
    /// Where it is put: a directory when it is unpacked, else a file.
    pub path: Text,
}

impl FetchSpec {
    /// What its output is.
    pub fn kind(&self) -> OutputKind {
        if self.unpack.is_some() { OutputKind::Dir } else { OutputKind::File }
    }

    /// The arguments as a value.
    pub fn to_args(&self) -> Value {
        let output = [("path", Value::Text(self.path.clone())), ("kind", self.kind().name().into())];
        let output = Value::map(output).expect("fixed keys are distinct");
        let mut pairs = vec![("content", Value::text(self.sum.to_string())), ("outputs", Value::list([output]))];
        pairs.extend(self.unpack.map(|unpack| ("unpack", unpack.name().into())));
        pairs.extend((self.strip > 0).then(|| ("strip", Value::Int(self.strip.into()))));
        pairs.extend(self.executable.then_some(("executable", Value::Bool(true))));
        Value::map(pairs).expect("fixed keys are distinct")
    }

    /// Reads arguments back; nothing when they are none of these.
    pub fn from_args(args: &Value) -> Option<Self> {
        let Value::List(outputs) = args.get("outputs")? else { return None };
        let [output] = &outputs[..] else { return None };
        let unpack = match args.get("unpack") {
            Some(name) => Some(Unpack::from_name(name.as_text()?)?),
            None => None,
        };
        let strip = match args.get("strip") {
            Some(Value::Int(n)) => u32::try_from(*n).ok().filter(|n| (1..=MAX_STRIP).contains(n))?,
            Some(_) => return None,
            None => 0,
        };
        let spec = Self {
            sum: args.get("content")?.as_text()?.parse().ok()?,
            unpack,
            strip,
            executable: args.get("executable") == Some(&Value::Bool(true)),
            path: output.get("path")?.as_text()?.into(),
        };
        // What is written otherwise would be another id for the same.
        (spec.to_args() == *args).then_some(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_read_back_and_have_one_form() {
        let plain =
            FetchSpec { sum: Sum::Sha256([0xab; 32]), unpack: None, strip: 0, executable: false, path: "a/b".into() };
        let all = [
            plain.clone(),
            FetchSpec { executable: true, ..plain.clone() },
            FetchSpec { sum: Sum::Blake3([1; 32]), unpack: Some(Unpack::TarGz), strip: 2, ..plain.clone() },
        ];
        let forms = Unpack::ALL.map(|how| FetchSpec { unpack: Some(how), ..plain.clone() });
        for spec in all.into_iter().chain(forms) {
            assert_eq!(FetchSpec::from_args(&spec.to_args()), Some(spec));
        }
        let Value::Map(pairs) = plain.to_args() else { panic!("a map") };
        let with = |key: &'static str, value| Value::map(pairs.iter().cloned().chain([(key.into(), value)]));
        for (key, value) in [("strip", Value::Int(0)), ("executable", Value::Bool(false)), ("url", "x".into())] {
            assert_eq!(FetchSpec::from_args(&with(key, value).expect("other keys")), None, "{key}");
        }
    }

    #[test]
    fn hashes_are_written_in_full() {
        let digits = "0123456789abcdef".repeat(4);
        let sum: Sum = format!("sha256:{digits}").parse().expect("is one");
        assert_eq!(sum.to_string(), format!("sha256:{digits}"));
        for bad in [digits.clone(), format!("md5:{digits}"), format!("blake3:{}", &digits[1..]), "blake3:".into()] {
            assert_eq!(bad.parse::<Sum>(), Err(NoSum), "{bad}");
        }
        assert_eq!(hexadecimal(&format!("+{}", &digits[1..])), None);
    }
}
