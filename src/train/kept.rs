//! Which weights a training that goes on may call its own: another one, or the members of an experiment, may have
//! written to the same directory since.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::checkpoint::State;
use super::run::WEIGHTS;
use crate::error::{Error, Result};
use crate::files;

/// The weights under another name while the training runs: workflow engines remove the outputs of jobs that ended early.
pub(super) const WEIGHTS_IN_PROGRESS: &str = ".best_model.pth";
/// SHA-256 of every best weights that the training in progress has written, one a line: a process may be killed after
/// it wrote weights and before the checkpoint that speaks of them.
const HASHES: &str = ".best_model.sha256";

/// Keeps the weights that were just written under their second name; their SHA-256.
///
/// # Errors
/// A user error where the disk takes no more.
pub(super) fn keep(dir: &Path) -> Result<String> {
    let weights = dir.join(WEIGHTS);
    let hash =
        hash_of(&weights).ok_or_else(|| Error::failure(format!("{}: unreadable", weights.display())))?;
    let known = std::fs::read_to_string(dir.join(HASHES)).unwrap_or_default();
    files::write_atomic(&dir.join(HASHES), format!("{known}{hash}\n").as_bytes())?;
    link(&weights, &dir.join(WEIGHTS_IN_PROGRESS))?;
    Ok(hash)
}

/// Whether the best weights of a checkpoint are in `dir`; they have their name again then. Where neither file is the one
/// that the checkpoint speaks of, one that the same training wrote later will do: it comes to that epoch again.
///
/// # Errors
/// A user error where the weights cannot get their name.
pub(super) fn is_at_hand(dir: &Path, state: &State) -> Result<bool> {
    if state.best.is_none() {
        return Ok(true);
    }
    let places: [PathBuf; 2] = [WEIGHTS, WEIGHTS_IN_PROGRESS].map(|name| dir.join(name));
    let hashes = places.each_ref().map(|path| hash_of(path));
    let Some(expected) = &state.best_sha256 else {
        // A checkpoint that is older than this check.
        return take(&places, hashes.iter().position(Option::is_some));
    };
    let written = std::fs::read_to_string(dir.join(HASHES)).unwrap_or_default();
    let exact = hashes.iter().position(|hash| hash.as_ref() == Some(expected));
    let later = || hashes.iter().flatten().find(|hash| written.lines().any(|line| line == hash.as_str()));
    let at = exact
        .or_else(|| later().and_then(|found| hashes.iter().position(|hash| hash.as_ref() == Some(found))));
    take(&places, at)
}

fn take([weights, in_progress]: &[PathBuf; 2], at: Option<usize>) -> Result<bool> {
    if at == Some(1) {
        link(in_progress, weights)?;
    }
    Ok(at.is_some())
}

/// Removes the second name, and what is known of earlier weights.
pub(super) fn forget(dir: &Path) {
    for name in [WEIGHTS_IN_PROGRESS, HASHES] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

fn hash_of(path: &Path) -> Option<String> {
    files::read_bytes(path).ok().map(|bytes| files::hex(&Sha256::digest(bytes)))
}

/// Gives a file a second name, or copies it where the file system has no such thing.
fn link(from: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_file(to);
    std::fs::hard_link(from, to)
        .or_else(|_| std::fs::copy(from, to).map(|_| ()))
        .map_err(|e| Error::io(to, "a file to write", &e))
}
