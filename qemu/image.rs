//! The files that an image build leaves in its folder.

use crate::error::Error;
use std::path::{Path, PathBuf};

/// A folder with the kernel, the initrd and the disk of one image.
#[derive(Clone, Debug)]
pub struct Image {
    dir: PathBuf,
}

impl Image {
    /// The image in `dir`.
    ///
    /// # Errors
    /// [`Error::NoImage`] with the first file that is missing.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        match ["vmlinuz", "initrd", "proa.img"].into_iter().find(|name| !dir.join(name).is_file()) {
            Some(missing) => Err(Error::NoImage { dir: dir.to_owned(), missing }),
            None => Ok(Self { dir: dir.to_owned() }),
        }
    }

    /// The kernel, a bzImage.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The initial RAM disk: the binary as `/init`.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// The disk, as it is downloaded.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("proa.img")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_missing_file_and_its_cure_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vmlinuz"), "").unwrap();
        let line = Image::open(dir.path()).unwrap_err().to_string();
        assert!(line.ends_with("initrd is missing; `make image` makes it"), "{line}");
        fs::write(dir.path().join("initrd"), "").unwrap();
        fs::write(dir.path().join("proa.img"), "").unwrap();
        assert!(Image::open(dir.path()).is_ok());
    }
}
