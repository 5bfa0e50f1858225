//! Which weights a training that goes on may call its own: another one, or the members of an experiment, may have
//! written to the same directory since.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::beside::Beside;
use super::checkpoint::State;
use super::contents::Packed;
use super::run::WEIGHTS;
use super::weights::save_weights;
use crate::error::{Error, Result};
use crate::files;

/// The weights under another name while the training runs: workflow engines remove the outputs of jobs that ended early.
pub(super) const WEIGHTS_IN_PROGRESS: &str = ".best_model.pth";
/// SHA-256 of every best weights that the training in progress has written, one a line: a process may be killed after
/// it wrote weights and before the checkpoint that speaks of them.
const HASHES: &str = ".best_model.sha256";
/// A name that one of the two is about to get.
const NEXT: &str = ".best_model.next";

/// The best weights of a training in progress, which are written beside it.
#[derive(Debug)]
pub(super) struct BestWeights {
    dir: PathBuf,
    writing: Beside<(usize, String)>,
}

impl BestWeights {
    /// Nothing so far.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), writing: Beside::default() }
    }

    /// Begins to write the weights of an epoch, whose statistics have seen so many batches.
    ///
    /// # Panics
    /// Before those of the one before are settled.
    pub fn write(&mut self, epoch: usize, weights: Packed, batches_tracked: u64) {
        let dir = self.dir.clone();
        self.writing.start(move || {
            save_weights(&dir.join(WEIGHTS), &weights.into_tensors(), batches_tracked)?;
            Ok((epoch, keep(&dir)?))
        });
    }

    /// Some are on the disk, or will never be: [`BestWeights::settle`] will not wait.
    pub fn is_done(&self) -> bool {
        self.writing.is_done()
    }

    /// Waits for weights that are being written, if some are: their epoch and their SHA-256.
    ///
    /// # Errors
    /// A user error where the disk takes no more.
    pub fn settle(&mut self) -> Result<Option<(usize, String)>> {
        self.writing.settle()
    }
}

/// Keeps the weights that were just written under their second name; their SHA-256.
fn keep(dir: &Path) -> Result<String> {
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
    for name in [WEIGHTS_IN_PROGRESS, HASHES, NEXT] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

fn hash_of(path: &Path) -> Option<String> {
    files::read_bytes(path).ok().map(|bytes| files::hex(&Sha256::digest(bytes)))
}

/// Gives a file a second name, or copies it where the file system has no such thing. Whoever had that name keeps it until then.
fn link(from: &Path, to: &Path) -> Result<()> {
    let next = to.with_file_name(NEXT);
    let _ = std::fs::remove_file(&next);
    let linked = std::fs::hard_link(from, &next)
        .or_else(|_| std::fs::copy(from, &next).map(|_| ()))
        .map_err(|e| Error::io(to, "a file to write", &e))
        .and_then(|()| files::rename(&next, to));
    // Where both names were the same file's already, it has three now.
    let _ = std::fs::remove_file(&next);
    linked
}
