//! Whom to trust: CAs, and certificates that are trusted as they are.
//!
//! What `openssl req -x509` makes is in one a CA's certificate and its server's,
//! and Go, so etcd, takes it when it is itself among the trusted ones. The
//! library refuses a CA's certificate that somebody shows as his own, whatever is
//! trusted. Where it does for that reason and no other, what is shown is accepted
//! if a trusted file has it byte for byte; who shows it proves in the handshake
//! that he has its key, as ever. Nobody else gets in by it: that a CA has signed
//! another CA's certificate is not looked at here.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error, OtherError, RootCertStore};

use super::der::{OBJECT_IDENTIFIER, SEQUENCE, take, take_tagged};
use super::{TlsError, certificates};

/// Tags. Source: RFC 5280, section 4.1, and X.690.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// 2.5.29.37. Source: RFC 5280, section 4.2.1.12, as the next three.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// 2.5.29.37.0.
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
/// 1.3.6.1.5.5.7.3.1.
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
/// 1.3.6.1.5.5.7.3.2.
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// By who is dialed.
    Server,
    /// By who dials.
    Client,
}

/// The trusted certificates of a file.
#[derive(Clone, Debug)]
pub struct Roots {
    anchors: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// The CAs of a PEM file.
    ///
    /// # Errors
    /// A file that cannot be read, holds none, or holds one that is no CA's.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let certificates = certificates(path)?;
        let mut anchors = RootCertStore::empty();
        for certificate in &certificates {
            let bad = |_| TlsError::Content { path: path.to_owned(), want: "the X.509 certificates of CAs" };
            anchors.add(certificate.clone()).map_err(bad)?;
        }
        Ok(Self { anchors: Arc::new(anchors), certificates })
    }

    /// The CAs of a file without those that this library cannot use: a bundle
    /// of hundreds always has some.
    pub(super) fn read_usable(path: &Path) -> Result<Self, TlsError> {
        let certificates = certificates(path)?;
        let mut anchors = RootCertStore::empty();
        anchors.add_parsable_certificates(certificates.iter().cloned());
        Ok(Self { anchors: Arc::new(anchors), certificates })
    }

    /// The CAs as the library takes them.
    pub fn anchors(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.anchors)
    }

    /// Takes back the library's `refusal` of `shown` if it is only that a CA's
    /// certificate was shown, and it is a trusted one. Whether it is for the
    /// right host, or revoked, is left to the caller.
    ///
    /// # Errors
    /// The refusal; or that the certificate is not good now, or for this purpose.
    /// Source: Go's `x509.Certificate.Verify`, which looks at these two.
    pub fn reconsider(
        &self,
        refusal: Error,
        shown: &CertificateDer<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), Error> {
        if !is_of_a_ca(&refusal) || !self.certificates.contains(shown) {
            return Err(refusal);
        }
        let facts = Facts::of(shown).ok_or(CertificateError::BadEncoding)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < facts.not_before_s {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > facts.not_after_s {
            return Err(CertificateError::Expired.into());
        }
        if !facts.serves(purpose) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        Ok(())
    }
}

fn is_of_a_ca(refusal: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = refusal else { return false };
    matches!(inner.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// What a certificate says about itself.
#[derive(Debug, PartialEq, Eq)]
struct Facts<'a> {
    not_before_s: i64,
    not_after_s: i64,
    /// Object identifiers one after the other; none when it is for everything.
    purposes: Option<&'a [u8]>,
}

impl<'a> Facts<'a> {
    /// Source: RFC 5280, section 4.1.
    fn of(mut certificate: &'a [u8]) -> Option<Self> {
        let mut certificate = take_tagged(&mut certificate, SEQUENCE)?;
        let mut rest = take_tagged(&mut certificate, SEQUENCE)?;
        take_tagged(&mut rest, VERSION)?;
        take_tagged(&mut rest, INTEGER)?;
        let _algorithm = take_tagged(&mut rest, SEQUENCE)?;
        let _issuer = take_tagged(&mut rest, SEQUENCE)?;
        let mut validity = take_tagged(&mut rest, SEQUENCE)?;
        let not_before_s = take_time(&mut validity)?;
        let not_after_s = take_time(&mut validity)?;
        let _subject = take_tagged(&mut rest, SEQUENCE)?;
        let _key = take_tagged(&mut rest, SEQUENCE)?;
        let mut purposes = None;
        // Two unique identifiers may stand before the extensions.
        while !rest.is_empty() {
            let (tag, mut value) = take(&mut rest)?;
            if tag == EXTENSIONS {
                purposes = purposes_in(take_tagged(&mut value, SEQUENCE)?)?;
            }
        }
        Some(Self { not_before_s, not_after_s, purposes })
    }

    fn serves(&self, purpose: Purpose) -> bool {
        let wanted = match purpose {
            Purpose::Server => SERVER_AUTH,
            Purpose::Client => CLIENT_AUTH,
        };
        let Some(mut purposes) = self.purposes else { return true };
        while let Some(one) = take_tagged(&mut purposes, OBJECT_IDENTIFIER) {
            if one == wanted || one == ANY_PURPOSE {
                return true;
            }
        }
        false
    }
}

/// The extended key usage among extensions; nothing at all when they cannot be read.
fn purposes_in(mut extensions: &[u8]) -> Option<Option<&[u8]>> {
    while !extensions.is_empty() {
        let mut extension = take_tagged(&mut extensions, SEQUENCE)?;
        let kind = take_tagged(&mut extension, OBJECT_IDENTIFIER)?;
        let _is_critical = take_tagged(&mut extension, BOOLEAN);
        let mut value = take_tagged(&mut extension, OCTET_STRING)?;
        if kind == EXTENDED_KEY_USAGE {
            return take_tagged(&mut value, SEQUENCE).map(Some);
        }
    }
    Some(None)
}

/// Seconds since 1970, which may be before. Source: RFC 5280, section 4.1.2.5:
/// years have two digits from 1950 to 2049, and four in the other form.
fn take_time(input: &mut &[u8]) -> Option<i64> {
    let (tag, text) = take(input)?;
    let text = text.strip_suffix(b"Z").filter(|text| text.iter().all(u8::is_ascii_digit))?;
    let number = |digits: &[u8]| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year = number(&text[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&text[..4]), &text[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    let is_one =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    is_one.then(|| days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days since 1970. Source: Howard Hinnant's `days_from_civil`, which counts in
/// eras of 400 years from March on.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// A certificate as far as it is looked at.
    fn certificate(from: &[u8], until: &[u8], extensions: &[u8]) -> Vec<u8> {
        let validity = [value(UTC_TIME, from), value(GENERALIZED_TIME, until)].concat();
        let nothing = value(SEQUENCE, &[]);
        let body = [
            value(VERSION, &value(INTEGER, &[2])),
            value(INTEGER, &[7]),
            nothing.clone(),
            nothing.clone(),
            value(SEQUENCE, &validity),
            nothing.clone(),
            nothing,
            value(EXTENSIONS, &value(SEQUENCE, extensions)),
        ];
        value(SEQUENCE, &value(SEQUENCE, &body.concat()))
    }

    fn usage(purposes: &[&[u8]], is_critical: bool) -> Vec<u8> {
        let purposes: Vec<u8> =
            purposes.iter().flat_map(|purpose| value(OBJECT_IDENTIFIER, purpose)).collect();
        let critical = if is_critical { value(BOOLEAN, &[0xff]) } else { Vec::new() };
        let content = value(OCTET_STRING, &value(SEQUENCE, &purposes));
        value(SEQUENCE, &[value(OBJECT_IDENTIFIER, EXTENDED_KEY_USAGE), critical, content].concat())
    }

    #[test]
    fn times_are_read_in_both_forms() {
        #[rustfmt::skip]
        let rows: [(u8, &[u8], Option<i64>); 9] = [
            (UTC_TIME,         b"700101000000Z",     Some(0)),
            (UTC_TIME,         b"000229123456Z",     Some(951_827_696)),
            (UTC_TIME,         b"491231235959Z",     Some(2_524_607_999)),
            (UTC_TIME,         b"500101000000Z",     Some(-631_152_000)),
            (GENERALIZED_TIME, b"20500101000000Z",   Some(2_524_608_000)),
            (GENERALIZED_TIME, b"99991231235959Z",   Some(253_402_300_799)),
            (GENERALIZED_TIME, b"500101000000Z",     None),
            (UTC_TIME,         b"001301000000Z",     None),
            (UTC_TIME,         b"0001010000+00Z",    None),
        ];
        for (tag, text, want) in rows {
            let bytes = value(tag, text);
            assert_eq!(take_time(&mut &bytes[..]), want, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_a_certificate_is_for_is_read() {
        let other = value(
            SEQUENCE,
            &[value(OBJECT_IDENTIFIER, &[0x55, 0x1d, 0x11]), value(OCTET_STRING, b"")].concat(),
        );
        let both = [other.clone(), usage(&[SERVER_AUTH, CLIENT_AUTH], true)].concat();
        let none: &[&[u8]] = &[];
        // Extensions; whether it serves a server, a client.
        #[rustfmt::skip]
        let rows = [
            ("says nothing",  other,                          true,  true),
            ("server",        usage(&[SERVER_AUTH], false),   true,  false),
            ("client",        usage(&[CLIENT_AUTH], true),    false, true),
            ("both",          both,                           true,  true),
            ("any",           usage(&[ANY_PURPOSE], false),   true,  true),
            ("nothing",       usage(none, false),             false, false),
        ];
        for (name, extensions, server, client) in rows {
            let bytes = certificate(b"700101000000Z", b"20500101000000Z", &extensions);
            let facts = Facts::of(&bytes).unwrap();
            assert_eq!((facts.not_before_s, facts.not_after_s), (0, 2_524_608_000), "{name}");
            assert_eq!(
                (facts.serves(Purpose::Server), facts.serves(Purpose::Client)),
                (server, client),
                "{name}"
            );
            for end in 0..bytes.len() {
                assert_eq!(Facts::of(&bytes[..end]), None, "{name}, cut at {end}");
            }
        }
    }
}
