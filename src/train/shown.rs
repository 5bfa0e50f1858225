//! What a training shows of itself while it runs: curves, pictures of validation images, a page, TensorBoard's events.
//! Nothing here has an influence on what it learns; what it costs is counted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::predict::probabilities;
use super::session::Session;
use crate::config::{Experiment, ReportConfig};
use crate::data::loader::Dataset;
use crate::error::{Error, Result};
use crate::files;
use crate::report::experiment_page::{self, overlay_path, overlays};
use crate::report::tensorboard::{EventFile, event_files};
use crate::report::{EpochRow, Event, Prediction, Progress, RunRecord, overlay, plots};

/// Validation images in the last picture, ...
const PICTURED: usize = 4;
/// ... and in those on the way, for which the training waits.
const PICTURED_ON_THE_WAY: usize = 2;
/// While a training runs, curves and page are made anew at most this often, ...
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// ... and so seldom that they take at most this share of the time.
const MOST_SHARE: u32 = 100;

/// The output directory of a training, seen from here.
pub struct Shown {
    dir: std::path::PathBuf,
    settings: ReportConfig,
    events: Option<EventFile>,
    refreshed: Instant,
    cost: Duration,
    /// Time spent here so far.
    pub spent: Duration,
}

impl Shown {
    /// Starts with the epoch `from`: what an earlier training, or this one before it was cut off, showed of later epochs
    /// is removed.
    ///
    /// # Errors
    /// A user error where the directory takes no file.
    pub fn start(dir: &Path, settings: &ReportConfig, from: usize) -> Result<Self> {
        let (dir, settings) = (dir.to_path_buf(), settings.clone());
        let (refreshed, cost, spent) = (Instant::now(), Duration::ZERO, Duration::ZERO);
        let mut this = Self { dir, settings, events: None, refreshed, cost, spent };
        this.rewind(from)?;
        Ok(this)
    }

    /// Forgets the epoch `from` and those after it, which will be trained again.
    ///
    /// # Errors
    /// As [`Shown::start`].
    pub fn rewind(&mut self, from: usize) -> Result<()> {
        for (_, path) in overlays(&self.dir).into_iter().filter(|(epoch, _)| *epoch >= from) {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, "a file to remove", &e))?;
        }
        self.events = None;
        if from <= 1 && !self.settings.tensorboard {
            forget_events(&self.dir)?;
        }
        if self.settings.tensorboard {
            // Steps count from 1: below it is nothing to keep.
            let keep_below = if from > 1 { from } else { 0 };
            self.events = Some(EventFile::open(&self.dir.join("tensorboard"), keep_below)?);
        }
        Ok(())
    }

    /// An epoch is over.
    ///
    /// # Errors
    /// A user error where the disk takes no more.
    pub fn epoch(
        &mut self,
        experiment: &Experiment,
        session: &mut Session,
        val: &Arc<Dataset>,
        row: &EpochRow,
        progress: &Progress,
    ) -> Result<()> {
        let started = Instant::now();
        self.events.as_mut().map_or(Ok(()), |events| events.scalars(row))?;
        let every = self.settings.overlay_every;
        if every > 0 && row.epoch.is_multiple_of(every) {
            let path = overlay_path(&self.dir, row.epoch);
            write_pictures(&path, experiment, session, val, PICTURED_ON_THE_WAY)?;
            self.picture_event(row.epoch, &path)?;
            progress.event(&Event::Overlay { epoch: row.epoch, path: &path });
        }
        self.spent += started.elapsed();
        Ok(())
    }

    /// Draws curves and page anew, where it is time to.
    ///
    /// # Errors
    /// A user error where the disk takes no more.
    pub fn refresh(&mut self, record: &RunRecord, rows: &[EpochRow], now: bool) -> Result<()> {
        if !now && self.refreshed.elapsed() < REFRESH_EVERY.max(self.cost * MOST_SHARE) {
            return Ok(());
        }
        let started = Instant::now();
        plots::write_training_plots(&self.dir.join("training_plots.png"), &record.experiment_name, rows)?;
        experiment_page::write(&self.dir, record, rows)?;
        (self.refreshed, self.cost) = (Instant::now(), started.elapsed());
        self.spent += self.cost;
        Ok(())
    }

    /// Draws the validation images with the weights that were kept; `last` is the last epoch that was trained.
    ///
    /// # Errors
    /// A user error where the disk takes no more.
    pub fn finish(
        &mut self,
        experiment: &Experiment,
        session: &mut Session,
        val: &Arc<Dataset>,
        last: usize,
    ) -> Result<()> {
        let started = Instant::now();
        let path = self.dir.join("predictions.png");
        write_pictures(&path, experiment, session, val, PICTURED)?;
        // Steps never go back in an event file, and each has one picture.
        if !overlay_path(&self.dir, last).exists() {
            self.picture_event(last, &path)?;
        }
        self.spent += started.elapsed();
        Ok(())
    }

    fn picture_event(&mut self, epoch: usize, path: &Path) -> Result<()> {
        let Some(events) = &mut self.events else { return Ok(()) };
        events.picture(epoch, &files::read_bytes(path)?)
    }
}

fn write_pictures(
    path: &Path,
    experiment: &Experiment,
    session: &mut Session,
    val_set: &Arc<Dataset>,
    most: usize,
) -> Result<()> {
    let few: Vec<_> = val_set.samples().iter().take(most).cloned().collect();
    let few = Arc::new(Dataset::new(few));
    let probabilities = probabilities(session, &few, experiment.training.batch_size)?;
    let pictures: Vec<Prediction> = few
        .samples()
        .iter()
        .zip(&probabilities)
        .map(|(sample, probability)| Prediction {
            name: &sample.name,
            height: sample.height,
            width: sample.width,
            boundary: &sample.boundary,
            cells: &sample.cells,
            intensity: sample.intensity.as_deref(),
            target: &sample.target,
            probability,
        })
        .collect();
    overlay::write_predictions(path, &pictures, most)
}

/// Removes what a training that has been moved out of the way showed of itself on the way.
///
/// # Errors
/// A user error where it cannot be removed.
pub fn forget_shown(dir: &Path) -> Result<()> {
    forget(dir.join("overlays"), overlays(dir).into_iter().map(|(_, path)| path))?;
    forget_events(dir)
}

fn forget_events(dir: &Path) -> Result<()> {
    let dir = dir.join("tensorboard");
    let files = event_files(&dir);
    forget(dir, files)
}

/// Removes these files, and the directory where nothing else is in it.
fn forget(dir: PathBuf, files: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    for path in files {
        std::fs::remove_file(&path).map_err(|e| Error::io(&path, "a file to remove", &e))?;
    }
    let _ = std::fs::remove_dir(dir);
    Ok(())
}
