//! What the user's words for units mean: names, patterns, and files to submit.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use proa_fleet_model::{
    api::{Unit, check_file},
    glob::{BadGlob, Glob},
    unit_file::UnitFile,
    unit_name::{BadUnitName, UnitName, with_default_type},
};

/// Why a word stands for nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no name of a unit.
    #[error("{word:?} is no unit: {source}")]
    Name {
        /// As the user wrote it.
        word: String,
        /// Why not.
        #[source]
        source: BadUnitName,
    },
    /// It is a pattern that cannot be read.
    #[error("bad pattern {word:?}: {text}")]
    Pattern {
        /// As the user wrote it.
        word: String,
        /// Why not.
        text: String,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is no unit file.
    #[error("{}: {text}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what would be right.
        text: String,
    },
}

/// Whether a word names units by a pattern.
pub fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?', '['])
}

/// The name that a word stands for: its last path component, a service unless it says otherwise.
///
/// # Errors
/// When that is no name of a unit.
pub fn name(word: &str) -> Result<UnitName, Error> {
    let last = Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or(word);
    with_default_type(last).parse().map_err(|source| Error::Name { word: word.to_owned(), source })
}

/// The names of existing units that a pattern matches, in their order.
///
/// # Errors
/// When the pattern cannot be read.
pub fn matching(pattern: &str, units: &[Unit]) -> Result<Vec<UnitName>, Error> {
    let bad = |error: BadGlob| Error::Pattern { word: pattern.to_owned(), text: error.to_string() };
    let glob = Glob::new(&with_default_type(pattern)).map_err(bad)?;
    let names = units.iter().map(|unit| unit.name.as_str()).filter(|name| glob.matches(name));
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

/// The unit file on disk for a word: the path itself, with its type added, or for an instance its
/// template's file in the same folder. `None` when there is no such file.
///
/// # Errors
/// When there is a file that cannot be read, or that is no unit file.
pub fn on_disk(word: &str, unit: &UnitName) -> Result<Option<UnitFile>, Error> {
    let folder = Path::new(word).parent().unwrap_or(Path::new(""));
    let own = [PathBuf::from(word), folder.join(unit.as_str())];
    let template = unit.template().map(|template| folder.join(template.as_str()));
    for path in own.into_iter().chain(template) {
        match fs::read(&path) {
            Ok(bytes) => return parse(path, &bytes, unit).map(Some),
            // A folder beside `web.service` may be called `web`.
            Err(error) if error.kind() == io::ErrorKind::NotFound || path.is_dir() => {}
            Err(source) => return Err(Error::File { path, source }),
        }
    }
    Ok(None)
}

fn parse(path: PathBuf, bytes: &[u8], unit: &UnitName) -> Result<UnitFile, Error> {
    let content = |text: String| Error::Content { path: path.clone(), text };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        content(format!("line {line}: not UTF-8 text; unit files are text"))
    })?;
    let file = UnitFile::parse(text).map_err(|error| content(error.to_string()))?;
    check_file(unit, &file).map_err(|error| content(error.message))?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_are_names_paths_or_patterns() {
        for (word, want) in
            [("hello", "hello.service"), ("units/hello.timer", "hello.timer"), ("./web@1", "web@1.service")]
        {
            assert_eq!(name(word).unwrap().as_str(), want, "{word}");
        }
        assert!(name("a b").is_err());
        assert!(is_pattern("web*") && is_pattern("a?.service") && !is_pattern("web@1.service"));
    }

    #[test]
    fn patterns_match_existing_units() {
        let unit = |name: &str| Unit { name: name.into(), ..Unit::default() };
        let units = [unit("web@1.service"), unit("web@2.service"), unit("web.timer")];
        let names = |pattern: &str| -> Vec<String> {
            matching(pattern, &units).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("web*"), ["web@1.service", "web@2.service"]);
        assert_eq!(names("*.timer"), ["web.timer"]);
        assert!(names("db*").is_empty());
    }

    #[test]
    fn files_are_found_by_name_type_and_template() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        write("a.service", "[Service]\nExecStart=/bin/a\n");
        write("web@.service", "[Service]\nExecStart=/bin/web\n");
        write("bad.service", "[Service]\nExecStart\n");
        write("odd.service", "[Service]\nExecStart=/bin/a\n[X-Fleet]\nMachineMeta=x\n");
        let find = |word: &str| {
            let word = root.path().join(word).display().to_string();
            on_disk(&word, &name(&word).unwrap())
        };
        for (word, want) in [("a", "/bin/a"), ("a.service", "/bin/a"), ("web@7", "/bin/web")] {
            let file = find(word).unwrap().unwrap();
            assert_eq!(file.options()[0].value, want, "{word}");
        }
        assert!(find("none").unwrap().is_none());
        let error = find("bad").unwrap_err().to_string();
        assert!(error.contains("bad.service: line 2: "), "{error}");
        let error = find("odd").unwrap_err().to_string();
        assert!(error.contains("unrecognized requirement in [X-Fleet] section"), "{error}");
    }
}
