//! Tokens that carry their owner's name, signed: JSON Web Tokens.
//!
//! Every member that has the key knows every token, and none is remembered.
//! The signatures are ring's, which TLS uses too; what is here is the envelope.
//!
//! Sources: RFC 7519, RFC 7515, RFC 7518; the claims are etcd's: `username`,
//! `revision` (the auth revision at which it was given out), `exp`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proa_etcd_api::command::Requester;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use ring::{hmac, rsa};
use serde_json::{Value, json};

use super::pem;

/// Tokens longer than this are nobody's.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How tokens are signed. Names and meaning: RFC 7518, section 3.1, and RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A shared secret.
    Hs(Sha),
    /// RSA, PKCS #1 v1.5.
    Rs(Sha),
    /// RSA, PSS.
    Ps(Sha),
    /// ECDSA; the curve goes with the hash.
    Es(Sha),
    /// Ed25519.
    EdDsa,
}

/// A member of the SHA-2 family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "its size in bits")]
pub enum Sha {
    S256,
    S384,
    S512,
}

/// Every method that is known, by the name in a token's header.
const METHODS: [(&str, Method); 12] = [
    ("HS256", Method::Hs(Sha::S256)),
    ("HS384", Method::Hs(Sha::S384)),
    ("HS512", Method::Hs(Sha::S512)),
    ("RS256", Method::Rs(Sha::S256)),
    ("RS384", Method::Rs(Sha::S384)),
    ("RS512", Method::Rs(Sha::S512)),
    ("PS256", Method::Ps(Sha::S256)),
    ("PS384", Method::Ps(Sha::S384)),
    ("PS512", Method::Ps(Sha::S512)),
    ("ES256", Method::Es(Sha::S256)),
    ("ES384", Method::Es(Sha::S384)),
    ("EdDSA", Method::EdDsa),
];

/// What follows `jwt` in `--auth-token=jwt,...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// `sign-method`.
    pub method: Method,
    /// `pub-key`, a file.
    pub public_key: Option<String>,
    /// `priv-key`, a file. Without one tokens are only accepted, not given out.
    pub private_key: Option<String>,
    /// `ttl`.
    pub ttl: Duration,
}

impl JwtOptions {
    /// Reads `NAME=VALUE,NAME=VALUE`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut method, mut public_key, mut private_key) = (None, None, None);
        // Source: etcd's `DefaultTTL`.
        let mut ttl = Duration::from_secs(300);
        for option in text.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sign-method", name)) => method = Some(method_of(name)?),
                Some(("pub-key", path)) => public_key = Some(path.to_owned()),
                Some(("priv-key", path)) => private_key = Some(path.to_owned()),
                Some(("ttl", time)) => {
                    ttl = proa_base::duration::parse(time)
                        .ok()
                        .filter(|ttl| !ttl.is_zero())
                        .ok_or_else(|| format!("ttl={time}: give a duration such as 10m"))?;
                }
                Some(_) | None => {
                    return Err(format!("{option:?}: give sign-method=, pub-key=, priv-key= or ttl="));
                }
            }
        }
        let method = method.ok_or("jwt needs sign-method=, such as RS256")?;
        match (method, &public_key, &private_key) {
            (Method::Hs(_), _, None) => {
                Err("jwt with HS256 and its like needs priv-key=, the secret".to_owned())
            }
            (_, None, None) => Err("jwt needs pub-key= or priv-key=".to_owned()),
            _ => Ok(Self { method, public_key, private_key, ttl }),
        }
    }
}

fn method_of(name: &str) -> Result<Method, String> {
    let known = METHODS.iter().find(|(known, _)| *known == name);
    known.map(|(_, method)| *method).ok_or_else(|| {
        let names: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
        format!("sign-method={name}: give one of {}", names.join(" "))
    })
}

/// What signs.
enum Signer {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn signature::RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What checks a signature.
enum Verifier {
    Hmac(hmac::Key),
    Key(UnparsedPublicKey<Vec<u8>>),
}

/// Gives out tokens and knows them again.
pub struct Jwt {
    name: &'static str,
    ttl: Duration,
    signer: Option<Signer>,
    verifier: Verifier,
    random: SystemRandom,
}

impl Jwt {
    /// Reads keys that were read from files.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn new(
        method: Method,
        ttl: Duration,
        public_key: Option<&[u8]>,
        private_key: Option<&[u8]>,
    ) -> Result<Self, String> {
        let random = SystemRandom::new();
        let name = METHODS.iter().find(|(_, known)| *known == method).map_or("", |(name, _)| name);
        let signer = match private_key {
            Some(key) => Some(signer(method, key, &random).map_err(|why| format!("priv-key: {why}"))?),
            None => None,
        };
        let given = match (method, public_key) {
            (Method::Hs(_), _) | (_, None) => None,
            (_, Some(key)) => Some(pem::public_key(key).map_err(|why| format!("pub-key: {why}"))?),
        };
        let own = signer.as_ref().and_then(Signer::public_key);
        if let (Some(given), Some(own)) = (&given, &own)
            && given != own
        {
            return Err("pub-key and priv-key are not of one pair".to_owned());
        }
        let verifier = match (&signer, given.or(own)) {
            (Some(Signer::Hmac(key)), _) => Verifier::Hmac(key.clone()),
            (_, Some(key)) => Verifier::Key(UnparsedPublicKey::new(verification(method), key)),
            (_, None) => return Err("give pub-key= or priv-key=".to_owned()),
        };
        Ok(Self { name, ttl, signer, verifier, random })
    }

    /// A token for `owner`; `None` if this member can only check them.
    pub fn sign(&self, owner: &Requester, now_s: u64) -> Option<String> {
        let header = json!({"alg": self.name, "typ": "JWT"});
        let claims = json!({
            "username": owner.user,
            "revision": owner.auth_revision,
            "exp": now_s.saturating_add(self.ttl.as_secs()),
        });
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.signer.as_ref()?.sign(signed.as_bytes(), &self.random)?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whose token this is; `None` if it is not ours, or too old.
    pub fn owner(&self, token: &str, now_s: u64) -> Option<Requester> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        // Nothing inside is believed, not even how it is signed.
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header["alg"] != self.name || header.get("crit").is_some() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.verifier.check(signed.as_bytes(), &signature)?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let is_over =
            claims.get("exp").is_some_and(|time| seconds(time).is_none_or(|end| end <= now_s as f64));
        let is_early =
            claims.get("nbf").is_some_and(|time| seconds(time).is_none_or(|from| from > now_s as f64));
        if is_over || is_early {
            return None;
        }
        let user = claims["username"].as_str()?.to_owned();
        let auth_revision = seconds(&claims["revision"]).filter(|revision| *revision >= 0.0)? as u64;
        Some(Requester { user, auth_revision, is_member: false })
    }
}

/// A number of a token, which may be written with a fraction.
fn seconds(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

impl Signer {
    fn sign(&self, message: &[u8], random: &SystemRandom) -> Option<Vec<u8>> {
        Some(match self {
            Self::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, random, message, &mut signature).ok()?;
                signature
            }
            Self::Ecdsa(pair) => pair.sign(random, message).ok()?.as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }

    fn public_key(&self) -> Option<Vec<u8>> {
        match self {
            Self::Hmac(_) => None,
            Self::Rsa(pair, _) => Some(pair.public().as_ref().to_vec()),
            Self::Ecdsa(pair) => Some(pair.public_key().as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.public_key().as_ref().to_vec()),
        }
    }
}

impl Verifier {
    fn check(&self, message: &[u8], given: &[u8]) -> Option<()> {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, given).ok(),
            Self::Key(key) => key.verify(message, given).ok(),
        }
    }
}

fn signer(method: Method, file: &[u8], random: &SystemRandom) -> Result<Signer, String> {
    let rejected = |error: ring::error::KeyRejected| format!("not a usable key for this method: {error}");
    let rsa = |encoding| Ok::<_, String>(Signer::Rsa(Box::new(rsa_pair(file)?), encoding));
    match method {
        Method::Hs(sha) => {
            let algorithm = match sha {
                Sha::S256 => hmac::HMAC_SHA256,
                Sha::S384 => hmac::HMAC_SHA384,
                Sha::S512 => hmac::HMAC_SHA512,
            };
            match file {
                [] => Err("the secret is empty".to_owned()),
                secret => Ok(Signer::Hmac(hmac::Key::new(algorithm, secret))),
            }
        }
        Method::Rs(Sha::S256) => rsa(&signature::RSA_PKCS1_SHA256),
        Method::Rs(Sha::S384) => rsa(&signature::RSA_PKCS1_SHA384),
        Method::Rs(Sha::S512) => rsa(&signature::RSA_PKCS1_SHA512),
        Method::Ps(Sha::S256) => rsa(&signature::RSA_PSS_SHA256),
        Method::Ps(Sha::S384) => rsa(&signature::RSA_PSS_SHA384),
        Method::Ps(Sha::S512) => rsa(&signature::RSA_PSS_SHA512),
        Method::Es(sha) => {
            let algorithm = match sha {
                Sha::S256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                Sha::S384 | Sha::S512 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            };
            let pair = match pem::private_key(file)? {
                pem::PrivateKey::Pkcs8(der) => EcdsaKeyPair::from_pkcs8(algorithm, &der, random),
                pem::PrivateKey::Sec1 { secret, public } => {
                    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &secret, &public, random)
                }
                pem::PrivateKey::Pkcs1(_) => return Err("it is an RSA key".to_owned()),
            };
            pair.map(Signer::Ecdsa).map_err(rejected)
        }
        Method::EdDsa => match pem::private_key(file)? {
            pem::PrivateKey::Pkcs8(der) => {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Signer::Ed25519).map_err(rejected)
            }
            pem::PrivateKey::Pkcs1(_) | pem::PrivateKey::Sec1 { .. } => {
                Err("it is no Ed25519 key".to_owned())
            }
        },
    }
}

fn rsa_pair(file: &[u8]) -> Result<rsa::KeyPair, String> {
    let pair = match pem::private_key(file)? {
        pem::PrivateKey::Pkcs8(der) => RsaKeyPair::from_pkcs8(&der),
        pem::PrivateKey::Pkcs1(der) => RsaKeyPair::from_der(&der),
        pem::PrivateKey::Sec1 { .. } => return Err("it is an EC key".to_owned()),
    };
    pair.map_err(|error| format!("not a usable RSA key: {error}"))
}

fn verification(method: Method) -> &'static dyn signature::VerificationAlgorithm {
    match method {
        // Never asked: a shared secret has no public half.
        Method::Hs(_) | Method::Rs(Sha::S256) => &signature::RSA_PKCS1_2048_8192_SHA256,
        Method::Rs(Sha::S384) => &signature::RSA_PKCS1_2048_8192_SHA384,
        Method::Rs(Sha::S512) => &signature::RSA_PKCS1_2048_8192_SHA512,
        Method::Ps(Sha::S256) => &signature::RSA_PSS_2048_8192_SHA256,
        Method::Ps(Sha::S384) => &signature::RSA_PSS_2048_8192_SHA384,
        Method::Ps(Sha::S512) => &signature::RSA_PSS_2048_8192_SHA512,
        Method::Es(Sha::S256) => &signature::ECDSA_P256_SHA256_FIXED,
        Method::Es(Sha::S384 | Sha::S512) => &signature::ECDSA_P384_SHA384_FIXED,
        Method::EdDsa => &signature::ED25519,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const RSA: &[u8] = include_bytes!("testdata/rsa.pem");
    const RSA_PKCS1: &[u8] = include_bytes!("testdata/rsa1.pem");
    const RSA_PUBLIC: &[u8] = include_bytes!("testdata/rsa.pub");
    const EC: &[u8] = include_bytes!("testdata/ec.pem");
    const EC_SEC1: &[u8] = include_bytes!("testdata/ec1.pem");
    const EC_PUBLIC: &[u8] = include_bytes!("testdata/ec.pub");
    const ED: &[u8] = include_bytes!("testdata/ed.pem");
    const ED_PUBLIC: &[u8] = include_bytes!("testdata/ed.pub");
    const TTL: Duration = Duration::from_secs(60);

    fn alice() -> Requester {
        Requester { user: "alice".to_owned(), auth_revision: 7, is_member: false }
    }

    fn jwt(method: &str, public: Option<&[u8]>, private: Option<&[u8]>) -> Jwt {
        Jwt::new(method_of(method).unwrap(), TTL, public, private).unwrap()
    }

    #[test]
    fn what_one_key_signs_the_other_knows_and_no_other_method_does() {
        type Pair = (&'static str, &'static [u8], Option<&'static [u8]>);
        let pairs: [Pair; 11] = [
            ("HS256", b"secret", None),
            ("HS512", b"secret", None),
            ("RS256", RSA, Some(RSA_PUBLIC)),
            ("RS384", RSA_PKCS1, Some(RSA_PUBLIC)),
            ("RS512", RSA, Some(RSA_PUBLIC)),
            ("PS256", RSA, Some(RSA_PUBLIC)),
            ("PS384", RSA, Some(RSA_PUBLIC)),
            ("PS512", RSA_PKCS1, Some(RSA_PUBLIC)),
            ("ES256", EC, Some(EC_PUBLIC)),
            ("ES256", EC_SEC1, Some(EC_PUBLIC)),
            ("EdDSA", ED, Some(ED_PUBLIC)),
        ];
        let tokens = pairs.map(|(method, private, public)| {
            (method, jwt(method, public, Some(private)).sign(&alice(), 1_000).unwrap())
        });
        for (method, private, public) in pairs {
            let knows = match public {
                // A member that only checks.
                Some(public) => jwt(method, Some(public), None),
                None => jwt(method, None, Some(private)),
            };
            for (signed_by, token) in &tokens {
                let want = (*signed_by == method).then(alice);
                assert_eq!(knows.owner(token, 1_059), want, "{signed_by} by {method}");
                assert_eq!(knows.owner(token, 1_060), None, "{signed_by} by {method}, too old");
            }
        }
        assert_eq!(jwt("ES256", Some(EC_PUBLIC), None).sign(&alice(), 0), None, "no private key");
    }

    #[test]
    fn a_certificate_is_taken_for_the_key_in_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        let (public, private) = (certificate.pem(), key.serialize_pem());
        let token = jwt("ES256", None, Some(private.as_bytes())).sign(&alice(), 1_000).unwrap();
        let known = jwt("ES256", Some(public.as_bytes()), None).owner(&token, 1_000);
        assert_eq!(known, Some(alice()));
        let cut = public.replacen("MII", "MIC", 1);
        let error = Jwt::new(method_of("ES256").unwrap(), TTL, Some(cut.as_bytes()), None).err().unwrap();
        assert_eq!(error, "pub-key: the certificate is damaged");
    }

    #[test]
    fn nothing_but_the_whole_token_is_believed() {
        let known = jwt("HS256", None, Some(b"secret"));
        let token = known.sign(&alice(), 1_000).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let root = encode(r#"{"username":"root","revision":7,"exp":9999}"#);
        let none = encode(r#"{"alg":"none"}"#);
        let rows = [
            ("another owner", format!("{}.{root}.{}", parts[0], parts[2])),
            ("no signature", format!("{}.{root}.", parts[0])),
            ("the method none", format!("{none}.{root}.")),
            ("two parts", format!("{}.{}", parts[0], parts[1])),
            ("four parts", format!("{token}.{}", parts[2])),
            ("nothing", String::new()),
            ("dots", "..".to_owned()),
            ("long", "x".repeat(MAX_TOKEN_BYTES + 1)),
        ];
        for (name, token) in rows {
            assert_eq!(known.owner(&token, 1_000), None, "{name}");
        }
        for place in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[place] ^= 1;
            let changed = String::from_utf8_lossy(&changed).into_owned();
            // The last letter of base64 has bits that stand for nothing.
            let same = changed.rsplit_once('.').map(|(signed, signature)| {
                (signed == token.rsplit_once('.').unwrap().0, URL_SAFE_NO_PAD.decode(signature).ok())
            });
            if known.owner(&changed, 1_000).is_some() {
                assert_eq!(same, Some((true, URL_SAFE_NO_PAD.decode(parts[2]).ok())), "letter {place}");
            }
        }
    }

    #[test]
    fn options_are_read_and_refused_with_what_would_be_right() {
        let good = JwtOptions::parse("pub-key=/p,priv-key=/k,sign-method=RS256,ttl=10m").unwrap();
        assert_eq!((good.method, good.ttl), (Method::Rs(Sha::S256), Duration::from_secs(600)));
        assert_eq!((good.public_key.as_deref(), good.private_key.as_deref()), (Some("/p"), Some("/k")));
        let rows = [
            ("", "jwt needs sign-method=, such as RS256"),
            ("sign-method=RS256", "jwt needs pub-key= or priv-key="),
            ("sign-method=HS256,pub-key=x", "jwt with HS256 and its like needs priv-key=, the secret"),
            ("sign-method=ES256,priv-key=x,ttl=x", "ttl=x: give a duration such as 10m"),
            ("x", "\"x\": give sign-method=, pub-key=, priv-key= or ttl="),
        ];
        for (text, want) in rows {
            assert_eq!(JwtOptions::parse(text).unwrap_err(), want);
        }
        let error = JwtOptions::parse("sign-method=none,priv-key=x").unwrap_err();
        assert!(error.starts_with("sign-method=none: give one of HS256 "), "{error}");
    }

    #[test]
    fn keys_that_do_not_fit_are_named() {
        let new = |method, public, private| {
            Jwt::new(method_of(method).unwrap(), TTL, public, private).err().unwrap()
        };
        let other = include_bytes!("testdata/ed.pub");
        assert_eq!(new("RS256", None, Some(EC_SEC1)), "priv-key: it is an EC key");
        assert_eq!(new("ES256", None, Some(RSA_PKCS1)), "priv-key: it is an RSA key");
        assert_eq!(new("RS256", None, Some(b"x")), "priv-key: there is no PRIVATE KEY in it");
        assert_eq!(new("RS256", Some(b"x"), None), "pub-key: there is no PUBLIC KEY in it");
        assert_eq!(new("ES256", Some(other), Some(EC)), "pub-key and priv-key are not of one pair");
        assert_eq!(new("HS256", None, Some(b"")), "priv-key: the secret is empty");
    }
}
