//! The two kinds of error a run can end in: a mistake in what the user gave (exit code 2), said with the place, what
//! was expected, what was found and what to do; and a failure of the machine (exit code 1).

use std::fmt::Display;
use std::path::Path;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What shells report of a process that Ctrl-C ended.
pub const STOPPED_EXIT_CODE: u8 = 130;

/// Why a command could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in a file, a setting or an argument.
    #[error(transparent)]
    User(Box<UserError>),
    /// A mistake in a YAML file, with its line and a snippet.
    #[error("{0:?}")]
    Config(miette::Report),
    /// What a training in another process ended with.
    #[error("{message}")]
    Relayed {
        /// Its words.
        message: String,
        /// Its exit code.
        exit_code: u8,
    },
    /// A signal ended a training, which has been saved.
    #[error("{0}")]
    Stopped(String),
    /// The device has no memory left.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device's driver does not take a kernel.
    #[error("{0}")]
    Refused(String),
    /// The device, the disk or the operating system failed.
    #[error("{0}")]
    Failure(String),
}

/// A mistake by the user, in the four parts that let them mend it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: expected {expected}, found {found}\n  help: {remedy}")]
pub struct UserError {
    /// The file, dataset, key, tensor or argument.
    pub place: String,
    /// What would have been right.
    pub expected: String,
    /// What is there instead.
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

impl Error {
    /// A mistake by the user: where, what was expected, what was found, what to do.
    pub fn user(
        place: impl Display,
        expected: impl Display,
        found: impl Display,
        remedy: impl Display,
    ) -> Self {
        Self::User(Box::new(UserError {
            place: place.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
            remedy: remedy.to_string(),
        }))
    }

    /// A failure of the machine, in words.
    pub fn failure(what: impl Display) -> Self {
        Self::Failure(what.to_string())
    }

    /// A path that was not `wanted` ("a file to read", "a directory to make"), with the operating system's reason.
    pub fn io(path: &Path, wanted: &str, source: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let kind = match source.kind() {
            // What Windows says of a directory that is read or written as a file.
            ErrorKind::PermissionDenied if cfg!(windows) && path.is_dir() => ErrorKind::IsADirectory,
            kind => kind,
        };
        let remedy = match kind {
            ErrorKind::NotFound => "check the path",
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "check the owner and the mode of the path"
            }
            ErrorKind::IsADirectory => "give the path of a file",
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                "a file stands where a directory should be: give another path"
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space on that disk",
            ErrorKind::InvalidData => "give a text file in UTF-8",
            _ => "check the path and the disk",
        };
        Self::user(path.display(), wanted, reason(kind, source), remedy)
    }

    /// 2 for a mistake by the user, 1 for a failure of the machine, 130 for a training that was told to stop.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::User(_) | Self::Config(_) => 2,
            Self::Failure(_) | Self::OutOfMemory(_) | Self::Refused(_) => 1,
            Self::Relayed { exit_code, .. } => *exit_code,
            Self::Stopped(_) => STOPPED_EXIT_CODE,
        }
    }
}

/// What is there instead, in words that follow "found": the operating system's own without its number, unless they are
/// a sentence. The commonest are the same on all systems.
fn reason(kind: std::io::ErrorKind, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::NotFound => return "no such file or directory".into(),
        ErrorKind::PermissionDenied => return "permission denied".into(),
        ErrorKind::IsADirectory => return "a directory".into(),
        ErrorKind::AlreadyExists => return "a file".into(),
        ErrorKind::InvalidData => return "bytes that are no text in UTF-8".into(),
        _ => {}
    }
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_string()
}
