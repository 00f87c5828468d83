//! Command lines as Go's `flag` package reads them.
//!
//! The scripts and unit files of the original's users write `-name=value`,
//! `--name value` and `-name value` alike.

/// Rewrites Go spellings to the one that argh reads: `--name value`.
///
/// `-name` of more than one letter becomes `--name`; `=` splits off the value; a
/// name in `switches` (flags without a value) drops `=true` and vanishes with
/// `=false`. Everything after a bare `--`, and every word that does not start
/// with `-`, stays as it is.
pub fn normalise(args: &[String], switches: &[&str]) -> Vec<String> {
    let mut out = Vec::with_capacity(args.len());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            out.push(arg.clone());
            out.extend(rest.cloned());
            break;
        }
        let name = arg.trim_start_matches('-');
        let dashes = arg.len() - name.len();
        if dashes == 0
            || dashes > 2
            || name.is_empty()
            || !name.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            out.push(arg.clone());
            continue;
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let prefix = if name.len() == 1 { "-" } else { "--" };
        match value {
            Some("true") if switches.contains(&name) => out.push(format!("{prefix}{name}")),
            Some("false") if switches.contains(&name) => {}
            Some(value) => out.extend([format!("{prefix}{name}"), value.to_owned()]),
            None => out.push(format!("{prefix}{name}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_spellings_become_one() {
        let cases = [
            ("-name=x", "--name x"),
            ("--name=x y", "--name x y"),
            ("-name x", "--name x"),
            ("-w=json", "-w json"),
            ("-w json", "-w json"),
            ("-debug=true", "--debug"),
            ("--debug=false", ""),
            ("--debug", "--debug"),
            ("put -- -name=x", "put -- -name=x"),
            ("lease -1", "lease -1"),
            ("--name=a=b", "--name a=b"),
            ("-", "-"),
        ];
        for (given, want) in cases {
            let given: Vec<String> = given.split(' ').map(str::to_owned).collect();
            assert_eq!(normalise(&given, &["debug"]).join(" "), want);
        }
    }
}
