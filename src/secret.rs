//! A secret key as text: 32 bytes in hexadecimal or base64. Unaware of where the text is from.

use quipu_runtime::base64;
use quipu_runtime::fetch::hexadecimal;

/// 32 secret bytes, in hexadecimal or base64.
pub(crate) fn read(text: &str) -> Option<[u8; 32]> {
    hexadecimal(text).or_else(|| base64::decode(text)?.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_32_bytes_in_either_form() {
        let secret_bytes: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
        let hex: String = secret_bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(read(&hex), Some(secret_bytes));
        assert_eq!(read(&hex.to_uppercase()), Some(secret_bytes));
        assert_eq!(read(&base64::encode(&secret_bytes)), Some(secret_bytes));
        for bad in [&hex[1..], "", "key", &base64::encode(&secret_bytes[1..])] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
