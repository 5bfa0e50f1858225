//! Samples into memory and batches ahead of the device: files are read by several threads, batches prepared by one
//! that stays two ahead of whoever takes them. What comes out does not depend on the number of threads.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rand::seq::SliceRandom;
use sha2::{Digest, Sha256};

use crate::config::AugmentationConfig;
use crate::data::augment::{Place, draw_patch};
use crate::data::channels::Prepared;
use crate::data::patches::{CHANNELS, Crop, draw_crop};
use crate::data::random::{Purpose, generator};
use crate::data::residency::{Residency, Upload, pack};
use crate::data::sample::Sample;
use crate::data::tiles::{Tile, tiles, write_tile};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::ops::warp::Patch;

/// How many batches wait, ready.
const BATCHES_AHEAD: usize = 2;

/// Samples in memory, in the order they were asked for.
#[derive(Debug)]
pub struct Dataset {
    samples: Vec<Prepared>,
    warnings: Vec<String>,
}

impl Dataset {
    /// Loads `names` from `data_dir` on up to `threads` threads, each file once.
    ///
    /// # Errors
    /// A user error where the list is empty; else the error of the first sample in the list that cannot be loaded,
    /// whichever thread came upon it.
    pub fn load(data_dir: &Path, names: &[String], use_intensity: bool, threads: usize) -> Result<Self> {
        if names.is_empty() {
            let remedy = "check the split manifest";
            return Err(Error::user(data_dir.display(), "samples to load", "an empty list", remedy));
        }
        let slots: Vec<Mutex<Option<Result<Prepared>>>> = names.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let failed = AtomicUsize::new(usize::MAX);
        let work = || {
            while let index = next.fetch_add(1, Ordering::Relaxed)
                && index < names.len().min(failed.load(Ordering::Relaxed))
            {
                let loaded = Sample::load(data_dir, &names[index], use_intensity).map(Prepared::new);
                if loaded.is_err() {
                    failed.fetch_min(index, Ordering::Relaxed);
                }
                *slots[index].lock().expect("no thread panics while it stores") = Some(loaded);
            }
        };
        std::thread::scope(|scope| {
            (0..threads.clamp(1, names.len())).for_each(|_| drop(scope.spawn(work)));
        });
        let loaded = slots.into_iter().map_while(|slot| slot.into_inner().expect("as above"));
        Ok(Self::new(loaded.collect::<Result<_>>()?))
    }

    /// A dataset of samples that are in memory already.
    pub fn new(samples: Vec<Prepared>) -> Self {
        let warnings = warnings(&samples);
        Self { samples, warnings }
    }

    /// The samples.
    pub fn samples(&self) -> &[Prepared] {
        &self.samples
    }

    /// SHA-256 over the samples' names, sizes and planes, in order: what a training has learnt from.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for sample in &self.samples {
            hash.update(format!("{} {} {}\n", sample.name, sample.height, sample.width));
            hash.update(bytemuck::cast_slice::<u32, u8>(&pack(sample)));
        }
        hex(&hash.finalize())
    }

    /// What is allowed and yet hardly meant, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn warnings(samples: &[Prepared]) -> Vec<String> {
    let without: Vec<&str> =
        samples.iter().filter(|s| s.rosette_pixels.is_empty()).map(|s| s.name.as_str()).collect();
    let mut warnings = Vec::new();
    if without.len() == samples.len() {
        warnings.push(format!(
            "no sample of {} has a rosette pixel in 'rosettes_binary': the network can only learn to answer no",
            samples.len()
        ));
    } else if !without.is_empty() {
        warnings.push(format!("{} without any rosette pixel: {}", without.len(), without.join(", ")));
    }
    let empty = samples.iter().filter(|s| s.cells.iter().all(|&c| c == 0));
    warnings.extend(empty.map(|s| format!("{} has no cell in 'segmentation_outlines'", s.name)));
    warnings
}

/// What an epoch of training patches is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchPlan {
    /// Side of a patch, P.
    pub patch_px: usize,
    /// Patches in a batch, B; the last batch of an epoch may be shorter.
    pub batch_size: usize,
    /// How many patches each sample gives in an epoch.
    pub patches_per_sample: usize,
    /// Share of the crops that are centred on a rosette pixel, 0 to 1.
    pub foreground_share: f64,
    /// What is done to them.
    pub augmentation: AugmentationConfig,
    /// The run's seed.
    pub seed: u64,
    /// The epoch.
    pub epoch: u64,
}

/// The order of an epoch: (sample, draw) for each patch. Depends on the seed, the epoch and the counts alone.
pub fn epoch_order(samples: usize, plan: &PatchPlan) -> Vec<(usize, usize)> {
    let mut order: Vec<(usize, usize)> = (0..samples)
        .flat_map(|sample| (0..plan.patches_per_sample).map(move |draw| (sample, draw)))
        .collect();
    order.shuffle(&mut generator(Purpose::Shuffle, plan.seed, [plan.epoch, 0, 0]));
    order
}

/// Patch number `draw` of sample number `sample`, which lies at `place`.
pub fn patch_of(dataset: &Dataset, plan: &PatchPlan, place: Place, (sample, draw): (usize, usize)) -> Patch {
    let image = &dataset.samples[sample];
    let numbers = [plan.epoch, sample as u64, draw as u64];
    let crop = draw_crop(image, plan.patch_px, plan.foreground_share, plan.seed, numbers);
    draw_patch(image, place, crop, plan.patch_px, &plan.augmentation, plan.seed, numbers)
}

/// Training patches for the device to make.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchBatch {
    /// What each patch is made of: the batch size of them, or fewer in the last batch.
    pub patches: Vec<Patch>,
    /// Each patch's sample, as an index into [`Dataset::samples`].
    pub samples: Vec<usize>,
    /// Samples that must be on the device first.
    pub uploads: Vec<Upload>,
}

/// One epoch of training batches, prepared ahead on a thread of its own.
pub struct TrainBatches(Ahead<PatchBatch>);

impl TrainBatches {
    /// Starts an epoch at batch number `first` (0 for all of it): the patches from there on are those that a full
    /// epoch would give.
    ///
    /// # Panics
    /// Where the patch, the batch size or the patches per sample are 0: the configuration allows none of it.
    pub fn start(dataset: Arc<Dataset>, residency: Arc<Residency>, plan: PatchPlan, first: usize) -> Self {
        assert!(plan.patch_px > 0 && plan.batch_size > 0 && plan.patches_per_sample > 0, "{plan:?}");
        Self(Ahead::start(move |send| {
            let order = epoch_order(dataset.samples.len(), &plan);
            let rest = &order[(first * plan.batch_size).min(order.len())..];
            let mut schedule = residency.schedule(rest.iter().map(|(sample, _)| *sample));
            for entries in rest.chunks(plan.batch_size) {
                let samples: Vec<usize> = entries.iter().map(|(sample, _)| *sample).collect();
                let (places, uploads) = schedule.next_batch(&samples, &dataset.samples);
                let patch =
                    |(place, entry): (Place, &(usize, usize))| patch_of(&dataset, &plan, place, *entry);
                let patches = places.into_iter().zip(entries).map(patch).collect();
                if !send(PatchBatch { patches, samples, uploads }) {
                    return;
                }
            }
        }))
    }

    /// How many batches a whole epoch has.
    pub fn batches_per_epoch(samples: usize, plan: &PatchPlan) -> usize {
        (samples * plan.patches_per_sample).div_ceil(plan.batch_size)
    }
}

impl Iterator for TrainBatches {
    type Item = PatchBatch;

    fn next(&mut self) -> Option<PatchBatch> {
        self.0.next()
    }
}

/// Some validation tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Channels [count, P, P, 4] f32, those that are not used 0.
    pub x: Vec<f32>,
    /// Target [count, P, P] f32: 0, 1, or -1 where nothing is to be scored.
    pub y: Vec<f32>,
    /// Each tile's sample, as an index into [`Dataset::samples`]: `[count]`.
    pub samples: Vec<usize>,
    /// Where each tile was cut: `[count]`.
    pub crops: Vec<Crop>,
    /// How many tiles there are: the batch size, or less in the last batch.
    pub count: usize,
}

/// All tiles of all samples, in order, prepared ahead on a thread of its own. A tile's target is -1 where it is not
/// to be scored; over all batches each pixel of each image is scored once.
pub struct ValBatches(Ahead<Batch>);

impl ValBatches {
    /// Starts one pass over the dataset.
    ///
    /// # Panics
    /// Where the patch or the batch size is 0: the configuration allows neither.
    pub fn start(dataset: Arc<Dataset>, patch_px: usize, batch_size: usize) -> Self {
        assert!(patch_px > 0 && batch_size > 0, "patch {patch_px} px, batch {batch_size}");
        let of_sample = |(sample, image): (usize, &Prepared)| {
            let all = tiles(image.height, image.width, patch_px);
            all.into_iter().map(move |tile| (sample, tile))
        };
        let entries: Vec<(usize, Tile)> = dataset.samples.iter().enumerate().flat_map(of_sample).collect();
        Self(Ahead::start(move |send| {
            for entries in entries.chunks(batch_size) {
                if !send(tile_batch(&dataset, patch_px, entries)) {
                    return;
                }
            }
        }))
    }
}

impl Iterator for ValBatches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        self.0.next()
    }
}

fn tile_batch(dataset: &Dataset, patch_px: usize, entries: &[(usize, Tile)]) -> Batch {
    let pixels = patch_px * patch_px;
    let mut x = vec![0.0; entries.len() * pixels * CHANNELS];
    let mut y = vec![0.0; entries.len() * pixels];
    let places = x.chunks_exact_mut(pixels * CHANNELS).zip(y.chunks_exact_mut(pixels));
    for ((sample, tile), (x, y)) in entries.iter().zip(places) {
        write_tile(&dataset.samples[*sample], tile, patch_px, x, y);
    }
    let (samples, crops) = entries.iter().map(|(sample, tile)| (*sample, tile.crop)).unzip();
    Batch { x, y, samples, crops, count: entries.len() }
}

/// A thread that makes batches and the bounded channel they come through.
struct Ahead<T> {
    batches: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Runs `make` on the thread. What it calls for each batch returns false where nobody takes any more: an epoch was
    /// cut short.
    fn start(make: impl FnOnce(&mut dyn FnMut(T) -> bool) + Send + 'static) -> Self {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let thread = std::thread::spawn(move || make(&mut |batch| sender.send(batch).is_ok()));
        Self { batches: Some(batches), thread: Some(thread) }
    }

    fn next(&mut self) -> Option<T> {
        let received = self.batches.as_ref()?.recv().ok();
        if received.is_none() {
            self.join();
        }
        received
    }
}

impl<T> Ahead<T> {
    /// Ends the thread; a panic in it goes on here rather than looking like the end of the epoch.
    fn join(&mut self) {
        self.batches = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.join();
    }
}
