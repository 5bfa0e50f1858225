//! Files and directories as they appear on the disk.

use std::time::{Duration, SystemTime};

use rosette::files::{create_new_dir, write_atomic};
use rosette::train::DirLock;

/// They were left for ever, one for each `kill -9` in the middle of a write.
#[test]
fn what_killed_processes_left_half_written_goes_with_the_next_training() {
    let dir = tempfile::tempdir().unwrap();
    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(3600 * hours);
    std::fs::create_dir(dir.path().join("overlays")).unwrap();
    let files = [
        (".rosette-a1B2c3", hours_ago(3), false),
        ("overlays/.rosette-d4E5f6", hours_ago(3), false),
        (".rosette-g7H8i9", hours_ago(0), true),
        (".rosette-notes.txt", hours_ago(3), true),
        (".rosette-j1K2-3", hours_ago(3), true),
        (".rosette.lock.old", hours_ago(3), true),
        (".tuning.json", hours_ago(3), true),
        ("rosette-mine", hours_ago(3), true),
    ];
    for (name, changed, _) in files {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        file.set_modified(changed).unwrap();
    }
    let _lock = DirLock::take(dir.path()).unwrap();
    for (name, _, stays) in files {
        assert_eq!(dir.path().join(name).exists(), stays, "{name}");
    }
}

#[test]
fn directories_of_one_name_get_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = dir.path().join("below/run_attention_geometric_20260101_120000");
    let made: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| create_new_dir(&wanted).unwrap())).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut names: Vec<_> = made.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    names.sort();
    assert!(made.iter().all(|path| path.is_dir()));
    let numbered = (2..=8).map(|n| format!("run_attention_geometric_20260101_120000_{n}"));
    let expected: Vec<_> =
        std::iter::once("run_attention_geometric_20260101_120000".into()).chain(numbered).collect();
    assert_eq!(names, expected);
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = create_new_dir(&dir.path().join("file/below")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
#[cfg(unix)]
fn outputs_follow_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    // Of a shell of its own: the umask belongs to the process.
    let dir = tempfile::tempdir().unwrap();
    for (umask, mode) in [("077", 0o600), ("022", 0o644), ("002", 0o664)] {
        let out = dir.path().join(umask);
        let line = format!("umask {umask}; exec \"$0\" synth --samples 1 --size 128 --output-dir \"$1\"");
        let shell = std::process::Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_rosette")])
            .arg(&out)
            .output()
            .expect("a shell");
        assert!(shell.status.success(), "{shell:?}");
        let file = rosette::data::sample::sample_path(&out, "T1_1");
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, mode, "umask {umask}");
    }
}

#[test]
fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/file");
    for text in ["first, which is longer", "second"] {
        write_atomic(&path, text.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    assert_eq!(write_atomic(&path.join("below"), b"").unwrap_err().exit_code(), 2, "a file is no directory");
}
