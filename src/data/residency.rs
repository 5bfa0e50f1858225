//! Training samples in device memory: all of them at once where they fit a budget; else a few at a time, in slots that
//! are refilled in an order known ahead. What a patch shows is the same either way.
//!
//! A sample is a byte a pixel (bit 0 boundary, 1 cell, 2 rosette; four to a word), then, where it has one, its intensity
//! as f32: see [`crate::ops::warp`].

use std::collections::{HashMap, HashSet, VecDeque};

use crate::data::augment::{Place, plane_words};
use crate::data::channels::Prepared;
use crate::error::{Error, Result};
use crate::ops::warp::{BOUNDARY, CELL, ROSETTE};

/// A sample on its way to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Where it goes.
    pub place: Place,
    /// The sample's words.
    pub words: Vec<u32>,
}

/// How samples share device memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    /// Buffers.
    pub chunks: usize,
    /// Words of each of them.
    pub chunk_words: usize,
    layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// Each sample has a place of its own.
    Resident(Vec<Place>),
    /// Samples take turns with these.
    Slots(Vec<Place>),
}

/// The words of a sample.
pub fn pack(image: &Prepared) -> Vec<u32> {
    let bits = |at: usize| {
        let planes = [(image.boundary[at], BOUNDARY), (image.cells[at], CELL), (image.target[at], ROSETTE)];
        planes.iter().filter(|(set, _)| *set > 0).map(|(_, bit)| bit).sum::<u8>()
    };
    let len = image.target.len();
    let byte = |at: usize| if at < len { bits(at) } else { 0 };
    let planes = (0..len.div_ceil(4)).map(|w| u32::from_le_bytes([0, 1, 2, 3].map(|b| byte(4 * w + b))));
    planes.chain(image.intensity.iter().flatten().map(|v| v.to_bits())).collect()
}

/// The memory that a sample takes on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleSize {
    /// Its name and its sides, to be told.
    label: String,
    words: usize,
}

impl SampleSize {
    /// That of a sample.
    pub fn of(image: &Prepared) -> Self {
        let words = plane_words(image) + image.intensity.as_ref().map_or(0, Vec::len);
        Self { label: format!("sample '{}', {} x {} px", image.name, image.height, image.width), words }
    }
}

impl Residency {
    /// Plans for `budget_words` in buffers of at most `most_chunk_words`. A batch of `batch_size` patches always finds
    /// room, whatever the budget.
    ///
    /// # Errors
    /// A user error where one sample exceeds a buffer.
    pub fn plan(
        samples: &[Prepared],
        budget_words: usize,
        most_chunk_words: usize,
        batch_size: usize,
    ) -> Result<Self> {
        let sizes: Vec<SampleSize> = samples.iter().map(SampleSize::of).collect();
        Self::of_sizes(&sizes, budget_words, most_chunk_words, batch_size)
    }

    /// [`Residency::plan`] by the samples' sizes alone.
    ///
    /// # Errors
    /// A user error where one sample exceeds a buffer.
    ///
    /// # Panics
    /// Without samples.
    pub fn of_sizes(
        sizes: &[SampleSize],
        budget_words: usize,
        most_chunk_words: usize,
        batch_size: usize,
    ) -> Result<Self> {
        let largest = sizes.iter().max_by_key(|size| size.words).expect("a dataset has samples");
        let largest_words = largest.words.max(1);
        if largest_words > most_chunk_words {
            let expected = format!("at most {} MiB on this adapter", most_chunk_words >> 18);
            let found = format!("{} MiB", largest_words >> 18);
            let remedy = "cut the image into parts, or take another adapter";
            return Err(Error::user(&largest.label, expected, found, remedy));
        }
        let words: Vec<usize> = sizes.iter().map(|size| size.words).collect();
        let total: usize = words.iter().sum();
        let needed = batch_size.min(words.len());
        if total <= budget_words || words.len() <= needed {
            return Ok(Self::resident(&words, most_chunk_words.min(total)));
        }
        let per_chunk = most_chunk_words / largest_words;
        let slots = (budget_words / largest_words).clamp(needed, words.len());
        let place =
            |slot: usize| Place { chunk: slot / per_chunk, first_word: slot % per_chunk * largest_words };
        Ok(Self {
            chunks: slots.div_ceil(per_chunk),
            chunk_words: slots.min(per_chunk) * largest_words,
            layout: Layout::Slots((0..slots).map(place).collect()),
        })
    }

    fn resident(words: &[usize], most_chunk_words: usize) -> Self {
        let (mut places, mut next, mut chunk_words) = (Vec::new(), Place { chunk: 0, first_word: 0 }, 1);
        for words in words.iter().copied() {
            if next.first_word + words > most_chunk_words {
                next = Place { chunk: next.chunk + 1, first_word: 0 };
            }
            places.push(next);
            next.first_word += words;
            chunk_words = chunk_words.max(next.first_word);
        }
        Self { chunks: next.chunk + 1, chunk_words, layout: Layout::Resident(places) }
    }

    /// Whether every sample stays on the device.
    pub fn is_resident(&self) -> bool {
        matches!(self.layout, Layout::Resident(_))
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> u64 {
        4 * self.chunks as u64 * self.chunk_words as u64
    }

    /// What is uploaded before the first step.
    pub fn first_uploads<'a>(&'a self, samples: &'a [Prepared]) -> impl Iterator<Item = Upload> + 'a {
        let places: &[Place] = match &self.layout {
            Layout::Resident(places) => places,
            Layout::Slots(_) => &[],
        };
        places.iter().zip(samples).map(|(place, sample)| Upload { place: *place, words: pack(sample) })
    }

    /// The schedule of an epoch, or of the rest of one, whose patches come from `order`. It starts from empty slots.
    pub fn schedule(&self, order: impl Iterator<Item = usize>) -> Schedule<'_> {
        let mut uses: HashMap<usize, VecDeque<usize>> = HashMap::new();
        if !self.is_resident() {
            order.enumerate().for_each(|(at, sample)| uses.entry(sample).or_default().push_back(at));
        }
        Schedule { residency: self, uses, held: HashMap::new() }
    }
}

/// Which sample is in which slot as an epoch goes on.
pub struct Schedule<'a> {
    residency: &'a Residency,
    /// The places in the order at which each sample is still needed.
    uses: HashMap<usize, VecDeque<usize>>,
    /// Slots by sample.
    held: HashMap<usize, usize>,
}

impl Schedule<'_> {
    /// Where the samples of the next batch lie, and what has to be uploaded before it. A slot is given up by the sample
    /// that is needed last, or no more.
    ///
    /// # Panics
    /// Where the batch has more samples than the residency was planned for.
    pub fn next_batch(&mut self, samples: &[usize], dataset: &[Prepared]) -> (Vec<Place>, Vec<Upload>) {
        let slots = match &self.residency.layout {
            Layout::Resident(places) => return (samples.iter().map(|s| places[*s]).collect(), Vec::new()),
            Layout::Slots(slots) => slots,
        };
        let needed: HashSet<usize> = samples.iter().copied().collect();
        for sample in samples {
            self.uses.get_mut(sample).expect("it is in the order").pop_front();
        }
        let mut uploads = Vec::new();
        for sample in samples {
            if self.held.contains_key(sample) {
                continue;
            }
            let slot = self.free_slot(slots.len(), &needed);
            self.held.insert(*sample, slot);
            uploads.push(Upload { place: slots[slot], words: pack(&dataset[*sample]) });
        }
        (samples.iter().map(|sample| slots[self.held[sample]]).collect(), uploads)
    }

    fn free_slot(&mut self, slots: usize, needed: &HashSet<usize>) -> usize {
        if self.held.len() < slots {
            // Slots are only ever handed on: those in use are the first.
            return self.held.len();
        }
        let next_use = |sample: &usize| self.uses[sample].front().copied().unwrap_or(usize::MAX);
        let idle = self.held.keys().filter(|sample| !needed.contains(sample));
        // The number decides between samples that are not needed any more.
        let leaves = idle.max_by_key(|sample| (next_use(sample), **sample)).copied();
        self.held.remove(&leaves.expect("a slot for every sample of a batch")).expect("it is held")
    }
}
