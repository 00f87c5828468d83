//! Keys in PEM files: the few forms that `openssl` writes.
//!
//! Sources: RFC 7468 (PEM), RFC 5280 (SubjectPublicKeyInfo, certificates), RFC 5915 (EC keys).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
/// `[0] EXPLICIT`, where RFC 5280 has the version of a certificate.
const VERSION: u8 = 0xA0;
/// `[1] EXPLICIT`, where RFC 5915 has the public half.
const PUBLIC_HALF: u8 = 0xA1;

/// A private key in the form that it was found in.
pub(super) enum PrivateKey {
    /// `PRIVATE KEY`, of any kind.
    Pkcs8(Vec<u8>),
    /// `RSA PRIVATE KEY`.
    Pkcs1(Vec<u8>),
    /// `EC PRIVATE KEY`: the number and the point.
    Sec1 { secret: Vec<u8>, public: Vec<u8> },
}

/// The first private key of a file.
pub(super) fn private_key(file: &[u8]) -> Result<PrivateKey, String> {
    let wrong = || "the key is damaged".to_owned();
    for (label, der) in blocks(file)? {
        match label.as_str() {
            "PRIVATE KEY" => return Ok(PrivateKey::Pkcs8(der)),
            "RSA PRIVATE KEY" => return Ok(PrivateKey::Pkcs1(der)),
            "EC PRIVATE KEY" => return sec1(&der).ok_or_else(wrong),
            "ENCRYPTED PRIVATE KEY" => {
                return Err("the key is encrypted: give it without a password".to_owned());
            }
            // `openssl ecparam` writes the curve before the key.
            _ => {}
        }
    }
    Err("there is no PRIVATE KEY in it".to_owned())
}

/// The first public key of a file, without what says which kind it is.
pub(super) fn public_key(file: &[u8]) -> Result<Vec<u8>, String> {
    let wrong = || "the key is damaged".to_owned();
    for (label, der) in blocks(file)? {
        match label.as_str() {
            "PUBLIC KEY" => return subject_public_key(&der).ok_or_else(wrong),
            "RSA PUBLIC KEY" => return Ok(der),
            // Its key alone: who signed it is not asked, nor how long it is good.
            "CERTIFICATE" => return certified_key(&der).ok_or("the certificate is damaged".to_owned()),
            _ => {}
        }
    }
    Err("there is no PUBLIC KEY in it".to_owned())
}

/// Every block of a PEM file: label and contents.
fn blocks(file: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let text = std::str::from_utf8(file).map_err(|_| "it is no PEM file".to_owned())?;
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(str::trim) {
        let marked = |with: &str| line.strip_prefix(with)?.strip_suffix("-----").map(str::to_owned);
        if let Some(label) = marked("-----BEGIN ") {
            open = Some((label, String::new()));
        } else if marked("-----END ").is_some() {
            if let Some((label, body)) = open.take() {
                let der = STANDARD.decode(body).map_err(|error| format!("{label}: {error}"))?;
                blocks.push((label, der));
            }
        } else if let Some((_, body)) = &mut open {
            body.push_str(line);
        }
    }
    Ok(blocks)
}

/// The value of one element with `tag`, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        // A key of 64 KiB is long enough for anybody.
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 3))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// A bit string of whole bytes.
fn bits(der: &[u8]) -> Option<&[u8]> {
    let (value, _) = element(der, BIT_STRING)?;
    value.strip_prefix(&[0])
}

fn subject_public_key(der: &[u8]) -> Option<Vec<u8>> {
    let (whole, _) = element(der, SEQUENCE)?;
    let (_, key) = element(whole, SEQUENCE)?;
    bits(key).map(<[u8]>::to_vec)
}

/// The key in a certificate.
fn certified_key(der: &[u8]) -> Option<Vec<u8>> {
    let (whole, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(whole, SEQUENCE)?;
    if let Some((_, after)) = element(rest, VERSION) {
        rest = after;
    }
    (_, rest) = element(rest, INTEGER)?;
    // Algorithm, issuer, validity, subject.
    for _ in 0..4 {
        (_, rest) = element(rest, SEQUENCE)?;
    }
    subject_public_key(rest)
}

fn sec1(der: &[u8]) -> Option<PrivateKey> {
    let (whole, _) = element(der, SEQUENCE)?;
    let (_, rest) = element(whole, INTEGER)?;
    let (secret, mut rest) = element(rest, OCTET_STRING)?;
    while let Some(&tag) = rest.first() {
        let (value, after) = element(rest, tag)?;
        if tag == PUBLIC_HALF {
            return Some(PrivateKey::Sec1 { secret: secret.to_vec(), public: bits(value)?.to_vec() });
        }
        rest = after;
    }
    None
}
