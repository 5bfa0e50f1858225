//! Whether a driver survives the forms of convolutions that use what few programs do, its matrix units.
//!
//! A driver that crashes while it compiles a kernel, or never comes back, takes the program along. So a process of its own runs
//! those forms first, once for an adapter, a driver and a set of shaders, and says what it is about to do; where it ends too
//! soon, or falls silent, the form that it was at is not used on this device.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::doctor::examine_form;
use super::stop;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, is_device_gone};
use crate::ops::choice::Form;
use crate::tape::Element;

/// The longest that a form may take, most of it a driver's compilation.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a signal is looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// Before a form is run, and after it, whatever it computed: whether that is right is for others to say.
const BEGINS: &str = "form ";
const SURVIVED: &str = "survived ";

/// A form, and how the driver failed at it, if it did.
pub type Verdict = (Form, Option<String>);

/// The forms to be probed on a device.
pub fn risky(gpu: &Gpu) -> Vec<Form> {
    let limits = gpu.limits();
    Form::MATRIX.into_iter().filter(|form| !limits.software && form.runs_on(true, limits)).collect()
}

/// Runs the forms in processes of their own. A form that could not be tried, as where another process cannot have the device,
/// has no verdict.
///
/// # Errors
/// [`Error::Stopped`] where a signal came; a failure where this program cannot be started again.
pub fn probe(gpu: &Gpu, forms: &[Form]) -> Result<Vec<Verdict>> {
    let program =
        std::env::current_exe().map_err(|e| Error::failure(format!("this program's own path: {e}")))?;
    let adapter = gpu.summary().index.to_string();
    let command = |forms: &[Form]| {
        let mut command = Command::new(&program);
        command.args(["probe", "--adapter", &adapter]).args(forms.iter().map(|form| form.name()));
        command
    };
    probe_with(command, forms, PATIENCE)
}

/// What the process of [`probe`] does: runs every case of these forms; `say` takes the lines that the other one reads.
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
        for element in elements {
            match examine_form(gpu, element, *form) {
                // Another program may have it now.
                Ok(_) | Err(Error::OutOfMemory(_)) => {}
                Err(error) => return Err(error),
            }
        }
        say(format!("{SURVIVED}{}", form.name()))?;
    }
    Ok(())
}

fn probe_with(
    command: impl Fn(&[Form]) -> Command,
    forms: &[Form],
    patience: Duration,
) -> Result<Vec<Verdict>> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    while verdicts.len() < forms.len() {
        let before = verdicts.len();
        let mut child = command(&forms[before..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::failure(format!("starting a process that tries matrix units: {e}")))?;
        let ended = listen(&mut child, &forms[before..], patience, &mut verdicts);
        let _ = child.kill();
        let status = child.wait().map_err(|e| Error::failure(format!("waiting for that process: {e}")))?;
        match ended? {
            End::Finished if verdicts.len() > before => {}
            // It never got as far as a form.
            End::Finished => break,
            End::Within(form, said) => {
                let how = said.unwrap_or_else(|| format!("the driver ended the process ({status})"));
                verdicts.push((form, Some(how)));
            }
            End::Silent(form) => {
                verdicts.push((form, Some(format!("no result after {} s", patience.as_secs_f64()))));
            }
        }
    }
    Ok(verdicts)
}

/// How a process ended.
enum End {
    /// Between forms.
    Finished,
    /// Before it was done with this one; its error, where it said that the device was lost.
    Within(Form, Option<String>),
    /// It did not, and had nothing to say for too long.
    Silent(Form),
}

fn listen(child: &mut Child, forms: &[Form], patience: Duration, verdicts: &mut Vec<Verdict>) -> Result<End> {
    let lines = lines_of(child.stdout.take().expect("it is piped"));
    let errors = lines_of(child.stderr.take().expect("it is piped"));
    let mut current: Option<Form> = None;
    let mut since = Instant::now();
    let is_one = |form: &Form, text: &str| text == form.name();
    loop {
        if stop::is_requested() {
            return Err(Error::Stopped("stopped by a signal: nothing was begun".into()));
        }
        let line = match lines.recv_timeout(GLANCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) if since.elapsed() > patience => {
                return Ok(current.map_or(End::Finished, End::Silent));
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                let said = errors.iter().find(|line| is_device_gone(line));
                return Ok(current.map_or(End::Finished, |form| End::Within(form, said)));
            }
        };
        since = Instant::now();
        if let Some(name) = line.strip_prefix(BEGINS) {
            current = forms.iter().copied().find(|form| is_one(form, name));
        } else if let Some(form) = current
            && line.strip_prefix(SURVIVED).is_some_and(|name| is_one(&form, name))
        {
            verdicts.push((form, None));
            current = None;
        }
    }
}

/// A stream's lines, until it ends.
fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(std::result::Result::ok);
        // Nobody listens any more once the process is given up.
        for line in lines {
            if sender.send(line).is_err() {
                break;
            }
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
        probe_with(command, &FORMS, patience).expect("a shell")
    }

    #[test]
    fn a_driver_that_crashes_costs_the_form_that_it_was_at() {
        let script = r#"for form; do echo "form $form"; [ "$form" = "matrix narrow" ] && kill -SEGV $$; echo "survived $form"; done"#;
        let found = found(script, PATIENCE);
        assert_eq!(found.iter().map(|(form, _)| *form).collect::<Vec<_>>(), FORMS);
        assert_eq!([&found[0].1, &found[2].1], [&None, &None]);
        let said = found[1].1.as_deref().expect("it crashed");
        assert!(said.starts_with("the driver ended the process (signal: 11"), "{said}");
    }

    #[test]
    fn a_driver_that_never_comes_back_is_given_up() {
        let script = r#"echo "form $1"; [ "$1" = "matrix" ] && exec sleep 1000; echo "survived $1""#;
        let found = found(script, Duration::from_millis(300));
        assert_eq!(found[0], (Form::Matrix, Some("no result after 0.3 s".into())));
        assert_eq!([&found[1].1, &found[2].1], [&None, &None]);
    }

    #[test]
    fn a_lost_device_is_told_in_its_own_words() {
        let script = r#"for form; do echo "form $form"
            case $form in
                *narrow) echo "error: the device was lost: a fault" >&2; exit 1 ;;
                *) echo "survived $form" ;;
            esac; done"#;
        let told: Vec<Option<String>> = found(script, PATIENCE).into_iter().map(|(_, told)| told).collect();
        assert_eq!(told, [None, Some("error: the device was lost: a fault".into()), None]);
    }

    #[test]
    fn what_could_not_be_tried_has_no_verdict() {
        assert_eq!(found("exit 1", PATIENCE), []);
    }
}
