//! Whether a driver survives the forms of convolutions that use what few programs do, its matrix units.
//!
//! A driver that crashes while it compiles a kernel, or never comes back, takes the program along. So a process of its own runs
//! those forms first, once for an adapter, a driver and a set of shaders, and says what it is about to do; where it crashes, a
//! panic included, or falls silent, the form that it was at is not used on this device. What ends that process otherwise, and what keeps it from being
//! started, says nothing of the driver: those forms are then used as if they had been tried.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::doctor::examine_form;
use super::stop;
use crate::error::{Error, Result};
use crate::files::this_program;
use crate::gpu::{Gpu, is_device_gone};
use crate::ops::choice::Form;
use crate::tape::Element;

/// The longest that one of the things may take that are tried of a form, most of it a driver's compilation.
const PATIENCE: Duration = Duration::from_secs(100);
/// How often a signal is looked for.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a process that was killed may take to go, and one that has gone to have been heard: a driver that hangs keeps even a killed
/// one.
const LEAVE: Duration = Duration::from_secs(5);

/// Before a form is run, and after it, whatever it computed: whether that is right is for others to say.
const BEGINS: &str = "form ";
const SURVIVED: &str = "survived ";
/// Before each of the things that are tried of it.
const AT: &str = "at ";

/// A form, and how the driver failed at it, if it did.
pub type Verdict = (Form, Option<String>);

/// The forms to be probed on a device; none where no process can be started for it.
pub fn risky(gpu: &Gpu) -> Vec<Form> {
    let limits = gpu.limits();
    let is_risky = |form: &Form| !limits.software && form.runs_on(true, limits) && startable().is_some();
    Form::MATRIX.into_iter().filter(is_risky).collect()
}

/// This program, unless another one has it as a library, which would be started anew.
fn startable() -> Option<PathBuf> {
    let is_this = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(env!("CARGO_PKG_NAME")))
    };
    this_program().ok().filter(is_this)
}

/// Runs the forms in processes of their own. A form has no verdict that could not be tried, or after which a signal came.
pub fn probe(gpu: &Gpu, forms: &[Form]) -> Vec<Verdict> {
    let Some(program) = startable() else { return Vec::new() };
    let adapter = gpu.summary().index.to_string();
    let command = |forms: &[Form]| {
        let mut command = Command::new(&program);
        command.args(["probe", "--until-stdin-ends", "--adapter", &adapter]);
        command.args(forms.iter().map(|form| form.name()));
        command
    };
    probe_with(command, forms, PATIENCE)
}

/// What a process does that [`TuningCache::probe`](super::TuningCache::probe) starts: runs every case of these forms; `say` takes the lines that the other one reads.
///
/// # Errors
/// Where the device was lost, or standard output takes no more.
pub fn run_probe(gpu: &Gpu, forms: &[Form], mut say: impl FnMut(String) -> Result<()>) -> Result<()> {
    for form in forms {
        say(format!("{BEGINS}{}", form.name()))?;
        let elements = [Element::F32, Element::F16].into_iter().filter(|element| {
            form.runs_on(*element == Element::F16, gpu.limits())
                && (*element == Element::F32 || gpu.limits().f16)
        });
        let mut is_tried = true;
        for element in elements {
            let told = |what: &str| say(format!("{AT}{what} in {}", element.word()));
            match examine_form(gpu, element, *form, told) {
                Ok(()) => {}
                // Another program may have it now.
                Err(Error::OutOfMemory(_)) => is_tried = false,
                Err(error) => return Err(error),
            }
        }
        if is_tried {
            say(format!("{SURVIVED}{}", form.name()))?;
        }
    }
    Ok(())
}

fn probe_with(command: impl Fn(&[Form]) -> Command, forms: &[Form], patience: Duration) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    loop {
        let is_open = |form: &Form| verdicts.iter().all(|(known, _)| known != form);
        let open: Vec<Form> = forms.iter().copied().filter(is_open).collect();
        if open.is_empty() {
            return verdicts;
        }
        let mut command = command(&open);
        // Its end is the end of this process, for the other.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let known = verdicts.len();
        match command.spawn() {
            Ok(child) => verdicts.extend(attend(child, &open, patience)),
            Err(error) => tracing::warn!("no process to try matrix units first: {error}"),
        }
        if verdicts.len() == known || stop::is_requested() {
            return verdicts;
        }
    }
}

/// What a process says of the forms, until it ends, has said it all, or has nothing to say for too long.
fn attend(mut child: Child, forms: &[Form], patience: Duration) -> Vec<Verdict> {
    let lines = lines_of(child.stdout.take().expect("it is piped"));
    let errors = lines_of(child.stderr.take().expect("it is piped"));
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut current: Option<Form> = None;
    // Not by the clock: both processes may have been suspended.
    let mut silent = Duration::ZERO;
    while verdicts.len() < forms.len() && silent <= patience {
        if stop::is_requested() {
            leave(&mut child);
            return verdicts;
        }
        let line = match lines.recv_timeout(GLANCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                silent += GLANCE;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // Drivers write what they like.
        if [BEGINS, AT, SURVIVED].iter().any(|word| line.starts_with(word)) {
            silent = Duration::ZERO;
        }
        if let Some(name) = line.strip_prefix(BEGINS) {
            current = forms.iter().copied().find(|form| form.name() == name);
        } else if let Some(form) = current.take_if(|form| line.strip_prefix(SURVIVED) == Some(form.name())) {
            verdicts.push((form, None));
        }
    }
    let is_silent = silent > patience;
    let status = if is_silent { None } else { wait(&mut child) };
    leave(&mut child);
    let Some(form) = current.filter(|_| !stop::is_requested()) else { return verdicts };
    let until = Instant::now() + LEAVE;
    let heard = || errors.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    let gone = std::iter::from_fn(heard).find(|line| is_device_gone(line));
    let how = match status {
        None if is_silent => Some(format!("no result after {} s", patience.as_secs_f64())),
        None => Some("its process did not end".into()),
        Some(status) if gone.is_some() || is_crash(status) => {
            Some(gone.unwrap_or_else(|| format!("its process crashed ({status})")))
        }
        Some(_) => None,
    };
    verdicts.extend(how.map(|how| (form, Some(how))));
    verdicts
}

/// Whether a process did not end by itself, and by nobody's wish.
#[cfg(unix)]
fn is_crash(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    /// Of a terminal that closes, Ctrl-C, a pipe that nobody reads, a request to end. Not a kill: a system does that to who takes all memory,
    /// as this process would next.
    const ASKED_FOR: [i32; 4] = [1, 2, 13, 15];
    status.signal().is_some_and(|signal| !ASKED_FOR.contains(&signal)) || is_panic(status)
}

#[cfg(not(unix))]
fn is_crash(status: ExitStatus) -> bool {
    /// Windows' errors, but for Ctrl-C.
    const FIRST_ERROR: u32 = 0xC000_0000;
    const CONTROL_C: u32 = 0xC000_013A;
    let code = status.code().map_or(0, i32::cast_unsigned);
    (code >= FIRST_ERROR && code != CONTROL_C) || is_panic(status)
}

/// wgpu panics where a driver does what none should; one of our own would end this process as well.
fn is_panic(status: ExitStatus) -> bool {
    status.code() == Some(101)
}

/// The process's end, where it comes soon.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + LEAVE;
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(GLANCE);
    }
    None
}

/// Ends the process, where it has not ended.
fn leave(child: &mut Child) {
    let _ = child.kill();
    wait(child);
}

/// A stream's lines, until it ends.
fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // Drivers write what they like.
        let lines = BufReader::new(stream).split(b'\n').map_while(std::io::Result::ok);
        for line in lines {
            // Read on where nobody listens any more: who writes into a closed pipe is ended by it.
            let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    receiver
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const FORMS: [Form; 3] = [Form::Matrix, Form::MatrixNarrow, Form::MatrixRows];

    /// What is found where each process is a shell that does `script`; `$1` is the first form that is left.
    fn found(script: &str, patience: Duration) -> Vec<Verdict> {
        let command = |forms: &[Form]| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script, "sh"]).args(forms.iter().map(|form| form.name()));
            shell
        };
        probe_with(command, &FORMS, patience)
    }

    #[test]
    fn a_driver_that_crashes_costs_the_form_that_it_was_at() {
        let script = r#"for form; do echo "form $form"; [ "$form" = "matrix narrow" ] && kill -SEGV $$; echo "survived $form"; done"#;
        let found = found(script, PATIENCE);
        assert_eq!(found.iter().map(|(form, _)| *form).collect::<Vec<_>>(), FORMS);
        assert_eq!([&found[0].1, &found[2].1], [&None, &None]);
        let said = found[1].1.as_deref().expect("it crashed");
        assert!(said.starts_with("its process crashed (signal: 11"), "{said}");
    }

    #[test]
    fn a_driver_that_never_comes_back_is_given_up() {
        let script =
            r#"echo "form $1"; [ "$1" = "matrix" ] && exec sleep 1000; printf '\377\n'; echo "survived $1""#;
        let found = found(script, Duration::from_secs(3));
        assert_eq!(found[0], (Form::Matrix, Some("no result after 3 s".into())));
        assert_eq!([&found[1].1, &found[2].1], [&None, &None]);
    }

    #[test]
    fn a_driver_that_is_at_the_next_thing_is_not_given_up() {
        let script = r#"for form; do echo "form $form"
            [ "$form" = matrix ] && sleep 2 && echo "at conv2d" && sleep 2
            echo "survived $form"; done"#;
        assert_eq!(found(script, Duration::from_secs(3)), FORMS.map(|form| (form, None)));
        let script = r#"echo "form $1"
            [ "$1" = matrix ] && for i in 1 2 3 4 5; do sleep 1; echo "nonsense"; done; echo "survived $1""#;
        let first = found(script, Duration::from_secs(3)).remove(0);
        assert_eq!(first, (Form::Matrix, Some("no result after 3 s".into())), "drivers write what they like");
    }

    #[test]
    fn a_lost_device_is_told_in_its_own_words() {
        let script = r#"for form; do echo "form $form"
            case $form in
                *narrow) printf '\377\nerror: the device was lost: a fault\n' >&2; exit 1 ;;
                *) echo "survived $form" ;;
            esac; done"#;
        let told: Vec<Option<String>> = found(script, PATIENCE).into_iter().map(|(_, told)| told).collect();
        assert_eq!(told, [None, Some("error: the device was lost: a fault".into()), None]);
    }

    /// Ctrl-C goes to the whole group: it was taken for a crash, and the form was not used again.
    #[test]
    fn what_ends_a_process_by_somebodys_wish_is_no_crash() {
        for signal in ["INT", "TERM", "HUP"] {
            let script =
                format!(r#"echo "form $1"; [ "$1" = matrix ] && echo "survived $1"; kill -{signal} $$"#);
            assert_eq!(found(&script, PATIENCE), [(Form::Matrix, None)], "{signal}");
        }
    }

    #[test]
    fn a_process_that_is_done_and_does_not_end_is_not_waited_for() {
        let script = r#"for form; do echo "form $form"; echo "survived $form"; done; exec sleep 1000"#;
        assert_eq!(found(script, PATIENCE), FORMS.map(|form| (form, None)));
    }

    #[test]
    fn what_could_not_be_tried_has_no_verdict() {
        assert_eq!(found("exit 1", PATIENCE), []);
        assert_eq!(found(r#"echo "form $1"; echo "error: the disk is full" >&2; exit 1"#, PATIENCE), []);
    }
}
