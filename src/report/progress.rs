//! Progress of a training: a bar with the time left, the speed and the loss where standard error is a terminal; plain
//! lines where it is a file or a pipe, one per epoch and one now and then in long epochs; events for programs with
//! `--json`; nothing when quiet.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::report::events::{self, Event};
use crate::report::metrics::EpochRow;

/// Between two plain lines within an epoch, unless told otherwise.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);
/// Between two events of steps within an epoch.
const STEP_EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// The terminal's bars. One for the process: whatever else writes to the terminal must know where they are.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A bar, redrawn in place.
    Bar,
    /// Lines.
    Plain,
    /// Events on standard output, one JSON object a line.
    Json,
    /// Nothing.
    Quiet,
}

impl Mode {
    /// A bar on a terminal, lines elsewhere, nothing with `--quiet`.
    pub fn detect(quiet: bool) -> Self {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Bar,
            (false, false) => Self::Plain,
        }
    }

    /// As [`Mode::detect`], or events where `json` asks for them.
    pub fn choose(quiet: bool, json: bool) -> Self {
        if json { Self::Json } else { Self::detect(quiet) }
    }

    /// Whether lines for people are shown.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Bar | Self::Plain)
    }
}

/// Writes a line to standard error above the bar, if there is one.
pub fn print_line(line: &str) {
    BARS.suspend(|| {
        // Nobody reads a closed pipe: the training goes on.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    });
}

/// Where the lines go.
type Sink = Box<dyn FnMut(&str) + Send>;

/// The progress of one training.
pub struct Progress {
    mode: Mode,
    label: String,
    total_epochs: usize,
    sink: Mutex<Sink>,
    bar: Option<ProgressBar>,
    epoch: usize,
    steps: usize,
    epochs_finished: usize,
    training_seconds: f64,
    last_line: Instant,
    interval: Duration,
}

impl Progress {
    /// Progress of a training of at most `total_epochs` epochs: on standard error, events on standard output.
    pub fn new(mode: Mode, total_epochs: usize) -> Self {
        let sink = if mode == Mode::Json { events::print } else { print_line };
        Self::with_sink(mode, total_epochs, Box::new(sink))
    }

    /// As [`Progress::new`], with the lines going elsewhere.
    pub fn with_sink(mode: Mode, total_epochs: usize, sink: Sink) -> Self {
        Self {
            mode,
            label: String::new(),
            total_epochs,
            sink: Mutex::new(sink),
            bar: None,
            epoch: 0,
            steps: 0,
            epochs_finished: 0,
            training_seconds: 0.0,
            last_line: Instant::now(),
            interval: if mode == Mode::Json { STEP_EVENT_INTERVAL } else { PLAIN_INTERVAL },
        }
    }

    /// Events are of this experiment, or member of one ([`events::label`]).
    pub fn of(mut self, label: &str) -> Self {
        self.label = label.to_string();
        self
    }

    /// Tells programs what happened; people are told by the other functions.
    pub fn event(&self, event: &Event) {
        if self.mode == Mode::Json {
            self.line(&events::line(Some(&self.label), event));
        }
    }

    /// Plain lines within an epoch come at least `interval` apart.
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Epoch `epoch`, counted from 1, starts and will take `steps` optimiser steps.
    pub fn epoch_started(&mut self, epoch: usize, steps: usize) {
        (self.epoch, self.steps, self.last_line) = (epoch, steps, Instant::now());
        if self.mode == Mode::Bar {
            let style = "{prefix} {wide_bar} {pos}/{len} steps, {msg}";
            let style = ProgressStyle::with_template(style).expect("the template is well-formed");
            let bar = BARS.add(ProgressBar::new(steps as u64).with_style(style));
            bar.set_prefix(format!("epoch {epoch}/{}", self.total_epochs));
            bar.set_message("first step");
            self.bar = Some(bar);
        }
    }

    /// `done` steps of the epoch are done; `loss` is their mean so far.
    pub fn step(&mut self, done: usize, loss: f64, patches_per_second: f64) {
        let state = format!("loss {loss:.4}, {patches_per_second:.1} patches/s");
        match (&self.bar, self.mode) {
            (Some(bar), _) => {
                let steps_left = self.steps.saturating_sub(done) as f64;
                let seconds_left = bar.elapsed().as_secs_f64() / done.max(1) as f64 * steps_left;
                // The message first: every change of the position is a chance to draw both.
                bar.set_message(format!("{} left, {state}", duration(seconds_left)));
                bar.set_position(done as u64);
            }
            (None, Mode::Json)
                if self.last_line.elapsed() >= self.interval || done == 1 || done == self.steps =>
            {
                self.last_line = Instant::now();
                let (epoch, steps) = (self.epoch, self.steps);
                self.event(&Event::Step { epoch, step: done, steps, loss, patches_per_second });
            }
            (None, Mode::Plain) if self.last_line.elapsed() >= self.interval => {
                self.last_line = Instant::now();
                let (epoch, total, steps) = (self.epoch, self.total_epochs, self.steps);
                self.line(&format!("epoch {epoch}/{total}: step {done}/{steps}, {state}"));
            }
            _ => {}
        }
    }

    /// The epoch's steps are done, the validation starts.
    pub fn validation_started(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("validating");
        }
    }

    /// The epoch is over; `is_best` where its weights are kept.
    pub fn epoch_finished(&mut self, row: &EpochRow, is_best: bool) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            BARS.remove(&bar);
        }
        self.epochs_finished += 1;
        self.training_seconds += row.seconds;
        self.event(&Event::Epoch { is_best, row });
        if self.mode.is_for_people() {
            self.line(&self.summary(row, is_best));
        }
    }

    /// Something to be told before or between the epochs.
    pub fn message(&self, text: &str) {
        if self.mode.is_for_people() {
            self.line(text);
        }
    }

    fn line(&self, text: &str) {
        let mut sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sink(text);
    }

    fn summary(&self, row: &EpochRow, is_best: bool) -> String {
        let mut line = format!(
            "epoch {}/{}: loss {:.4}, validation loss {:.4}, IoU {:.4}, F1 {:.4}, {:.1} patches/s, {}",
            row.epoch,
            self.total_epochs,
            row.train_loss,
            row.val_loss,
            row.val_iou,
            row.val_f1,
            row.patches_per_second,
            duration(row.seconds),
        );
        let left = self.total_epochs.saturating_sub(row.epoch);
        if left > 0 {
            let seconds = self.training_seconds / self.epochs_finished as f64 * left as f64;
            let _ = write!(line, ", at most {} left", duration(seconds));
        }
        if is_best {
            line.push_str(" *best");
        }
        line
    }
}

/// `42 s`, `3 min 20 s`, `5 h 07 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// The progress of work in several pieces, such as images, one after the other: what came of one may be told while the next is
/// worked on.
#[derive(Debug)]
pub struct Work {
    mode: Mode,
    pieces: usize,
    unit: &'static str,
    begun: usize,
    told: usize,
    bar: Option<ProgressBar>,
}

impl Work {
    /// Work on so many pieces, each of which takes some of the `unit`, such as "windows".
    pub fn new(mode: Mode, pieces: usize, unit: &'static str) -> Self {
        Self { mode, pieces, unit, begun: 0, told: 0, bar: None }
    }

    /// Something to be told beforehand.
    pub fn message(&self, text: &str) {
        if self.mode.is_for_people() {
            print_line(text);
        }
    }

    /// A piece starts; it takes so many units.
    pub fn started(&mut self, name: &str, units: usize) {
        self.begun += 1;
        if self.mode == Mode::Bar {
            let style = "{prefix} {wide_bar} {pos}/{len} {msg}, {eta} left";
            let style = ProgressStyle::with_template(style).expect("the template is well-formed");
            let bar = BARS.add(ProgressBar::new(units as u64).with_style(style));
            bar.set_message(self.unit);
            bar.set_prefix(format!("{}/{} {name}", self.begun, self.pieces));
            self.bar = Some(bar);
        }
    }

    /// Some units are done.
    pub fn advance(&self, units: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(units as u64);
        }
    }

    /// The piece has had its units.
    pub fn worked(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            BARS.remove(&bar);
        }
    }

    /// What came of the next piece of which nothing was told so far.
    pub fn told(&mut self, line: &str) {
        self.told += 1;
        if self.mode.is_for_people() {
            print_line(&format!("[{}/{}] {line}", self.told, self.pieces));
        }
    }

    /// The piece is done; `line` says what came of it.
    pub fn finished(&mut self, line: &str) {
        self.worked();
        self.told(line);
    }
}
