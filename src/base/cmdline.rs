//! The kernel command line as words of `key` or `key=value`.

/// One word of the kernel command line, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The key with `_` written as `-`: the kernel takes both for the same.
    pub key: String,
    /// What follows the `=`, without quotes; `None` for a bare key.
    pub value: Option<String>,
}

/// Splits a kernel command line.
///
/// Double quotes protect spaces, around the value or the whole word. Words after
/// a bare `--` belong to init and are not read.
///
/// Source: the kernel's admin-guide, kernel-parameters.
pub fn parse(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut text = String::new();
    let mut quoted = false;
    for c in line.chars().chain([' ']) {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if text == "--" {
                    return words;
                }
                if !text.is_empty() {
                    words.push(word(&text));
                    text.clear();
                }
            }
            c => text.push(c),
        }
    }
    // A quote that was never closed still ends with the line.
    if !text.trim().is_empty() {
        words.push(word(text.trim_end()));
    }
    words
}

fn word(text: &str) -> Word {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    Word { key: key.replace('_', "-"), value }
}

/// The value of the last word with this key; a bare key counts as `true`.
pub fn last<'a>(words: &'a [Word], key: &str) -> Option<&'a str> {
    let word = words.iter().rev().find(|word| word.key == key)?;
    Some(word.value.as_deref().unwrap_or("true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: &[(&str, Option<&str>)]) {
        let got = parse(line);
        let got: Vec<_> = got.iter().map(|w| (w.key.as_str(), w.value.as_deref())).collect();
        assert_eq!(got, want, "{line:?}");
    }

    #[test]
    fn words_are_split_as_the_kernel_does() {
        check("", &[]);
        check("quiet\n", &[("quiet", None)]);
        check("a=1  b", &[("a", Some("1")), ("b", None)]);
        check("proa.net_work=x", &[("proa.net-work", Some("x"))]);
        check("fleet.metadata=\"a=1, b=2\" c", &[("fleet.metadata", Some("a=1, b=2")), ("c", None)]);
        check("\"k=v w\"", &[("k", Some("v w"))]);
        check("k=\"open end ", &[("k", Some("open end"))]);
        check("a -- etcd.name=x", &[("a", None)]);
        check("k=", &[("k", Some(""))]);
    }

    #[test]
    fn the_last_word_wins() {
        let words = parse("a=1 b a=2");
        assert_eq!(last(&words, "a"), Some("2"));
        assert_eq!(last(&words, "b"), Some("true"));
        assert_eq!(last(&words, "c"), None);
    }
}
