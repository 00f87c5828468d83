//! Keys and signatures that openssl made.

use super::{BadKey, PublicKey};
use crate::hash::Sha256;
use base64::{Engine as _, engine::general_purpose::STANDARD};

fn pem(body: &str) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", body.trim())
}

/// `openssl genrsa 3072`, then `openssl dgst -sha256 -sign` of `a payload`.
const KEY_3072: &str = "
MIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEAs5Lm+tSyaMLoNS9Uw4mx
/JAjFf1EEVdnylnOOktQ8dEkms/Fi4DqHUfGh7zwsI36Qe4YXZ1n3OsyUPRr8741
qicqxeHkqi30Y1UiPiA2xBJ3ZighmWXFV7tkNOdtUcnm0E6x72ilK2UWtg5bJ0gh
GXjgTg3BziPSYGUAr9wf/PuwkEBlou4xBTJ/Xz5KcTqZfCf0bdaTA3zw0HXO8lJQ
pe4xroey7/Fx8csHDJPMA1/aHfvAWCtIhpE1zirK6FU5P15j2Y3XgOzpt5NfNFXU
t0ZwPmaqSZS747meNazgtp72SLoMJxOfO0yDWO58YaoYhIl8Z82hkYsUW2iwxy2Z
n7ZBA0BerA2V4zbRHJO4uQAwLUHkG+WneyZzms5AKuf60JNbaNRj4a2vo8k1yXjB
l9emdGWbvOjd93iHQ3iUFrm98v1IvplIQjF/w62IWtmp5gIitGJr48++U1g0SlTF
J8ONbKAiCwzAex3t32fWvOPueq/oaMKnUzMMNrlU/sGLAgMBAAE=
";
const SIGNATURE_3072: &str = "
CTPO0/+MaPBJUSntig4q6YHBxkQnYeF6DuVAHQNw7CVYpOuvLs6WLtl/gHL0N6pI
bAA0nJZak0slfasCC72l4dW7Ym5K19Mp/0j/pr0YCbthFtdBuMNmFTiiwZOWyQ3W
C/pOnW4Or+cCiTWgt/gwYjL40actVs7MNKrNnDKEflJ33NG07NoTU66h2qNO/+g/
WywxyqzOIBmBdcxKTDhZOAKRbhUht/6sXahE/fBp3drzVuNSOP7PolzUGFwJlqd7
Z+IER5sjgauAPHwsEeh8/POuHNPlFLiSb0Z94nkZTMmQc6nH4VI1tu6HCyW52BZb
crDHXVIAjJeXLE7SP8RVE/95uPHDH2Rg3QWaWaT+FOBJ2ShIg8Yvy3nRWxO7E4B3
xXgiuKgAMXC+xKWXYWl8P0Oy9M9nvzvfnZCMwbBzzrxSnV6Lfp6hkcbMjP1eA7Cb
OwksfAzj+cPdnnoz9G36uI4DRhGYiSPyagEHSfAe1QQm3WdQDfVjvjcsomEjNULE
";

/// The same with 4096 bits.
const KEY_4096: &str = "
MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAlQsKQBn3wsUuj6ktnUFj
tyI015OtwIdXhmW69e+MOUmTNRU/gPJGZ0O79DRZ8W4aVgPsp6NBOE165l6kevLq
/J8RaAawkaYkq6Xn4KQAExoxORY5Dt8hG8qqJLzr4Lc1p3+e5T9/mmYKZ4agg5wi
+inOOTU/R0RIeoZp65pFnlY4dr7H0ecn+g4ClhXpPbruQx7RfhTKF1jn7u17M43t
O/VgmYtSU7Y87NDbU+FyOWjxbmsV5aEHmjaw3YYLtkLsg1WgRFU2mpW0nXAeKulm
MdWGvGBfe7+Sh+AH3dYW5qVg5CdYEIO0mnlYv9MACcuAM0A8zx2DJzy7V5BqMENH
iTaUUyWi9EcRqn0TOQIvW48s8jPjC5QFEsvGsAfqZCgJ8pY9KqeAgZZErdp7nfRp
0+CQlEuzFb0fO5lggoTfOsCudKPqk+7xgLQFw6BPNu4hG9PTqp6l9kQSp2Wusn3f
uX9oTAPp6B+f6UxedHjIqeX7iHy5H4KqX6EWbxboixnYX5ECpY861i+LjM1vaTtz
2vcg9spkXIv+Yszq6CeLBAhpD5PRqSehbRRUQ+GMTQV+HaKI1i8SqUIP0qS1T90p
HXv2xpPYNezLrI9zDMKbcx3ieAG6Fsko5fDTegHxUzE53IphiYfm2Xa+lpRsYAur
6+CiB+ZpIfKKbvuRnHPfMpMCAwEAAQ==
";
const SIGNATURE_4096: &str = "
W88ClFhzwf916R12Xn9NVEyDquWJ3QKY1TKZbTlmg5yz3RPNePz5DNMp7+9xBiBu
hKYuJwbPVSh/txs1QlTYcKXxw6pLwqQ7k9zF3KxFYSi673LlKmA6qV8fQMUzfhxD
Pn+Bc2FGDWUZqOrhZNr+tyqyh18pgWX9EL4512N+FH1tUgeOs8Fp353bXGSghbSi
Gu6BcvU6W9A+yhVrOwOVC7DzmsXAxEaTpXDDbOF4rX57zC6Zfhi04JpNuhriOqCM
re4B5oxtSBxnblhHltV+EXFWUdae5IAMELCb1gYZhsUlOpt+Jf9DyOKM6i6+wQAV
ptXD7F6ecdU5QXRCa+GrpwyJKUmUVqNjCniw8NS3Ir+VlUy4kzZ9CgbCMKa3pWup
LwFlWJYL0ItEo6yARs65BbjjhKywjWkUgFl7JktQYIkzBYAZkaAQei+pI29zJVrf
wvgmYIO5/5gBfBT78N+C7gpIHhOC6odsG2mVql89luYtaNAPl0+6ikm/1FMSvBWF
Su2/CddAXifU7fFGu65fj8jE5YxFut40gw48OEC/BxRZXF07sIbPsBCz6Yq2pVqX
wX+gRyEm/nssOdPyOEw7ky8MAOn5PUek8oQ1iXXJ9LJ40mcd9aIhxjXDod6AypZY
vYsX8A7Cl7FEjoaGtiER2hkW0abpbZchsKNYvT+xIc4=
";

/// `openssl genrsa -3 2048`.
const KEY_WITH_EXPONENT_3: &str = "
MIIBIDANBgkqhkiG9w0BAQEFAAOCAQ0AMIIBCAKCAQEA1+QOkYD5Z8vexPNEfgU6
UYgr1S8unueLm9a1abxUcgk+M2L2qjZeCpTtY+7yOfalq/yn38AsBTshuvMCBwxJ
zaS2mCBKc3rcpIX4XVHlATNBJ6nHkmp4sVR1uf1GgRLNELnIG9+MrWcZEzVt8dJN
qMLq4nPylaMFKMaxcChFPfsMshlmdN834rNId+YDXV6SZJ0c5A8YPU1NuC+Frxvy
g9H1NeTVei6etOTa0GNaEiEGCDjo0sGoWyWPfC4fqNRC5h+U2UHbAa0WWLbdDPY+
9csNQykaR8Ufb8XHMciThkA9vuIG1Vg4ElJ23RRaqS+4hDbUFWUJzvNchlX4vAO0
gwIBAw==
";

/// `openssl genrsa 1024`.
const KEY_1024: &str = "
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC3KuPV7JUkmrVIFDmr7wd71prm
iw8LLsXQKScWSOzojnhdYUkij3ENfKXCUBy1Ffd4/29GV5GDBiFJewbldUPYrCOP
GgANydYFNo2O75yefMvlYwRB/iQzrPSOKBfVPmQArJKxQGvxH8aN55zwMOF4byqx
uuSnJVRWWLRb2LCQfQIDAQAB
";

/// `openssl ecparam -genkey -name prime256v1`.
const KEY_EC: &str = "
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEbI/5pjKppxT3Y2htZxhB0RFOyONm
fuSZGH5beIj+19pYn7W0ceXWPoalSUIlbRB5UyEXHDWAIV9c+ezVlJT3Fg==
";

fn signature(text: &str) -> Vec<u8> {
    STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).expect("base64")
}

#[test]
fn signatures_of_openssl_are_right() {
    let digest = Sha256::of(b"a payload");
    for (key, text) in [(KEY_3072, SIGNATURE_3072), (KEY_4096, SIGNATURE_4096)] {
        let key = PublicKey::from_pem(&pem(key)).expect("a key");
        let good = signature(text);
        assert!(key.verifies(&digest, &good));
        assert!(!key.verifies(&Sha256::of(b"another payload"), &good));
    }
}

#[test]
fn other_signatures_are_wrong() {
    let key = PublicKey::from_pem(&pem(KEY_3072)).expect("a key");
    let digest = Sha256::of(b"a payload");
    let good = signature(SIGNATURE_3072);
    let modulus: Vec<u8> = key.modulus.0.iter().rev().flat_map(|word| word.to_be_bytes()).collect();
    // The same number modulo the modulus, in another form.
    let mut carry = 0;
    let mut again: Vec<u8> = good
        .iter()
        .zip(&modulus)
        .rev()
        .map(|(good, modulus)| {
            carry += u32::from(*good) + u32::from(*modulus);
            let byte = carry as u8;
            carry >>= 8;
            byte
        })
        .collect();
    again.reverse();
    assert_eq!(carry, 0, "there is room for it");
    let flipped = |byte: usize| {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        bad
    };
    #[rustfmt::skip]
    let cases = [
        ("empty",               Vec::new()),
        ("short",               good[1..].to_vec()),
        ("long",                [&[0], &good[..]].concat()),
        ("zero",                vec![0; 384]),
        ("one",                 [vec![0; 383], vec![1]].concat()),
        ("the modulus",         modulus),
        ("plus the modulus",    again),
        ("above the modulus",   vec![0xff; 384]),
        ("by another key",      signature(SIGNATURE_4096)[..384].to_vec()),
        ("first bit flipped",   flipped(0)),
        ("last bit flipped",    flipped(383)),
    ];
    for (name, bad) in cases {
        assert!(!key.verifies(&digest, &bad), "{name}");
    }
}

#[test]
fn other_keys_are_refused() {
    let truncated = STANDARD.encode(&signature(KEY_3072)[..300]);
    let longer = STANDARD.encode([signature(KEY_3072), vec![0]].concat());
    let even = {
        let mut der = signature(KEY_3072);
        let last = der.len() - 6;
        der[last] &= 0xfe;
        STANDARD.encode(der)
    };
    let pss = {
        let mut der = signature(KEY_3072);
        assert_eq!(der[8..17], [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1], "rsaEncryption");
        der[16] = 10;
        STANDARD.encode(der)
    };
    #[rustfmt::skip]
    let cases = [
        ("no PEM",            KEY_3072.to_owned(),       BadKey::Pem),
        ("no base64",         pem("?"),                  BadKey::Pem),
        ("empty",             pem(""),                   BadKey::Form),
        ("huge",              pem(&"A".repeat(5000)),    BadKey::Pem),
        ("truncated",         pem(&truncated),           BadKey::Form),
        ("one byte more",     pem(&longer),              BadKey::Form),
        ("elliptic curve",    pem(KEY_EC),               BadKey::Form),
        ("RSASSA-PSS only",   pem(&pss),                 BadKey::Form),
        ("1024 bits",         pem(KEY_1024),             BadKey::Modulus(1024)),
        ("an even modulus",   pem(&even),                BadKey::Modulus(3072)),
        ("exponent 3",        pem(KEY_WITH_EXPONENT_3),  BadKey::Exponent),
    ];
    for (name, text, want) in cases {
        assert_eq!(PublicKey::from_pem(&text), Err(want), "{name}");
    }
}
