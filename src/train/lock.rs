//! One training per output directory: a lock that the operating system takes back when the process ends, however.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

const NAME: &str = ".rosette.lock";

/// Holds a directory; gone when dropped.
#[derive(Debug)]
pub struct DirLock {
    path: PathBuf,
    _file: Option<File>,
}

impl DirLock {
    /// Takes a directory, which is made where it is missing, and removes what killed processes left half-written there.
    ///
    /// # Errors
    /// A user error that names the process that holds it, or where the directory cannot be written.
    pub fn take(dir: &Path) -> Result<Self> {
        files::create_dir(dir)?;
        let path = dir.join(NAME);
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.map_err(|e| Error::io(&path, "a file to write", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(dir, &path)),
            // Some network file systems have no locks: better to train without than not at all.
            Err(TryLockError::Error(error)) => {
                tracing::warn!("{}: no lock ({error}): start no second training into it", dir.display());
                return Ok(Self { path, _file: None });
            }
        }
        let holder =
            format!("process {} since {}\n", std::process::id(), jiff::Zoned::now().strftime("%F %T %:z"));
        files::remove_abandoned(dir);
        // Only for people: a full disk shows soon enough.
        let _ = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
        Ok(Self { path, _file: Some(file) })
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn held(dir: &Path, path: &Path) -> Error {
    let holder = std::fs::read_to_string(path).unwrap_or_default();
    let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
    let remedy = "wait for it, stop it, or give another --output-dir";
    Error::user(
        dir.display(),
        "a directory that no other training writes to",
        format!("one held by {holder}"),
        remedy,
    )
}
