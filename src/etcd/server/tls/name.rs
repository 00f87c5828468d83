//! The common name of a certificate's subject.

use proa_etcd_client::tls::der::{OBJECT_IDENTIFIER, SEQUENCE, take};
use rustls::pki_types::CertificateDer;

/// Tags of ASN.1. Source: X.690, section 8.
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1e;
const SET: u8 = 0x31;
/// 2.5.4.3. Source: X.520, `id-at-commonName`.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The common name in a certificate that was verified; `None` when there is
/// none or it is empty. Of several the last counts, as in Go.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    find(certificate.subject()).filter(|name| !name.is_empty())
}

/// Looks through `Name ::= SEQUENCE OF SET OF SEQUENCE { type, value }`, given
/// without the header of its outermost sequence.
fn find(mut names: &[u8]) -> Option<String> {
    let mut found = None;
    while !names.is_empty() {
        let (tag, mut set) = take(&mut names)?;
        if tag != SET {
            return None;
        }
        while !set.is_empty() {
            let (SEQUENCE, mut attribute) = take(&mut set)? else { return None };
            let (OBJECT_IDENTIFIER, kind) = take(&mut attribute)? else { return None };
            let (tag, value) = take(&mut attribute)?;
            if kind == COMMON_NAME {
                found = Some(text(tag, value)?);
            }
        }
    }
    found
}

fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | TELETEX_STRING | IA5_STRING => {
            String::from_utf8(value.to_vec()).ok()
        }
        BMP_STRING if value.len().is_multiple_of(2) => {
            let units: Vec<u16> =
                value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, content.len() as u8], content].concat()
    }

    fn name(kind: &[u8], tag: u8, content: &[u8]) -> Vec<u8> {
        let attribute = [value(OBJECT_IDENTIFIER, kind), value(tag, content)].concat();
        value(SET, &value(SEQUENCE, &attribute))
    }

    #[test]
    fn the_last_common_name_counts() {
        let organisation = name(&[0x55, 0x04, 0x0a], UTF8_STRING, b"etcd");
        let alice = name(COMMON_NAME, UTF8_STRING, b"alice");
        let bob = name(COMMON_NAME, PRINTABLE_STRING, b"bob");
        let wide = name(COMMON_NAME, BMP_STRING, &[0, b'c', 0, b'd']);
        let long = name(COMMON_NAME, UTF8_STRING, &[b'x'; 100]);
        #[rustfmt::skip]
        let rows = [
            ("nothing",     vec![],                                   None),
            ("no name",     organisation.clone(),                     None),
            ("one",         [organisation, alice.clone()].concat(),   Some("alice".to_owned())),
            ("two",         [alice.clone(), bob].concat(),            Some("bob".to_owned())),
            ("16 bits",     wide,                                     Some("cd".to_owned())),
            ("long",        long,                                     Some("x".repeat(100))),
            ("cut",         alice[..alice.len() - 1].to_vec(),        None),
            ("no string",   name(COMMON_NAME, SEQUENCE, b"x"),        None),
            ("bad UTF-8",   name(COMMON_NAME, UTF8_STRING, &[0xff]),  None),
        ];
        for (case, bytes, want) in rows {
            assert_eq!(find(&bytes), want, "{case}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = find(&bytes);
        }
    }
}
