//! Ctrl-C and SIGTERM: the training finishes its step, saves and leaves. A second signal ends the process at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::STOPPED_EXIT_CODE;

static REQUESTED: AtomicBool = AtomicBool::new(false);
/// Apart: it may come before or after a first signal, which must not end the process at once for that.
static INPUT_ENDED: AtomicBool = AtomicBool::new(false);

/// Listens from now on. Where a host program listens already, it keeps doing so.
pub fn listen() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let handler = || {
            if REQUESTED.swap(true, Ordering::SeqCst) {
                std::process::exit(STOPPED_EXIT_CODE.into());
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::debug!("signals are left to the host: {error}");
        }
    });
}

/// Takes the end of standard input for a signal to stop: a parent process's way to ask on any system, and the parent's own
/// end, however it came.
pub fn listen_to_stdin() {
    std::thread::spawn(|| {
        // What is written there says nothing; an input that cannot be read is no reason to stop.
        if std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).is_ok() {
            INPUT_ENDED.store(true, Ordering::SeqCst);
        }
    });
}

/// A signal has come.
pub fn is_requested() -> bool {
    REQUESTED.load(Ordering::SeqCst) || INPUT_ENDED.load(Ordering::SeqCst)
}
