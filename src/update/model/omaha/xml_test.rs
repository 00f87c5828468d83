#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::xml::{DOCUMENT_BYTES_MAX, Element, XmlError, parse};

#[test]
fn limits_hold() {
    let deep = |count: usize| format!("{}{}", "<a>".repeat(count), "</a>".repeat(count));
    let wide = |count: usize| format!("<a>{}</a>", "<b/>".repeat(count));
    let rich = |count: usize| {
        let attributes: String = (0..count).map(|number| format!(" a{number}='x'")).collect();
        format!("<a{attributes}/>")
    };
    let long = |bytes: usize| format!("<a b='{}'/>", "x".repeat(bytes - 9));
    // Each entity is ten of the one before: 3 GB when expanded.
    let laughs: String =
        (1..9).map(|n| format!("<!ENTITY l{n} \"{}\">", format!("&l{};", n - 1).repeat(10))).collect();
    let laughs = format!("<!DOCTYPE a [<!ENTITY l0 \"lol\">{laughs}]><a b=\"&l8;\"/>");
    #[rustfmt::skip]
    let rows: [(&str, String, Result<(), XmlError>); 14] = [
        ("deep",            deep(16),                                  Ok(())),
        ("too deep",        deep(17),                                  Err(XmlError::TooDeep)),
        ("deepest",         deep(9_000),                               Err(XmlError::TooDeep)),
        ("wide",            wide(255),                                 Ok(())),
        ("too wide",        wide(256),                                 Err(XmlError::TooManyElements)),
        ("rich",            rich(64),                                  Ok(())),
        ("too rich",        rich(65),                                  Err(XmlError::TooManyAttributes)),
        ("long",            long(DOCUMENT_BYTES_MAX),                  Ok(())),
        ("too long",        long(DOCUMENT_BYTES_MAX + 1),              Err(XmlError::TooLarge)),
        ("a bomb",          laughs,                                    Err(XmlError::DocumentType)),
        ("a file",          "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>".into(), Err(XmlError::DocumentType)),
        ("nothing",         String::new(),                             Err(XmlError::Short)),
        ("half",            "<a><b/>".into(),                          Err(XmlError::Short)),
        ("text around",     "<?xml version='1.0'?><!-- c -->\n<a> t &x; <![CDATA[<]]> </a>trailing".into(), Ok(())),
    ];
    for (name, document, want) in rows {
        assert_eq!(parse(document.as_bytes()).map(drop), want, "{name}");
    }
    assert_eq!(parse(b"<a b='\xff'/>"), Err(XmlError::NoUtf8));
}

#[test]
fn malformed_documents_are_refused() {
    let rows =
        ["<a></b>", "<a b=c/>", "<a b='1' b='2'/>", "<a b='&x;'/>", "<a b='&'/>", "<a b='&#0;'/>", "</a>"];
    for document in rows {
        let got = parse(document.as_bytes());
        assert!(matches!(got, Err(XmlError::Malformed { .. })), "{document}: {got:?}");
    }
}

#[test]
fn values_are_one_line() {
    let read = parse(b"<a b='x&#10;y\n&#x1b;[2Jz' c='&lt;&gt;&amp;&quot;&apos;'/>").unwrap();
    assert_eq!(read.text("b"), "x y  [2Jz");
    assert_eq!(read.text("c"), "<>&\"'");
}

fn element() -> impl Strategy<Value = Element> {
    let name = "[a-zA-Z_][a-zA-Z0-9_.-]{0,8}";
    let attributes =
        proptest::collection::btree_map(name, "[^\\p{Cc}\u{2028}\u{2029}\u{fffe}\u{ffff}]{0,16}", 0..6);
    let bare = (name, attributes).prop_map(|(name, attributes)| Element {
        name,
        attributes: attributes.into_iter().collect(),
        children: Vec::new(),
    });
    bare.clone().prop_recursive(6, 60, 6, move |inner| {
        (bare.clone(), proptest::collection::vec(inner, 0..6))
            .prop_map(|(parent, children)| Element { children, ..parent })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(element in element()) {
        prop_assert_eq!(parse(element.render().as_bytes()), Ok(element));
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = parse(&bytes);
    }

    /// Bytes that look like XML get further than random ones.
    #[test]
    fn garbage_of_markup_never_panics(words in proptest::collection::vec(
        prop_oneof!["<", ">", "/", "'", "\"", "=", "a", "&", ";", "#x", "<!", "--", "<\\?", "\\?>", "CDATA", "\\[", "\\]", " ", "<a b='", "</a>", "é"],
        0..200,
    )) {
        let _ = parse(words.concat().as_bytes());
    }
}
