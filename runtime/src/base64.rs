//! Base64, as others write signatures, statements, keys and bytes in JSON. Unaware of what the bytes are.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of these bytes, padded.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0_u32, |n, byte| n << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = DIGITS[(n >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The bytes of a text, padded or not; nothing where it is not the one text of its bytes.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for four in digits.as_bytes().chunks(4) {
        let mut n = 0_u32;
        for digit in four {
            n = n << 6 | DIGITS.iter().position(|d| d == digit)? as u32;
        }
        n <<= 6 * (4 - four.len());
        bytes.extend_from_slice(&n.to_be_bytes()[1..four.len().max(1)]);
    }
    let padded = encode(&bytes);
    (padded == text || padded.trim_end_matches('=') == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_text() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).as_deref(), Some(bytes), "{text}");
            assert_eq!(decode(text.trim_end_matches('=')).as_deref(), Some(bytes));
        }
        for bad in ["Z", "Zh==", "Zm9=", "Zg=", "Zg===", "Z g=", "Zm9v=", "_-__"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
