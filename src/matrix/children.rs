//! Experiments spread over several adapters of the machine: each in a process of its own, since a lost device or a
//! driver's crash must take only its own experiment with it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::plan::Planned;
use super::run::{MatrixRun, announce, failed};
use crate::error::{Error, Result, STOPPED_EXIT_CODE};
use crate::files::this_program;
use crate::gpu::is_device_gone;
use crate::report::Mode;
use crate::report::progress::print_line;
use crate::train::{is_unsound, listen_for_signals, stop_is_requested};

/// How often a worker looks for a signal, or whether its training has ended.
const GLANCE: Duration = Duration::from_millis(50);

/// A training to be done.
#[derive(Clone)]
struct Job<'a> {
    /// From 1, of all.
    number: usize,
    planned: &'a Planned,
    /// The adapter that was lost, or whose driver crashed, when it was trained there.
    broke: Option<&'a str>,
}

/// What the workers share.
struct State<'a> {
    queue: VecDeque<Job<'a>>,
    /// Trainings that are under way, and may come back to the queue.
    running: usize,
    /// Workers whose adapter has not been lost.
    workers: usize,
    failures: Vec<(String, Error)>,
}

struct Workshop<'a> {
    state: Mutex<State<'a>>,
    changed: Condvar,
}

/// Before the error of a training that this program has started: drivers, too, write lines that begin with `error:`.
pub const CHILD_ERROR: &str = "rosette's error: ";

/// How a training's process ended that did not finish its work.
#[derive(Debug)]
struct End {
    error: Error,
    /// The device was lost or computes wrongly, or the process crashed or was killed: another adapter may do it.
    is_broken: bool,
    /// The process has said it itself, as an event too where events are wanted.
    is_told: bool,
}

impl End {
    /// Of a training that could not even be started.
    fn unstarted(error: Error) -> Self {
        Self { error, is_broken: false, is_told: false }
    }
}

/// Trains with one worker for each adapter; the failures.
///
/// An experiment whose device is lost, or whose process crashes, goes back to the queue, and that adapter is used no more,
/// while there is another one. At the second time it is the experiment that fails.
///
/// # Errors
/// [`Error::Stopped`] where a signal came.
pub fn train_on_adapters(run: &MatrixRun, todo: &[&Planned]) -> Result<Vec<(String, Error)>> {
    listen_for_signals();
    let jobs = (1..).zip(todo).map(|(number, planned)| Job { number, planned, broke: None });
    let state =
        State { queue: jobs.collect(), running: 0, workers: run.adapters.len(), failures: Vec::new() };
    let workshop = Workshop { state: Mutex::new(state), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for adapter in &run.adapters {
            let workshop = &workshop;
            scope.spawn(move || {
                while let Some(job) = workshop.take() {
                    announce(run, job.planned, job.number, todo.len());
                    let outcome = train_child(run, job.planned, adapter);
                    if !workshop.settle(run, job, adapter, outcome) {
                        return;
                    }
                }
            });
        }
    });
    if stop_is_requested() {
        return Err(Error::Stopped(
            "stopped by a signal and saved: the same command goes on from there".into(),
        ));
    }
    Ok(workshop.state.into_inner().unwrap_or_else(PoisonError::into_inner).failures)
}

impl<'a> Workshop<'a> {
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next training; none where a signal came, or nothing is left that could come back.
    fn take(&self) -> Option<Job<'a>> {
        let mut state = self.lock();
        loop {
            if stop_is_requested() {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                state.running += 1;
                return Some(job);
            }
            if state.running == 0 {
                return None;
            }
            let waited = self.changed.wait_timeout(state, GLANCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes note of how a training ended; whether its adapter may go on.
    fn settle(
        &self,
        run: &MatrixRun,
        job: Job<'a>,
        adapter: &'a str,
        outcome: std::result::Result<(), End>,
    ) -> bool {
        let mut state = self.lock();
        state.running -= 1;
        self.changed.notify_all();
        let label = job.planned.label();
        match outcome {
            Ok(()) => true,
            Err(End { error, is_broken: true, .. }) if job.broke.is_none() && state.workers > 1 => {
                state.workers -= 1;
                state.queue.push_front(Job { broke: Some(adapter), ..job });
                print_line(&format!(
                    "{label}: {error}: it goes on elsewhere, and adapter {adapter} is used no more in this run"
                ));
                false
            }
            Err(End { error, is_told, .. }) => {
                let error = match job.broke {
                    Some(first) => {
                        Error::failure(format!("after adapter {first}, on {adapter} too: {error}"))
                    }
                    None => error,
                };
                state.failures.push(failed(run, &label, error, is_told));
                true
            }
        }
    }
}

fn train_child(run: &MatrixRun, planned: &Planned, adapter: &str) -> std::result::Result<(), End> {
    let failure = |what: String| End::unstarted(Error::failure(what));
    let mut command = command(run, planned, adapter).map_err(End::unstarted)?;
    let mut child = command.spawn().map_err(|e| failure(format!("starting a training: {e}")))?;
    let said = std::thread::scope(|scope| {
        let stderr = child.stderr.take().expect("it is piped");
        let reader = scope.spawn(|| relay(&planned.label(), stderr));
        wait(&mut child);
        reader.join().expect("reading lines does not panic")
    });
    let status = child.wait().map_err(|e| failure(format!("waiting for a training: {e}")))?;
    end_of(status, said)
}

fn command(run: &MatrixRun, planned: &Planned, adapter: &str) -> Result<Command> {
    let experiment = &planned.experiment;
    let mut command = Command::new(this_program()?);
    command.arg("train").arg("--config").arg(&run.config).args(["--experiment-name", &experiment.name]);
    command.arg("--split-manifest").arg(run.manifest_path(planned)).arg("--data-dir").arg(&run.data_dir);
    command.arg("--output-dir").arg(run.dir(planned)).arg("--log-file").arg(run.log_path(planned));
    command.args(["--no-timestamp", "--until-stdin-ends", "--adapter", adapter]);
    command.args(run.overrides.iter().flat_map(|setting| ["--override", setting]));
    if let Some(member) = &planned.member {
        let seed = format!("seed={}", experiment.training.seed);
        command.args(["folds=1", "seeds=[]", &seed].iter().flat_map(|setting| ["--override", setting]));
        command.args(["--member", member]);
    }
    // Events pass through: each line of them is written at once.
    let stdout = if run.mode == Mode::Json { Stdio::inherit() } else { Stdio::null() };
    match run.mode {
        Mode::Json => drop(command.arg("--json")),
        Mode::Quiet => drop(command.arg("--quiet")),
        Mode::Bar | Mode::Plain => {}
    }
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    Ok(command)
}

/// What a process's end means; `said` is its error, where it said one.
fn end_of(status: ExitStatus, said: Option<String>) -> std::result::Result<(), End> {
    match status.code() {
        Some(0) => return Ok(()),
        Some(code) if code == i32::from(STOPPED_EXIT_CODE) && stop_is_requested() => return Ok(()),
        _ => {}
    }
    // A lost device can end the process in many ways, a panic of wgpu's among them, in which it says no error of its own.
    let is_told = said.is_some();
    let message = said.unwrap_or_else(|| format!("its process ended without an error of its own ({status})"));
    let exit_code = if status.code() == Some(2) { 2 } else { 1 };
    let is_broken = !is_told || is_device_gone(&message) || is_unsound(&message);
    Err(End { error: Error::Relayed { message, exit_code }, is_broken, is_told })
}

/// Prints a training's lines after its name; returns its error, which the caller tells.
fn relay(name: &str, lines: impl Read) -> Option<String> {
    let mut error: Option<String> = None;
    for line in BufReader::new(lines).lines().map_while(std::result::Result::ok) {
        match (&mut error, line.strip_prefix(CHILD_ERROR)) {
            (None, Some(text)) => error = Some(text.to_string()),
            // It is the last thing that a process says.
            (Some(error), _) => {
                error.push('\n');
                error.push_str(&line);
            }
            (None, None) => print_line(&format!("{name}: {line}")),
        }
    }
    error
}

/// Waits for the process. A signal is handed on by the end of its standard input, as is this process's own end, which
/// all systems know; a second Ctrl-C, which the whole group hears, ends it at once.
fn wait(child: &mut Child) {
    while matches!(child.try_wait(), Ok(None)) {
        if stop_is_requested() {
            drop(child.stdin.take());
        }
        std::thread::sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_training_is_told_whole_and_once() {
        let lines = "error: XDG_RUNTIME_DIR is invalid\nepoch 1/2: step 1\n\
                     rosette's error: a.yaml: expected a number, found text\n  help: give a number\n";
        let said = relay("tiny", lines.as_bytes());
        assert_eq!(said.as_deref(), Some("a.yaml: expected a number, found text\n  help: give a number"));
        assert_eq!(relay("tiny", "epoch 1/2\n".as_bytes()), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_lost_device_and_a_crash_are_told_from_a_training_that_failed() {
        use std::os::unix::process::ExitStatusExt;
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let end = |status, said: Option<&str>| {
            let end = end_of(status, said.map(str::to_string)).expect_err("it did not finish");
            (end.is_broken, end.error.exit_code())
        };
        assert!(end_of(exited(0), None).is_ok());
        assert_eq!(end(exited(2), Some("a key")), (false, 2));
        assert_eq!(end(exited(1), Some("the loss is no number")), (false, 1));
        let lost = crate::gpu::device_lost("a fault").to_string();
        assert_eq!(end(exited(1), Some(&lost)), (true, 1));
        // Else it would take all experiments, one after the other, while the others train.
        let wrong = "a GPU (vulkan, discrete GPU) computes wrongly in f32, or refuses to";
        assert_eq!(end(exited(1), Some(wrong)), (true, 1));
        // A panic, as wgpu's own at a lost device, and a kill.
        assert_eq!(end(exited(101), None), (true, 1));
        assert_eq!(end(ExitStatus::from_raw(9), None), (true, 1));
    }
}
