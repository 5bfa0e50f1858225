//! The split into training and validation samples, and the manifest that records it.
//!
//! The lists are those of scikit-learn's `train_test_split(sorted(names), test_size=..., random_state=...)`, both
//! sorted: a study that was split in Python keeps its split here.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use crate::data::mt19937::Mt19937;
use crate::error::{Error, Result};
use crate::files::{hex, read_text, write_atomic};

const REMEDY_MANIFEST: &str = "make the manifest again with 'rosette split'";

/// Which samples train and which validate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Sorted.
    pub train: Vec<String>,
    /// Sorted.
    pub val: Vec<String>,
}

/// Splits `names` so that `ceil(test_size * n)` of them validate. The order of `names` does not matter.
///
/// # Errors
/// A user error where there are less than two names, one of them twice, empty or a path, where `test_size` is not between 0
/// and 1 or leaves no training sample, or where `seed` is no 32-bit number (numpy takes no other).
pub fn split(names: &[String], test_size: f64, seed: u64) -> Result<Split> {
    let names = sorted_unique(names)?;
    let seed = u32::try_from(seed).map_err(|_| {
        Error::user("seed (--random-state)", "a number from 0 to 4294967295", seed, "give a smaller seed")
    })?;
    let val_count = validation_count(names.len(), test_size)?;
    let order = Mt19937::new(seed).permutation(names.len() as u32);
    let (val, train) = order.split_at(val_count);
    let pick = |indices: &[u32]| {
        let mut indices = indices.to_vec();
        indices.sort_unstable();
        indices.iter().map(|&i| names[i as usize].clone()).collect()
    };
    Ok(Split { train: pick(train), val: pick(val) })
}

/// Splits `names` `folds` times so that each validates once: the lists of scikit-learn's
/// `KFold(folds, shuffle=True, random_state=seed).split(sorted(names))`. The sorted names are shuffled and cut into
/// `folds` parts, the first `n % folds` of which have one more than `n / folds`; part i validates in split i.
///
/// # Errors
/// Those of [`split`]; a user error where there are fewer names than folds.
pub fn fold(names: &[String], folds: usize, seed: u32) -> Result<Vec<Split>> {
    let names = sorted_unique(names)?;
    let count = names.len();
    if folds > count {
        let remedy = "lower it, or add samples: each fold needs one to validate";
        return Err(Error::user("folds", format!("at most the number of samples, {count}"), folds, remedy));
    }
    let order = Mt19937::new(seed).permutation(count as u32);
    let mut rest = &order[..];
    let mut splits = Vec::with_capacity(folds);
    for part in 0..folds {
        let (val, later) = rest.split_at(count / folds + usize::from(part < count % folds));
        let (val, train) = (0..count as u32).partition::<Vec<u32>, _>(|index| val.contains(index));
        let pick = |indices: Vec<u32>| indices.into_iter().map(|i| names[i as usize].clone()).collect();
        splits.push(Split { train: pick(train), val: pick(val) });
        rest = later;
    }
    Ok(splits)
}

fn sorted_unique(names: &[String]) -> Result<Vec<String>> {
    let place = "samples (--samples)";
    if names.len() < 2 {
        let remedy = "give more samples: one at least must train and one validate";
        return Err(Error::user(place, "at least 2 samples to split", names.len(), remedy));
    }
    if names.iter().any(|name| name.trim().is_empty()) {
        return Err(Error::user(place, "sample names", "an empty name", "take it out of the list"));
    }
    if let Some(path) = names.iter().find(|name| name.contains(['/', '\\'])) {
        let remedy = "give the names of the samples' directories without what leads to them";
        return Err(Error::user(place, "sample names", format!("the path '{path}'"), remedy));
    }
    let mut sorted = names.to_vec();
    sorted.sort();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let found = format!("'{}' twice", pair[0]);
        return Err(Error::user(place, "every sample once", found, "take the repetition out of the list"));
    }
    Ok(sorted)
}

fn validation_count(samples: usize, test_size: f64) -> Result<usize> {
    let place = "val_split (--test-size)";
    if !(test_size > 0.0 && test_size < 1.0) {
        let remedy = "0.2 keeps a fifth of the samples for validation";
        return Err(Error::user(place, "a share above 0 and below 1", test_size, remedy));
    }
    let count = (test_size * samples as f64).ceil() as usize;
    if count >= samples {
        let found = format!("{test_size} of {samples}, which is all of them");
        let remedy = "lower it, or add samples";
        return Err(Error::user(place, "a share that leaves a sample to train on", found, remedy));
    }
    Ok(count)
}

/// The split manifest, key for key as the pipeline's `create_split.py` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// When, ISO 8601.
    pub split_created: String,
    /// How many samples there are.
    pub total_samples: usize,
    /// How many of them train.
    pub train_samples: usize,
    /// How many of them validate.
    pub val_samples: usize,
    /// The share that validates.
    pub test_size: f64,
    /// The seed.
    pub random_state: u64,
    /// SHA-256, in hexadecimal, of the sorted names of all samples joined by newlines: equal for equal sets. Manifests
    /// from elsewhere may hold any text or number; it is recorded, not checked.
    #[serde(deserialize_with = "text_or_number")]
    pub sample_order_hash: String,
    /// The names of those that train, sorted.
    pub train_sample_list: Vec<String>,
    /// The names of those that validate, sorted.
    pub val_sample_list: Vec<String>,
}

const KEYS: [&str; 9] = [
    "split_created",
    "total_samples",
    "train_samples",
    "val_samples",
    "test_size",
    "random_state",
    "sample_order_hash",
    "train_sample_list",
    "val_sample_list",
];

impl Manifest {
    /// Splits `names` and records it, as made now.
    ///
    /// # Errors
    /// Those of [`split`].
    pub fn create(names: &[String], test_size: f64, seed: u64) -> Result<Self> {
        Ok(Self::record(split(names, test_size, seed)?, test_size, seed, now()))
    }

    /// Records a split as made now, with the share that validates.
    pub fn of(split: Split, seed: u64) -> Self {
        let (val, all) = (split.val.len(), split.val.len() + split.train.len());
        Self::record(split, val as f64 / all as f64, seed, now())
    }

    /// The names of all samples, those that train first.
    pub fn samples(&self) -> Vec<String> {
        self.train_sample_list.iter().chain(&self.val_sample_list).cloned().collect()
    }

    /// Whether another one differs in nothing but when it was made.
    pub fn is_same(&self, other: &Self) -> bool {
        Self { split_created: self.split_created.clone(), ..other.clone() } == *self
    }

    /// Records a split as made at `created` (ISO 8601).
    pub fn record(split: Split, test_size: f64, seed: u64, created: String) -> Self {
        Self {
            split_created: created,
            total_samples: split.train.len() + split.val.len(),
            train_samples: split.train.len(),
            val_samples: split.val.len(),
            test_size,
            random_state: seed,
            sample_order_hash: order_hash(&split),
            train_sample_list: split.train,
            val_sample_list: split.val,
        }
    }

    /// Writes the manifest as JSON, whole or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(Error::failure)?;
        text.push('\n');
        write_atomic(path, text.as_bytes())
    }

    /// Reads a manifest; keys that are not known are passed over.
    ///
    /// # Errors
    /// A user error where the file cannot be read, is no JSON, lacks a key, holds a value of the wrong kind, or where
    /// its lists are empty, repeat a sample, share one, or are not as long as it says.
    pub fn read(path: &Path) -> Result<Self> {
        let place = &path.display();
        if !path.exists() {
            let remedy = "check the path, or make the manifest with 'rosette split'";
            return Err(Error::user(place, "a split manifest", "no such file", remedy));
        }
        let value: serde_json::Value = serde_json::from_str(&read_text(path)?).map_err(|e| {
            Error::user(
                place,
                "a split manifest in JSON",
                format!("text that is none ({e})"),
                REMEDY_MANIFEST,
            )
        })?;
        let Some(object) = value.as_object() else {
            return Err(Error::user(place, "a JSON object", "another kind of JSON value", REMEDY_MANIFEST));
        };
        if let Some(key) = KEYS.into_iter().find(|&key| !object.contains_key(key)) {
            let keys: Vec<&str> = object.keys().map(String::as_str).collect();
            let found = format!("only {}", keys.join(", "));
            return Err(Error::user(place, format!("the key '{key}'"), found, REMEDY_MANIFEST));
        }
        let manifest: Self = serde_json::from_value(value)
            .map_err(|e| Error::user(place, "values of the kinds that a manifest has", e, REMEDY_MANIFEST))?;
        manifest.check(path)?;
        Ok(manifest)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let lists = [
            ("train_sample_list", &self.train_sample_list, self.train_samples),
            ("val_sample_list", &self.val_sample_list, self.val_samples),
        ];
        let mut seen = std::collections::BTreeMap::new();
        for (key, list, count) in lists {
            let place = format!("{}: {key}", path.display());
            if list.is_empty() || list.len() != count {
                let expected = format!("as many names as the manifest says ({count}), and at least one");
                return Err(Error::user(place, expected, list.len(), REMEDY_MANIFEST));
            }
            for name in list {
                if let Some(earlier) = seen.insert(name, key) {
                    let found = format!("'{name}' again, which is in {earlier} already");
                    let remedy = "take it out of one: what trains must not validate";
                    return Err(Error::user(place, "every sample once", found, remedy));
                }
            }
        }
        Ok(())
    }
}

fn now() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// SHA-256 over the sorted names, joined by newlines.
fn order_hash(split: &Split) -> String {
    let mut names: Vec<&str> = split.train.iter().chain(&split.val).map(String::as_str).collect();
    names.sort_unstable();
    hex(&Sha256::digest(names.join("\n")))
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("sample_order_hash is {other}, not text"))),
    }
}
