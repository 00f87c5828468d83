//! XML within hard limits: elements and their attributes, nothing else.
//!
//! Omaha has no text between its elements, so text is skipped. A document type
//! is refused, and with it every entity but the five of XML and numbers: what
//! is read is never larger than what came.

use std::borrow::Cow;

use quick_xml::{
    Reader,
    escape::{escape, unescape},
    events::{BytesStart, Event},
};

/// Most bytes of a document. A request is some 1.5 KB, a response with signed
/// metadata of several payloads under 16 KB.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// Elements inside each other; a response has eight.
const DEPTH_MAX: usize = 16;
/// Elements of a document: an app with 100 events fits twice.
const ELEMENTS_MAX: usize = 256;
/// Attributes of one element; an app has some 20.
const ATTRIBUTES_MAX: usize = 64;

/// Why a document is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// More than [`DOCUMENT_BYTES_MAX`].
    #[error("the document is larger than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// The document is not in UTF-8.
    #[error("the document is not in UTF-8")]
    NoUtf8,
    /// Not well-formed.
    #[error("bad XML at byte {at}: {problem}")]
    Malformed {
        /// Where reading stopped.
        at: u64,
        /// What is wrong.
        problem: String,
    },
    /// Elements too deep inside each other.
    #[error("more than {DEPTH_MAX} elements inside each other")]
    TooDeep,
    /// Too many elements.
    #[error("more than {ELEMENTS_MAX} elements")]
    TooManyElements,
    /// Too many attributes on one element.
    #[error("more than {ATTRIBUTES_MAX} attributes on one element")]
    TooManyAttributes,
    /// A document type, which could define entities.
    #[error("a document type is not accepted")]
    DocumentType,
    /// No element at all, or an element that does not end.
    #[error("the document ends early")]
    Short,
}

/// An element with what is inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name, without a namespace.
    pub name: String,
    /// Names and values, in order; no control characters in the values.
    pub attributes: Vec<(String, String)>,
    /// The elements inside, in order.
    pub children: Vec<Element>,
}

impl Element {
    /// An element without anything.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of an attribute, or nothing.
    pub fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// Whether an attribute says yes, in the spellings of all clients.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | "True" | "TRUE"))
    }

    /// The first element inside of this name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All elements inside of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.push((name.to_owned(), value.into()));
        self
    }

    /// Adds an attribute unless its value is empty.
    #[must_use]
    pub fn with_some(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.with(name, value) }
    }

    /// Adds an element inside.
    #[must_use]
    pub fn holding(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// The document whose outermost element this is.
    pub fn render(&self) -> String {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        self.write(&mut out);
        out.push('\n');
        out
    }

    fn write(&self, out: &mut String) {
        out.push('<');
        out.push_str(&self.name);
        for (name, value) in &self.attributes {
            out.push(' ');
            out.push_str(name);
            out.push_str("=\"");
            out.push_str(&escape(&*one_line(value)));
            out.push('"');
        }
        if self.children.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for child in &self.children {
            child.write(out);
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }
}

/// Control characters and what XML has no place for, as spaces: values are
/// printed in tables and logs, and a line has to stay one.
fn one_line(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}');
    if text.contains(is_bad) { text.replace(is_bad, " ").into() } else { text.into() }
}

/// Reads a document's outermost element and all inside it.
///
/// # Errors
/// [`XmlError`].
pub fn parse(document: &[u8]) -> Result<Element, XmlError> {
    if document.len() > DOCUMENT_BYTES_MAX {
        return Err(XmlError::TooLarge);
    }
    let text = std::str::from_utf8(document).map_err(|_| XmlError::NoUtf8)?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut count = 0;
    // The elements that are open: the last is the innermost.
    let mut open: Vec<Element> = Vec::new();
    loop {
        let event = reader.read_event();
        let at = reader.buffer_position();
        let malformed = |problem: String| XmlError::Malformed { at, problem };
        let closed = match event.map_err(|error| malformed(error.to_string()))? {
            Event::Start(start) => {
                open.push(element(&start, &mut count, open.len(), at)?);
                None
            }
            Event::Empty(start) => Some(element(&start, &mut count, open.len(), at)?),
            Event::End(_) => open.pop(),
            Event::DocType(_) => return Err(XmlError::DocumentType),
            Event::Eof => return Err(XmlError::Short),
            Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::GeneralRef(_) => None,
        };
        if let Some(closed) = closed {
            match open.last_mut() {
                Some(parent) => parent.children.push(closed),
                // What follows the outermost element is nobody's.
                None => return Ok(closed),
            }
        }
    }
}

fn element(start: &BytesStart<'_>, count: &mut usize, depth: usize, at: u64) -> Result<Element, XmlError> {
    *count += 1;
    if *count > ELEMENTS_MAX {
        return Err(XmlError::TooManyElements);
    }
    if depth >= DEPTH_MAX {
        return Err(XmlError::TooDeep);
    }
    let mut element = Element::new(start.local_name().into_inner());
    for attribute in start.attributes() {
        let malformed = |problem: String| XmlError::Malformed { at, problem };
        let attribute = attribute.map_err(|error| malformed(error.to_string()))?;
        if element.attributes.len() == ATTRIBUTES_MAX {
            return Err(XmlError::TooManyAttributes);
        }
        let value = unescape(&attribute.value).map_err(|error| malformed(error.to_string()))?;
        let name = attribute.key.into_inner().to_owned();
        element.attributes.push((name, one_line(&value).into_owned()));
    }
    Ok(element)
}
