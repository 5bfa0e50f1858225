//! The log: every event from level INFO on goes, with a timestamp and without colours, into each log file that is
//! open; warnings and errors also go to the terminal. `RUST_LOG` (e.g. `rosette=debug`) changes what the files get.
//!
//! The subscriber of the process is installed once; files come and go with their [`LogGuard`], so that one process
//! can run several trainings one after the other, each with a log of its own.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::prelude::*;

use crate::error::{Error, Result};
use crate::files;
use crate::report::progress;

/// The open log files, by the number of their guard.
static FILES: Mutex<Vec<(u64, Arc<File>)>> = Mutex::new(Vec::new());

/// Keeps its log files open; dropping it closes them.
#[derive(Debug)]
#[must_use = "the log files are closed when the guard is dropped"]
pub struct LogGuard {
    number: u64,
}

/// Logs into these files from now on, appending to what they hold, until the guard is dropped. Missing directories
/// are made; a file that is given twice is written once.
///
/// # Errors
/// A user error where a file cannot be opened; those that were made for it before are removed again.
pub fn start(paths: &[&Path]) -> Result<LogGuard> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    install();
    let opened = open_all(paths)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    with_files(|files| files.extend(opened.into_iter().map(|file| (number, Arc::new(file)))));
    Ok(LogGuard { number })
}

/// All or none.
fn open_all(paths: &[&Path]) -> Result<Vec<File>> {
    let (mut opened, mut places, mut made) = (Vec::new(), HashSet::new(), Vec::new());
    for &path in paths {
        let is_new = !path.exists();
        let file = open(path).inspect_err(|_| {
            made.iter().for_each(|path: &&Path| drop(std::fs::remove_file(path)));
        })?;
        made.extend(is_new.then_some(path));
        if places.insert(path.canonicalize().unwrap_or_else(|_| path.to_path_buf())) {
            opened.push(file);
        }
    }
    Ok(opened)
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        with_files(|files| files.retain(|(number, _)| *number != self.number));
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        files::create_dir(dir)?;
    }
    File::options().create(true).append(true).open(path).map_err(|e| Error::io(path, "a file to write", &e))
}

/// A panic of another thread while it logged leaves the list as it was.
fn with_files<T>(f: impl FnOnce(&mut Vec<(u64, Arc<File>)>) -> T) -> T {
    f(&mut FILES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Installs the subscriber of the process. Where a host has installed its own, events go there.
fn install() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let wanted = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
        let to_files = tracing_subscriber::fmt::layer().with_timer(LocalTime).with_writer(|| ToFiles);
        let to_files = to_files.with_ansi(false).with_target(false).with_filter(wanted);
        let to_terminal = tracing_subscriber::fmt::layer().without_time().with_writer(|| ToTerminal);
        let to_terminal = to_terminal.with_ansi(false).with_target(false).with_filter(LevelFilter::WARN);
        let _ = tracing_subscriber::registry().with(to_files).with(to_terminal).try_init();
    });
}

/// `2026-11-23T06:18:51.250+00:00`: local time, sortable, with its offset.
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z"))
    }
}

/// Every event arrives as one call, and is written through at once: a run that is killed leaves its last lines.
struct ToFiles;

impl Write for ToFiles {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A disk that is full must not end a training; the epoch's own files will tell.
        with_files(|files| files.iter().for_each(|(_, file)| drop(file.as_ref().write_all(line))));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct ToTerminal;

impl Write for ToTerminal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::print_line(String::from_utf8_lossy(line).trim());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
