//! Work beside a training, which goes on meanwhile.

use std::thread::JoinHandle;

use crate::error::Result;

/// At most one piece of work, on a thread of its own. Whoever drops it waits for its end.
#[derive(Debug)]
pub(super) struct Beside<T>(Option<JoinHandle<Result<T>>>);

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> Beside<T> {
    /// Begins a piece of work.
    ///
    /// # Panics
    /// Before [`Beside::settle`] has had what came of the one before.
    pub fn start(&mut self, work: impl FnOnce() -> Result<T> + Send + 'static) {
        assert!(self.0.is_none(), "one at a time");
        self.0 = Some(std::thread::spawn(work));
    }
}

impl<T> Beside<T> {
    /// There is work, under way or done, whose outcome nobody has asked for.
    pub fn is_unsettled(&self) -> bool {
        self.0.is_some()
    }

    /// There is work, and it is done: [`Beside::settle`] will not wait.
    pub fn is_done(&self) -> bool {
        self.0.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for the work, if there is some: what came of it.
    ///
    /// # Errors
    /// Those of the work.
    ///
    /// # Panics
    /// Where the work did.
    pub fn settle(&mut self) -> Result<Option<T>> {
        let Some(thread) = self.0.take() else { return Ok(None) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(Some)
    }
}

impl<T> Drop for Beside<T> {
    fn drop(&mut self) {
        if let Some(Ok(Err(error))) = self.0.take().map(JoinHandle::join) {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::error::Error;

    #[test]
    fn work_is_done_beside_and_its_outcome_told_once() {
        let mut beside = Beside::default();
        let (go, wait) = mpsc::channel();
        beside.start(move || {
            wait.recv().expect("told to go on");
            Ok(7)
        });
        assert!(beside.is_unsettled() && !beside.is_done());
        go.send(()).expect("somebody waits");
        assert_eq!(beside.settle().expect("no error"), Some(7));
        assert!(!beside.is_unsettled() && beside.settle().expect("nothing").is_none());
        beside.start(|| Err(Error::failure("a full disk")));
        assert_eq!(beside.settle().expect_err("an error").to_string(), "a full disk");
    }

    #[test]
    fn whoever_drops_it_finds_the_work_done() {
        let (tell, hear) = mpsc::channel();
        let mut beside = Beside::default();
        beside.start(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            tell.send("done").expect("somebody listens");
            Ok(())
        });
        drop(beside);
        assert_eq!(hear.try_recv(), Ok("done"));
    }
}
