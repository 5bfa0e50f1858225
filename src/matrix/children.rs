//! Experiments spread over several adapters of the machine: each in a process of its own, since a lost device or a
//! driver's crash must take only its own experiment with it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::run::{MatrixRun, Planned, announce, failed};
use crate::error::{Error, Result, STOPPED_EXIT_CODE};
use crate::report::Mode;
use crate::report::progress::print_line;
use crate::train::{listen_for_signals, stop_is_requested};

/// Trains with one worker for each adapter; the failures.
pub fn train_on_adapters(run: &MatrixRun, todo: &[&Planned]) -> Result<Vec<(String, Error)>> {
    listen_for_signals();
    let queue: Mutex<VecDeque<(usize, &Planned)>> = Mutex::new(todo.iter().copied().enumerate().collect());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for adapter in &run.adapters {
            let (queue, failures) = (&queue, &failures);
            scope.spawn(move || {
                while !stop_is_requested() {
                    let Some((at, planned)) = queue.lock().expect("no panic while it is held").pop_front()
                    else {
                        return;
                    };
                    announce(run, planned, at + 1, todo.len());
                    if let Err(error) = train_child(run, planned, adapter) {
                        let failure = failed(run, &planned.label(), error);
                        failures.lock().expect("no panic while it is held").push(failure);
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
    Ok(failures.into_inner().expect("every worker has ended"))
}

fn train_child(run: &MatrixRun, planned: &Planned, adapter: &str) -> Result<()> {
    let experiment = &planned.experiment;
    let program =
        std::env::current_exe().map_err(|e| Error::failure(format!("this program's own path: {e}")))?;
    let mut command = Command::new(program);
    command.arg("train").arg("--config").arg(&run.config).args(["--experiment-name", &experiment.name]);
    command.arg("--split-manifest").arg(run.manifest_path(planned)).arg("--data-dir").arg(&run.data_dir);
    command.arg("--output-dir").arg(run.dir(planned)).arg("--log-file").arg(run.log_path(planned));
    command.args(["--no-timestamp", "--adapter", adapter]);
    command.args(run.overrides.iter().flat_map(|setting| ["--override", setting]));
    if planned.member.is_some() {
        let seed = format!("seed={}", experiment.training.seed);
        command.args(["folds=1", "seeds=[]", &seed].iter().flat_map(|setting| ["--override", setting]));
    }
    // Events pass through: each line of them is written at once.
    let stdout = match run.mode {
        Mode::Json => {
            command.arg("--json");
            Stdio::inherit()
        }
        _ => Stdio::null(),
    };
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| Error::failure(format!("starting a training: {e}")))?;
    let last = std::thread::scope(|scope| {
        let stderr = child.stderr.take().expect("it is piped");
        let reader = scope.spawn(|| relay(&planned.label(), stderr));
        wait(&mut child);
        reader.join().expect("reading lines does not panic")
    });
    let status = child.wait().map_err(|e| Error::failure(format!("waiting for a training: {e}")))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(STOPPED_EXIT_CODE) && stop_is_requested() => Ok(()),
        Some(2) => {
            Err(Error::user(planned.label(), "a training that can start", last, "mend it and run again"))
        }
        _ => Err(Error::failure(format!("{last} ({status})"))),
    }
}

/// Prints a training's lines after its name; the last of its error.
fn relay(name: &str, lines: impl Read) -> String {
    let mut error = String::from("it ended without a word");
    for line in BufReader::new(lines).lines().map_while(std::result::Result::ok) {
        print_line(&format!("{name}: {line}"));
        if let Some(text) = line.strip_prefix("error: ") {
            error = text.to_string();
        }
    }
    error
}

/// Waits for the process, and hands a signal on that only this one was sent.
fn wait(child: &mut Child) {
    let mut told = false;
    while matches!(child.try_wait(), Ok(None)) {
        if stop_is_requested() && !told {
            told = true;
            hand_on(child);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(unix)]
fn hand_on(child: &Child) {
    use nix::sys::signal::{Signal, kill};
    // Ctrl-C went to the whole group: a second signal would end the child without saving. It has a moment to leave.
    std::thread::sleep(Duration::from_millis(500));
    if let Ok(id) = i32::try_from(child.id()) {
        let _ = kill(nix::unistd::Pid::from_raw(id), Signal::SIGTERM);
    }
}

#[cfg(not(unix))]
fn hand_on(_: &Child) {}
