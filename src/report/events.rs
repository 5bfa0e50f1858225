//! `--json`: what happens, for programs: one JSON object a line on standard output. README describes the events; a
//! change that a reader could trip over raises [`VERSION`].

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::report::config_json::BestEpoch;
use crate::report::metrics::EpochRow;

/// Of the events' form.
pub const VERSION: u32 = 3;

/// Something that happened. Numbers that are not finite are `null`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// `run`: what will be done about an experiment.
    Planned {
        /// Of the events' form.
        version: u32,
        /// `train` or `keep`.
        action: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A training starts.
    Started {
        /// Of the events' form.
        version: u32,
        /// Of the program.
        rosette: &'a str,
        /// The adapter.
        device: &'a str,
        /// Trainable ones.
        total_parameters: u64,
        /// How many there are.
        train_samples: usize,
        /// How many there are.
        val_samples: usize,
        /// At most.
        num_epochs: usize,
        /// Where everything is written.
        output_dir: &'a Path,
    },
    /// The device's memory does not hold a batch, which is trained in parts.
    MicroBatch {
        /// On the device at once, at most.
        patches: usize,
        /// Device memory that was planned for it, with the training samples.
        planned_bytes: u64,
        /// Why.
        reason: &'a str,
    },
    /// It goes on from a checkpoint.
    Resumed {
        /// In which it goes on.
        epoch: usize,
        /// Optimiser steps of it that are done.
        step: usize,
    },
    /// It diverged, and went back to a checkpoint; from the epoch that diverged on, the learning rate is half of what it
    /// was.
    RolledBack {
        /// That diverged.
        epoch: usize,
        /// So often the learning rate has been halved.
        halvings: usize,
        /// Of that epoch's next attempt, at its start.
        learning_rate: f64,
        /// What was wrong, with the batch and its samples.
        reason: &'a str,
    },
    /// Now and then within an epoch, and after its last step.
    Step {
        /// Counted from 1.
        epoch: usize,
        /// Optimiser steps of the epoch that are done.
        step: usize,
        /// Optimiser steps that it has.
        steps: usize,
        /// Their mean loss so far.
        loss: f64,
        /// Speed in this epoch.
        patches_per_second: f64,
    },
    /// An epoch has been validated.
    Epoch {
        /// Whether its weights will be kept: [`Event::Weights`] tells when.
        is_best: bool,
        /// The columns of metrics.csv.
        #[serde(flatten)]
        row: &'a EpochRow,
    },
    /// `best_model.pth` has been written.
    Weights {
        /// Whose they are.
        epoch: usize,
        /// Of the file.
        sha256: &'a str,
    },
    /// A checkpoint has been written.
    Checkpoint {
        /// In progress when it was made.
        epoch: usize,
        /// Optimiser steps of it that are done.
        step: usize,
    },
    /// Validation images have been drawn.
    Overlay {
        /// With whose weights.
        epoch: usize,
        /// The picture.
        path: &'a Path,
    },
    /// A training is over.
    Finished {
        /// The epoch whose weights were kept.
        best: &'a BestEpoch,
        /// Epochs trained.
        epochs_trained: usize,
        /// Where everything was written.
        output_dir: &'a Path,
    },
    /// `run`: all is done. The objects have the columns of experiment_summary.csv.
    Summary {
        /// One for each experiment.
        experiments: serde_json::Value,
        /// The names of those that failed.
        failed: Vec<&'a str>,
    },
    /// What ended the command or, within `run`, an experiment.
    Error {
        /// In words.
        message: String,
        /// Of the process, where this ended it.
        exit_code: u8,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    experiment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a str>,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// What events, and lines for people, are about: `experiment` or `experiment/member`.
pub fn label(experiment: &str, member: Option<&str>) -> String {
    match member {
        Some(member) => format!("{experiment}/{member}"),
        None => experiment.to_string(),
    }
}

/// The event's line: the time, the experiment and its member (of a [`label`]) where there are such, and its own fields.
pub fn line(label: Option<&str>, event: &Event) -> String {
    let (experiment, member) = match label.and_then(|label| label.split_once('/')) {
        Some((experiment, member)) => (Some(experiment), Some(member)),
        None => (label, None),
    };
    let time = jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string();
    serde_json::to_string(&Line { time, experiment, member, event }).expect("an event is numbers and text")
}

/// Writes an event to standard output.
pub fn emit(label: Option<&str>, event: &Event) {
    print(&line(label, event));
}

/// Writes a line to standard output, at once and whole.
pub fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody reads a closed pipe: the training goes on.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}
