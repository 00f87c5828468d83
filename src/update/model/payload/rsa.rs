//! RSA signatures of payloads, checked against a hash that is known already.
//!
//! A payload is hashed as it arrives and never held, and `ring` checks only
//! signatures of messages that it is handed whole. What is missing is small and
//! handles nothing secret: raising the signature to the 65537th power and
//! comparing the result, byte by byte, with the only right one. No byte of it is
//! parsed, so there is nothing to forge by a lenient parser.
//!
//! Source: RFC 8017, sections 8.2.2 and 9.2; RFC 5280, section 4.1 for the key.

use crate::hash::Sha256;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::cmp::Ordering;

/// The shortest key that is taken, in bytes: RSA-2048.
const MODULUS_BYTES_MIN: usize = 256;
/// The longest: RSA-4096.
const MODULUS_BYTES_MAX: usize = 512;
/// Most bytes of a key's text: an RSA-4096 key has some 800.
const PEM_BYTES_MAX: usize = 4096;

/// The public exponent of every key in use.
const EXPONENT: &[u8] = &[1, 0, 1];

/// `AlgorithmIdentifier` of rsaEncryption, with its NULL.
const RSA_ENCRYPTION: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// What stands before a SHA-256 in a signature: `DigestInfo` up to the hash.
const DIGEST_INFO: &[u8] =
    &[0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20];

/// Why a text is no payload key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// It is not in PEM.
    #[error("no PEM between lines of BEGIN and END PUBLIC KEY")]
    Pem,
    /// It is not an RSA key in the usual form.
    #[error("no RSA key in the form of X.509 (SubjectPublicKeyInfo)")]
    Form,
    /// It is too short, too long, or even.
    #[error("an RSA key of {0} bits; odd moduli of 2048 to 4096 bits are taken")]
    Modulus(usize),
    /// Its exponent is another one.
    #[error("a public exponent other than 65537")]
    Exponent,
}

/// The key that payloads are signed with: its public half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    modulus: Number,
    /// Bytes of the modulus, and of a signature.
    bytes: usize,
}

impl PublicKey {
    /// Reads the key as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// [`BadKey`] when it is none, or one that is not taken.
    pub fn from_pem(text: &str) -> Result<Self, BadKey> {
        let body = || {
            let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
            let (body, _) = rest.split_once("-----END PUBLIC KEY-----")?;
            let body: String = body.split_ascii_whitespace().collect();
            (body.len() <= PEM_BYTES_MAX).then(|| STANDARD.decode(body).ok())?
        };
        Self::from_der(&body().ok_or(BadKey::Pem)?)
    }

    /// Reads the key as it is inside of the PEM.
    ///
    /// # Errors
    /// [`BadKey`] when it is none, or one that is not taken.
    pub fn from_der(der: &[u8]) -> Result<Self, BadKey> {
        let (modulus, exponent) = components(der).ok_or(BadKey::Form)?;
        let bits = modulus.len() * 8;
        let odd = modulus.last().is_some_and(|last| last % 2 == 1);
        if !(MODULUS_BYTES_MIN..=MODULUS_BYTES_MAX).contains(&modulus.len()) || modulus[0] < 0x80 || !odd {
            return Err(BadKey::Modulus(bits));
        }
        if exponent != EXPONENT {
            return Err(BadKey::Exponent);
        }
        Ok(Self { modulus: Number::from_bytes(modulus, modulus.len()), bytes: modulus.len() })
    }

    /// Whether `signature` was made with this key for what has the hash `digest`.
    pub fn verifies(&self, digest: &Sha256, signature: &[u8]) -> bool {
        if signature.len() != self.bytes {
            return false;
        }
        let number = Number::from_bytes(signature, self.bytes);
        number.compare(&self.modulus) == Ordering::Less
            && number.power_65537(&self.modulus).0 == self.encoded(digest).0
    }

    /// The number that a signature of `digest` hides.
    fn encoded(&self, digest: &Sha256) -> Number {
        let mut bytes = vec![0xff; self.bytes];
        let hash_at = self.bytes - digest.0.len();
        let info_at = hash_at - DIGEST_INFO.len();
        bytes[..2].copy_from_slice(&[0, 1]);
        bytes[info_at - 1] = 0;
        bytes[info_at..hash_at].copy_from_slice(DIGEST_INFO);
        bytes[hash_at..].copy_from_slice(&digest.0);
        Number::from_bytes(&bytes, self.bytes)
    }
}

/// Modulus and exponent of a `SubjectPublicKeyInfo`, without leading zeros.
fn components(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (info, rest) = element(der, 0x30)?;
    let (algorithm, info) = element(info, 0x30)?;
    let (key, after_key) = element(info, 0x03)?;
    let (key, after_sequence) = element(key.strip_prefix(&[0])?, 0x30)?;
    let (modulus, key) = element(key, 0x02)?;
    let (exponent, after_exponent) = element(key, 0x02)?;
    let ends = [rest, after_key, after_sequence, after_exponent];
    let good = algorithm == RSA_ENCRYPTION && ends.iter().all(|end| end.is_empty());
    good.then(|| (modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent))
}

/// The content of the DER element with `tag` that `der` starts with, and what
/// follows it. Lengths of up to 65535, in their shortest form.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, content) = match der.strip_prefix(&[tag])? {
        [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x81, length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
        [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    content.split_at_checked(length)
}

/// A number of as many words as the modulus has, lowest first.
///
/// Multiplication is by doubling and adding, which is slow (some 10 ms for a
/// signature) and short: one signature is checked per update.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Number(Vec<u64>);

impl Number {
    /// The number that big-endian `bytes` are, of `width` bytes.
    fn from_bytes(bytes: &[u8], width: usize) -> Self {
        let mut words = vec![0; width.div_ceil(8)];
        for (place, byte) in bytes.iter().rev().enumerate() {
            words[place / 8] |= u64::from(*byte) << (place % 8 * 8);
        }
        Self(words)
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }

    /// `self + other` modulo `modulus`; both are below it.
    fn add(&mut self, other: &[u64], modulus: &Self) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(other) {
            let (sum, over) = word.overflowing_add(*other);
            let (sum, over_again) = sum.overflowing_add(carry.into());
            (*word, carry) = (sum, over || over_again);
        }
        if carry || self.compare(modulus) != Ordering::Less {
            let mut borrow = false;
            for (word, other) in self.0.iter_mut().zip(&modulus.0) {
                let (rest, under) = word.overflowing_sub(*other);
                let (rest, under_again) = rest.overflowing_sub(borrow.into());
                (*word, borrow) = (rest, under || under_again);
            }
        }
    }

    /// `self * other` modulo `modulus`; both are below it.
    fn times(&self, other: &Self, modulus: &Self) -> Self {
        let mut product = Self(vec![0; self.0.len()]);
        let mut doubled = product.0.clone();
        for bit in (0..other.0.len() * 64).rev() {
            doubled.copy_from_slice(&product.0);
            product.add(&doubled, modulus);
            if other.0[bit / 64] >> (bit % 64) & 1 == 1 {
                product.add(&self.0, modulus);
            }
        }
        product
    }

    /// 65537 is 2^16 + 1: sixteen squarings and one more factor.
    fn power_65537(&self, modulus: &Self) -> Self {
        let power = (0..16).fold(self.clone(), |power, _| power.times(&power, modulus));
        power.times(self, modulus)
    }
}

#[cfg(test)]
#[path = "rsa_test.rs"]
mod tests;
