//! The checkpoints of an output directory: `last.safetensors` is the newest, `previous.safetensors` one from which the epoch
//! of the newest can be trained again. They are written beside the training, which goes on meanwhile.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::beside::Beside;
use super::checkpoint::{self, Checkpoint, Identity, State, load};
use crate::error::{Error, Result};
use crate::files;

/// The newest checkpoint.
pub const LAST: &str = "last.safetensors";
/// One before it (see [`Keeper::write`]).
pub const PREVIOUS: &str = "previous.safetensors";
/// The one that is being written.
const NEXT: &str = "next.safetensors";
/// The next checkpoint is due after so many times what the last one took, from reading it to the disk.
const LEAST_TIMES_COST: u32 = 50;

/// Whether a directory holds a training that has not come to its end.
pub fn is_unfinished(dir: &Path) -> bool {
    [LAST, PREVIOUS].iter().any(|name| dir.join(name).exists())
}

/// Removes the checkpoints of a directory, and what else belongs to a training that is to go on.
pub fn give_up_unfinished(dir: &Path) {
    for name in [LAST, PREVIOUS, NEXT] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    super::kept::forget(dir);
}

/// The checkpoints of one output directory.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    identity: Identity,
    /// Epoch and batch of the newest file, where it is whole and this training's.
    newest: Option<(usize, usize)>,
    every: Duration,
    writing: Beside<Written>,
    written: Instant,
    cost: Duration,
    /// For so long checkpoints have held the training up so far: the device was read, or one that was due waited for what was
    /// being written.
    pub spent: Duration,
}

/// A checkpoint that is on the disk.
#[derive(Debug)]
struct Written {
    /// Epoch and batch.
    place: (usize, usize),
    at: Instant,
    cost: Duration,
}

impl Keeper {
    /// Keeps checkpoints in `dir`: after every epoch and every `every` within one, but never so often that they take
    /// more than a fiftieth of the time. Where `every` is zero: after every step, whatever that costs.
    pub fn new(dir: &Path, identity: Identity, every: Duration) -> Self {
        let (written, cost, spent) = (Instant::now(), Duration::ZERO, Duration::ZERO);
        Self {
            dir: dir.to_path_buf(),
            identity,
            newest: None,
            every,
            writing: Beside::default(),
            written,
            cost,
            spent,
        }
    }

    /// The newest whole checkpoint of this training. Damaged ones are told of and passed over; one of another training
    /// is told of by what differs, and given up.
    pub fn find(&mut self) -> Option<Checkpoint> {
        for name in [LAST, PREVIOUS] {
            let Some((identity, checkpoint)) = self.read(name) else { continue };
            let differences = identity.differences(&self.identity);
            if !differences.is_empty() {
                let list = differences.join(", ");
                tracing::warn!(
                    "the unfinished training in {} is another one and is given up: {list}",
                    self.dir.display()
                );
                return None;
            }
            if name == LAST {
                self.newest = Some((checkpoint.state.epoch, checkpoint.state.batch));
            }
            return Some(checkpoint);
        }
        None
    }

    /// The newest checkpoint at or before the start of an epoch.
    ///
    /// # Errors
    /// A failure where there is none any more: somebody removed it.
    ///
    /// # Panics
    /// While one is being written.
    pub fn before(&mut self, epoch: usize) -> Result<Checkpoint> {
        assert!(!self.writing.is_unsettled(), "settled before");
        let is_before = |state: &State| (state.epoch, state.batch) <= (epoch, 0);
        let found =
            [LAST, PREVIOUS].iter().filter_map(|name| self.read(name)).map(|(_, checkpoint)| checkpoint);
        let found = found.into_iter().find(|checkpoint| is_before(&checkpoint.state)).ok_or_else(|| {
            Error::failure(format!("{}: the checkpoints are gone: start again", self.dir.display()))
        })?;
        // What comes after the one that is gone back to has diverged: the next one takes its place, and keeps it nowhere.
        self.newest = None;
        Ok(found)
    }

    fn read(&self, name: &str) -> Option<(Identity, Checkpoint)> {
        let path = self.dir.join(name);
        if !path.exists() {
            return None;
        }
        load(&path).inspect_err(|error| tracing::warn!("a checkpoint is passed over: {error}")).ok()
    }

    /// Within an epoch.
    pub fn is_due(&self) -> bool {
        self.is_free() && is_due(self.written.elapsed(), self.cost, self.every, false)
    }

    /// At the end of an epoch.
    pub fn is_due_after_epoch(&self) -> bool {
        self.is_free() && is_due(self.written.elapsed(), self.cost, self.every, true)
    }

    /// Where one is wanted after every step, they wait for one another.
    fn is_free(&self) -> bool {
        self.every.is_zero() || !self.writing.is_unsettled()
    }

    /// Begins to write a checkpoint, beside the training, which learns what came of it by [`Keeper::settle`]; `started` is
    /// when its making began. The file that it replaces becomes the previous one, unless it lies within the same epoch: the
    /// previous is always one from which that epoch can be trained anew.
    ///
    /// # Panics
    /// While another is being written.
    pub fn write(&mut self, checkpoint: Checkpoint, started: Instant) {
        let place = (checkpoint.state.epoch, checkpoint.state.batch);
        let keeps_last = self.newest.is_some_and(|(old, done)| old != place.0 || done == 0);
        let [last, previous, next] = [LAST, PREVIOUS, NEXT].map(|name| self.dir.join(name));
        let identity = self.identity.clone();
        self.writing.start(move || {
            checkpoint::write(&next, identity, checkpoint)?;
            if keeps_last {
                files::rename(&last, &previous)?;
            }
            files::rename(&next, &last)?;
            Ok(Written { place, at: Instant::now(), cost: started.elapsed() })
        });
        self.spent += started.elapsed();
    }

    /// The checkpoint that was being written is on the disk, or will never be: [`Keeper::settle`] need not wait.
    pub fn is_done(&self) -> bool {
        self.writing.is_done()
    }

    /// Waits for the checkpoint that is being written, if one is; its epoch and its batch.
    ///
    /// # Errors
    /// A user error where the disk takes no more; the older ones are whole then.
    pub fn settle(&mut self) -> Result<Option<(usize, usize)>> {
        let waiting = Instant::now();
        let settled = self.writing.settle();
        self.spent += waiting.elapsed();
        let Some(Written { place, at, cost }) = settled? else { return Ok(None) };
        (self.newest, self.written, self.cost) = (Some(place), at, cost);
        Ok(Some(place))
    }

    /// Removes the checkpoints: of a training that is over, or of another one.
    ///
    /// # Panics
    /// While one is being written.
    pub fn clear(&mut self) {
        assert!(!self.writing.is_unsettled(), "settled before");
        for path in [LAST, PREVIOUS, NEXT].map(|name| self.dir.join(name)) {
            let _ = std::fs::remove_file(path);
        }
        self.newest = None;
    }
}

/// Whether a checkpoint is due so long after the last one was on the disk, which took so much from its making on. A crash loses
/// what was trained since the last one was made: at most `every` or [`LEAST_TIMES_COST`] times the cost, whichever is more, what
/// two of them take to be written, and a step or a validation.
fn is_due(since: Duration, cost: Duration, every: Duration, at_epochs_end: bool) -> bool {
    let affordable = cost * LEAST_TIMES_COST;
    every.is_zero() || since >= if at_epochs_end { affordable } else { every.max(affordable) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{EarlyStopping, Plateau};

    /// One of an epoch of which so many batches are done.
    fn checkpoint(epoch: usize, batch: usize) -> Checkpoint {
        let state = State { epoch, batch, ..State::new(Plateau::new(1e-3, 1e-6, 7), EarlyStopping::new(15)) };
        Checkpoint { state, buffers: [("weights".to_string(), vec![epoch as f32])].into_iter().collect() }
    }

    fn keeper(dir: &Path, every: Duration) -> Keeper {
        let identity = Identity {
            settings: serde_json::Value::Null,
            data: Default::default(),
            initial: None,
            patches: None,
        };
        Keeper::new(dir, identity, every)
    }

    #[test]
    fn what_is_being_written_is_there_once_it_is_settled() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut keeper = keeper(dir.path(), Duration::from_nanos(1));
        keeper.write(checkpoint(1, 3), Instant::now());
        assert!(!keeper.is_due() && !keeper.is_due_after_epoch(), "one at a time");
        assert_eq!(keeper.settle().expect("a checkpoint"), Some((1, 3)));
        let (_, written) = keeper.read(LAST).expect("a file");
        assert_eq!(written, checkpoint(1, 3));
        assert!(!keeper.is_done() && keeper.settle().expect("nothing").is_none(), "told once");
        keeper.write(checkpoint(1, 4), Instant::now());
        drop(keeper);
        let (_, written) = load(&dir.path().join(LAST)).expect("a file");
        assert_eq!(written.state.batch, 4, "who leaves the directory has done with it");
    }

    #[test]
    fn a_disk_that_takes_no_checkpoint_is_told_of_when_it_is_settled() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut keeper = keeper(dir.path(), Duration::ZERO);
        keeper.write(checkpoint(1, 0), Instant::now());
        keeper.settle().expect("a checkpoint");
        // A directory in the way of the file.
        std::fs::create_dir(dir.path().join(NEXT)).expect("a directory");
        keeper.write(checkpoint(2, 0), Instant::now());
        let said = keeper.settle().expect_err("refused").to_string();
        assert!(said.contains(NEXT), "{said}");
        let (_, last) = keeper.read(LAST).expect("the one before");
        assert_eq!(last.state.epoch, 1);
    }

    #[test]
    fn what_diverged_is_not_kept_as_the_previous_checkpoint() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut keeper = keeper(dir.path(), Duration::ZERO);
        let write = |keeper: &mut Keeper, epoch, batch| {
            keeper.write(checkpoint(epoch, batch), Instant::now());
            assert_eq!(keeper.settle().expect("a checkpoint"), Some((epoch, batch)));
        };
        write(&mut keeper, 1, 0);
        write(&mut keeper, 3, 5);
        assert_eq!(keeper.before(3).expect("the first").state.epoch, 1);
        write(&mut keeper, 1, 0);
        let (_, previous) = keeper.read(PREVIOUS).expect("a file");
        assert_eq!((previous.state.epoch, previous.state.batch), (1, 0), "epoch 3 diverged");
    }

    /// What README says of a crash.
    #[test]
    fn checkpoints_come_with_every_epoch_unless_they_cost_a_fiftieth_of_the_time() {
        let due = |since: u64, cost: u64, at_epochs_end| {
            let (every, seconds) = (Duration::from_secs(300), Duration::from_secs);
            is_due(seconds(since), seconds(cost), every, at_epochs_end)
        };
        assert!(due(100, 2, true) && !due(99, 2, true), "an epoch's end, 50 times 2 s after the last");
        assert!(due(300, 2, false) && !due(299, 2, false), "within an epoch, every five minutes");
        assert!(due(500, 10, false) && !due(499, 10, false), "a slow disk");
        assert!(is_due(Duration::ZERO, Duration::from_secs(9), Duration::ZERO, false), "after every step");
    }
}
