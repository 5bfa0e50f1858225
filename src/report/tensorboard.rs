//! TensorBoard's event files: scalars and pictures by epoch, under the pipeline's tags.
//!
//! A file is a series of records (length, checksum, message, checksum: TFRecord); a message is a Protocol Buffer `Event`
//! (tensorflow/core/util/event.proto), of which a few fields are written here by hand.
//!
//! Each start of a training adds a file, which begins with the start of a session at the step it goes on from: a
//! TensorBoard that is running drops what it has read from there on. Older files are cut at that step, so that no other
//! reader sees a step twice. They are never removed while something may be reading them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};
use crate::files;
use crate::report::metrics::EpochRow;

/// The tag of the pictures.
pub const PICTURES: &str = "Validation/Predictions_vs_GroundTruth";

/// The pipeline's tags, then further ones, with their values.
pub fn scalars(row: &EpochRow) -> [(&'static str, f64); 8] {
    [
        ("Loss/train", row.train_loss),
        ("Loss/validation", row.val_loss),
        ("IoU/validation", row.val_iou),
        ("F1_Score/validation", row.val_f1),
        ("Misc/learning_rate", row.learning_rate),
        ("Precision/validation", row.val_precision),
        ("Recall/validation", row.val_recall),
        ("Misc/patches_per_second", row.patches_per_second),
    ]
}

/// The event file of a training.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Adds an event file to a directory, which is made where it is missing. Events of steps below `keep_below` stay; the
    /// others, and all of an older training where it is zero, are cut off.
    ///
    /// # Errors
    /// A user error where the directory takes no file.
    pub fn open(dir: &Path, keep_below: usize) -> Result<Self> {
        files::create_dir(dir)?;
        let older = event_files(dir);
        let path = dir.join(new_name(&older));
        older.iter().try_for_each(|old| cut(old, keep_below))?;
        let start = event(now(), keep_below as u64, &session_start());
        files::write_atomic(&path, &[frame(&version()), frame(&start)].concat())?;
        let file =
            File::options().append(true).open(&path).map_err(|e| Error::io(&path, "a file to write", &e))?;
        Ok(Self { path, file })
    }

    /// Adds the scalars of an epoch.
    ///
    /// # Errors
    /// A user error where the disk takes no more.
    pub fn scalars(&mut self, row: &EpochRow) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars(row) {
            let mut entry = bytes_field(1, tag.as_bytes());
            entry.extend([2 << 3 | 5]);
            entry.extend((value as f32).to_le_bytes());
            summary.extend(bytes_field(1, &entry));
        }
        self.append(row.epoch, &bytes_field(5, &summary))
    }

    /// Adds a PNG picture.
    ///
    /// # Errors
    /// As [`EventFile::scalars`].
    pub fn picture(&mut self, epoch: usize, png: &[u8]) -> Result<()> {
        // The header of a PNG has its width and height at these places.
        let side = |at: usize| {
            png.get(at..at + 4).map_or(0, |b| u32::from_be_bytes(b.try_into().unwrap_or_default()))
        };
        let mut image = Vec::new();
        for (field, value) in [(1, side(20)), (2, side(16)), (3, 3)] {
            image.extend(varint_field(field, u64::from(value)));
        }
        image.extend(bytes_field(4, png));
        let entry = [bytes_field(1, PICTURES.as_bytes()), bytes_field(4, &image)].concat();
        self.append(epoch, &bytes_field(5, &bytes_field(1, &entry)))
    }

    /// One call for each record: a training that is killed leaves whole ones and at most a part of the last.
    fn append(&mut self, step: usize, what: &[u8]) -> Result<()> {
        let record = frame(&event(now(), step as u64, what));
        self.file.write_all(&record).map_err(|e| Error::io(&self.path, "a file to write", &e))
    }
}

/// Cuts a file before its first summary of a step that is not below `keep_below`, or after its last whole record.
fn cut(path: &Path, keep_below: usize) -> Result<()> {
    let bytes = files::read_bytes(path)?;
    let stays = |message: &&[u8]| step_of_summary(message).is_none_or(|step| step < keep_below as u64);
    let kept: usize = records(&bytes).take_while(stays).map(|message| message.len() + 16).sum();
    let kept = if keep_below == 0 { 0 } else { kept };
    if kept == bytes.len() {
        return Ok(());
    }
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(kept as u64)).map_err(|e| Error::io(path, "a file to write", &e))
}

/// The directory's event files, oldest first.
pub fn event_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_ours = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("events.out.tfevents."))
    };
    let mut found: Vec<PathBuf> = entries.filter(is_ours).collect();
    found.sort();
    found
}

/// Names sort by time, and TensorBoard reads in that order: a new one comes after the older ones.
fn new_name(older: &[PathBuf]) -> String {
    let number = |path: &PathBuf| path.to_str()?.rsplit("tfevents.").next()?.split('.').next()?.parse().ok();
    let newest: u64 = older.iter().filter_map(number).max().unwrap_or(0);
    let seconds = (now() as u64).max(newest + 1);
    format!("events.out.tfevents.{seconds:010}.rosette.{}", std::process::id())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `Event { wall_time: 1, step: 2, .. }`
fn event(time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(time.to_le_bytes());
    out.extend(varint_field(2, step));
    out.extend(what);
    out
}

/// `file_version: 3`, which opens every file.
fn version() -> Vec<u8> {
    event(now(), 0, &bytes_field(3, b"brain.Event:2"))
}

/// `session_log: 7 { status: 1 START }`
fn session_start() -> Vec<u8> {
    bytes_field(7, &varint_field(1, 1))
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn varint_field(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

fn bytes_field(field: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A record around a message.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(message.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(message);
    out.extend(masked_crc(message).to_le_bytes());
    out
}

/// The messages of a file, up to the first record that is not whole.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, body) = rest.split_at_checked(12)?;
        let (length, crc) = head.split_at(8);
        if masked_crc(length).to_le_bytes() != crc {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (message, after) = body.split_at_checked(length)?;
        let (crc, after) = after.split_at_checked(4)?;
        if masked_crc(message).to_le_bytes() != crc {
            return None;
        }
        rest = after;
        Some(message)
    })
}

/// The step of an event of ours, where it is a summary.
fn step_of_summary(message: &[u8]) -> Option<u64> {
    // wall_time takes nine bytes, the step's tag one.
    let rest = message.get(10..).filter(|_| message[9] == 2 << 3)?;
    let length = 1 + rest.iter().take(9).position(|byte| byte & 0x80 == 0)?;
    let step = rest[..length].iter().rev().fold(0, |step, byte| step << 7 | u64::from(byte & 0x7f));
    (rest.get(length) == Some(&(5 << 3 | 2))).then_some(step)
}

/// CRC-32C (Castagnoli), rotated and shifted as TFRecord has it.
fn masked_crc(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    let crc = !bytes
        .iter()
        .fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize]);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32C and one of RFC 3720, section B.4.
    #[test]
    fn the_checksum_is_castagnolis() {
        let unmasked = |bytes: &[u8]| masked_crc(bytes).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(unmasked(b"123456789"), 0xe306_9283);
        assert_eq!(unmasked(&[0; 32]), 0x8a91_36aa);
    }
}
