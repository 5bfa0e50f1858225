//! A look at every sample before a training: what cannot be trained on (errors), and what can but hardly should
//! (warnings), each with what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::data::channels::Prepared;
use crate::data::hdf5::File;
use crate::data::residency::pack;
use crate::data::sample::{Sample, sample_path};
use crate::data::split::Manifest;
use crate::error::Error;
use crate::files::hex;

/// Rosettes may hold so much that is no cell: gaps where their cells meet.
const MOST_OUTSIDE_CELLS: f64 = 0.05;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Training works, but hardly as meant.
    Warning,
    /// Training refuses the sample, or its result would mean nothing.
    Error,
}

/// Something about a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// A sample, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleCheck {
    /// Its name.
    pub name: String,
    /// `train` or `validation`, by the manifest.
    pub set: Option<&'static str>,
    /// Rows and columns.
    pub size: Option<[usize; 2]>,
    /// Cells, by their labels.
    pub cells: usize,
    /// Share of the pixels that are rosette.
    pub rosette_share: f64,
    /// Whether it has an intensity.
    pub has_intensity: bool,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    #[serde(skip)]
    digest: Option<String>,
}

fn finding(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { severity, what: what.into(), remedy: remedy.into() }
}

impl SampleCheck {
    /// Whether it must not be trained on.
    pub fn has_error(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// Checks samples below a directory, in order; a manifest tells which of them train and which validate.
pub fn check_samples(data_dir: &Path, names: &[String], manifest: Option<&Manifest>) -> Vec<SampleCheck> {
    let set = |name: &String| {
        let manifest = manifest?;
        let lists = [("train", &manifest.train_sample_list), ("validation", &manifest.val_sample_list)];
        lists.into_iter().find(|(_, list)| list.contains(name)).map(|(set, _)| set)
    };
    let mut checks: Vec<SampleCheck> =
        names.iter().map(|name| SampleCheck { set: set(name), ..check(data_dir, name) }).collect();
    find_duplicates(&mut checks);
    checks
}

fn check(data_dir: &Path, name: &str) -> SampleCheck {
    let mut check = SampleCheck {
        name: name.into(),
        set: None,
        size: None,
        cells: 0,
        rosette_share: 0.0,
        has_intensity: false,
        findings: Vec::new(),
        digest: None,
    };
    let sample = match Sample::load(data_dir, name, false) {
        Ok(sample) => sample,
        Err(error) => {
            check.findings.push(refused(&error));
            return check;
        }
    };
    check.size = Some([sample.height, sample.width]);
    check.cells = sample.labels.iter().filter(|label| **label > 0).collect::<BTreeSet<_>>().len();
    check.rosette_share =
        sample.target.iter().filter(|t| **t > 0).count() as f64 / sample.target.len() as f64;
    let labels_findings = look_at_labels(&sample, check.cells);
    let target_findings = look_at_target(&sample, check.rosette_share);
    check.findings.extend(labels_findings.into_iter().chain(target_findings));
    if let Ok(file) = File::open(&sample_path(data_dir, name)) {
        check.has_intensity = Sample::has_intensity(&file);
        check.findings.extend(look_at_file(&file, check.has_intensity, name));
    }
    check.digest = Some(hex(&Sha256::digest(bytemuck::cast_slice::<u32, u8>(&pack(&Prepared::new(sample))))));
    check
}

/// An error of reading, in its parts.
fn refused(error: &Error) -> Finding {
    match error {
        Error::User(mistake) => finding(
            Severity::Error,
            format!("{}: expected {}, found {}", mistake.place, mistake.expected, mistake.found),
            &mistake.remedy,
        ),
        other => finding(Severity::Error, other.to_string(), "copy the file again"),
    }
}

fn look_at_labels(sample: &Sample, cells: usize) -> Option<Finding> {
    let labels = sample.labels.iter().copied().max().unwrap_or(0);
    match cells {
        0 => Some(finding(
            Severity::Warning,
            "no cell in 'segmentation_outlines'",
            "segment the image again, or leave the sample out",
        )),
        1 => Some(finding(
            Severity::Warning,
            format!("'segmentation_outlines' holds a single label, {labels}: a mask rather than cells"),
            "store instance labels, a number for each cell: boundaries are where labels differ",
        )),
        _ => None,
    }
}

fn look_at_target(sample: &Sample, share: f64) -> Option<Finding> {
    if share == 0.0 {
        let what = "no rosette pixel";
        return Some(finding(
            Severity::Warning,
            what,
            "fine for a sample without rosettes: a few such are useful",
        ));
    }
    if share == 1.0 {
        let remedy = "look at 'rosettes_binary': it may be inverted";
        return Some(finding(Severity::Warning, "every pixel is a rosette's", remedy));
    }
    let rosette = sample.target.iter().zip(&sample.labels).filter(|(t, _)| **t > 0);
    let (all, outside) =
        rosette.fold((0_usize, 0_usize), |(all, out), (_, label)| (all + 1, out + usize::from(*label == 0)));
    let outside = outside as f64 / all as f64;
    (outside > MOST_OUTSIDE_CELLS).then(|| {
        let what = format!("{:.0} % of the rosettes' pixels lie outside the cells", outside * 100.0);
        finding(Severity::Warning, what, "check that target and labels are of the same image, unshifted")
    })
}

/// What only the file itself tells: more than two values in the target, an intensity that cannot be used.
fn look_at_file(file: &File, has_intensity: bool, name: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let values = Sample::target_values(file).unwrap_or_default();
    if values.len() > 2 {
        let listed: Vec<String> = values.iter().take(5).map(f64::to_string).collect();
        let what = format!(
            "'rosettes_binary' is not binary: {}{}",
            listed.join(", "),
            if values.len() > 5 { ", ..." } else { "" }
        );
        found.push(finding(
            Severity::Warning,
            what,
            "what is above 0 counts as rosette: store 0 and 1 to be sure",
        ));
    }
    if has_intensity {
        match Sample::from_file(file, name, true).map(|sample| sample.intensity) {
            Ok(Some(plane)) if plane.iter().all(|v| *v == plane[0]) => found.push(finding(
                Severity::Warning,
                format!("its intensity is {} everywhere", plane[0]),
                "nothing is to be learnt from it: keep use_intensity off, or store the microscope's image",
            )),
            Ok(_) => {}
            Err(error) => {
                let refused = refused(&error);
                let what = format!("with use_intensity: {}", refused.what);
                found.push(finding(Severity::Warning, what, refused.remedy));
            }
        }
    }
    found
}

/// Samples that show the same: within one set they count twice, across the two they make the validation worthless.
fn find_duplicates(checks: &mut [SampleCheck]) {
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for at in 0..checks.len() {
        let Some(digest) = checks[at].digest.clone() else { continue };
        let Some(&before) = first.get(&digest) else {
            first.insert(digest, at);
            continue;
        };
        let (name, sets) = (checks[before].name.clone(), [checks[before].set, checks[at].set]);
        let leaks = sets[0] != sets[1] && sets.iter().all(Option::is_some);
        let severity = if leaks { Severity::Error } else { Severity::Warning };
        let what = match leaks {
            true => format!("the same image as '{name}', of which one trains and one validates"),
            false => format!("the same image as '{name}'"),
        };
        checks[at].findings.push(finding(severity, what, "leave one of the two out of the split"));
    }
}
