//! Files that are either whole or absent: written beside their place, synced, then renamed onto it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;

use crate::error::{Error, Result};

/// What [`write_atomic`] has written a part of begins with this.
const UNFINISHED: &str = ".rosette-";
/// And ends with so many letters and digits.
const RANDOM: usize = 6;
/// What has not changed for so long nobody writes any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Writes `bytes` to `path` so that a reader, or a power cut, finds the old file or the new one and never a part.
/// Missing parent directories are made.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = parent(path);
    create_dir(dir)?;
    let fail = |e: &std::io::Error| Error::io(path, "a file to write", e);
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED).rand_bytes(RANDOM);
    with_usual_mode(&mut builder);
    let mut file = builder.tempfile_in(dir).map_err(|e| fail(&e))?;
    file.write_all(bytes).map_err(|e| fail(&e))?;
    file.as_file().sync_all().map_err(|e| fail(&e))?;
    let mut waited = Wait::default();
    while let Err(refused) = file.persist(path) {
        if !waited.is_worth(&refused.error, path) {
            return Err(fail(&refused.error));
        }
        file = refused.file;
    }
    sync_dir(dir);
    Ok(())
}

/// Removes what processes that were killed left half-written in a directory and in those right below it.
pub fn remove_abandoned(dir: &Path) {
    let entries =
        |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok);
    let is_abandoned = |entry: &std::fs::DirEntry| {
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        is_unfinished(&entry.file_name().to_string_lossy())
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && age().is_some_and(|age| age > ABANDONED)
    };
    let below = entries(dir).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let dirs: Vec<PathBuf> =
        std::iter::once(dir.to_path_buf()).chain(below.map(|entry| entry.path())).collect();
    for entry in dirs.iter().flat_map(|dir| entries(dir)).filter(is_abandoned) {
        // Another time, where it cannot be removed now.
        let _ = std::fs::remove_file(entry.path());
    }
}

/// The names that temporary files get.
fn is_unfinished(name: &str) -> bool {
    let rest = name.strip_prefix(UNFINISHED).unwrap_or_default();
    rest.len() == RANDOM && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Gives a file another name, in place of whatever has it.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    let mut waited = Wait::default();
    while let Err(refused) = std::fs::rename(from, to) {
        if !waited.is_worth(&refused, to) {
            return Err(Error::io(to, "a file to replace", &refused));
        }
    }
    Ok(())
}

/// How long a file was waited for. Windows gives one no other name, nor its name to another one, while a program has it open: a virus scanner, a
/// backup, somebody who looks at it. No training has to end for that.
#[derive(Debug, Default)]
struct Wait {
    rounds: u32,
}

impl Wait {
    /// A quarter of a minute in all.
    const MOST_ROUNDS: u32 = 750;
    const ROUND: Duration = Duration::from_millis(20);

    /// Waits for what was refused to become `path`, where that may help.
    fn is_worth(&mut self, refused: &std::io::Error, path: &Path) -> bool {
        /// Windows' numbers for a denied access, which directories and files that may not be written give too, and a sharing violation.
        const IN_USE: [i32; 2] = [5, 32];
        let is_writable =
            || std::fs::metadata(path).map_or(true, |is| is.is_file() && !is.permissions().readonly());
        let is_in_use = refused.raw_os_error().is_some_and(|code| IN_USE.contains(&code));
        self.is_worth_for(cfg!(windows) && is_in_use && is_writable())
    }

    fn is_worth_for(&mut self, is_in_use: bool) -> bool {
        if !is_in_use || self.rounds == Self::MOST_ROUNDS {
            return false;
        }
        self.rounds += 1;
        std::thread::sleep(Self::ROUND);
        true
    }
}

/// Makes a directory and its parents.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, "a directory to make", &e))
}

/// Makes a directory that was not there; where it is taken, `_2`, `_3` and so on follow its name. Says which it is.
pub fn create_new_dir(dir: &Path) -> Result<PathBuf> {
    create_dir(parent(dir))?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = (2..).map(|number| dir.with_file_name(format!("{name}_{number}")));
    for path in std::iter::once(dir.to_path_buf()).chain(numbered) {
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path).map_err(|e| Error::io(dir, "a directory to make", &e)),
        }
    }
    unreachable!("numbers do not end")
}

/// Reads a whole text file.
pub fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::io(path, "a file to read", &e))
}

/// Reads a whole file.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path, "a file to read", &e))
}

/// Where this program lies, to be started once more.
pub fn this_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::failure(format!("this program's own path: {e}")))
}

/// Names the directory of caches, in place of the system's.
const CACHE_DIR: &str = "ROSETTE_CACHE_DIR";

/// Where what can be made anew is kept for the next process; none where the system has no place for it.
pub fn cache_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(CACHE_DIR) {
        return Some(PathBuf::from(dir));
    }
    Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("rosette"))
}

/// Bytes as hexadecimal digits, for checksums.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Temporary files are private; outputs are for whom the umask says, as with any other program.
#[cfg(unix)]
fn with_usual_mode(builder: &mut tempfile::Builder) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666));
}

#[cfg(not(unix))]
fn with_usual_mode(_: &mut tempfile::Builder) {}

/// The rename itself must survive a power cut; where directories cannot be synced there is nothing more to do.
fn sync_dir(dir: &Path) {
    if let Ok(handle) = std::fs::File::open(dir) {
        let _ = handle.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_program_has_open_is_waited_for_and_nothing_else() {
        let mut wait = Wait::default();
        assert!(wait.is_worth_for(true) && wait.is_worth_for(true));
        assert!(!wait.is_worth_for(false), "another reason");
        let mut wait = Wait { rounds: Wait::MOST_ROUNDS };
        assert!(!wait.is_worth_for(true), "it was waited for long enough");
        let denied = std::io::Error::from_raw_os_error(5);
        let absent = Path::new("absent");
        assert_eq!(Wait::default().is_worth(&denied, absent), cfg!(windows), "5 is another error elsewhere");
        assert!(!Wait::default().is_worth(&denied, Path::new(".")), "a directory");
    }
}
