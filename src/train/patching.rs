//! Whether a device makes training patches as their reference does.

use super::doctor::Examined;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Limits};
use crate::ops::warp::{self, NONE, Patch, PatchSource, RecordedPatches, Reference};
use crate::tape::{Element, Loaded, Mode, Program, SlotPool, Store, Stores, Tape};

const SIDE: usize = 32;
const HEIGHT: u32 = 50;
const WIDTH: u32 = 41;
/// Of the displacement's smoothing, in px.
const SIGMA: f64 = 1.5;
/// Largest error of a channel that is cut at whole pixels.
const EXACT: f64 = 1e-6;
/// The same between pixels, of smooth intensity, and of powers of it.
const ROUNDED: f64 = 2e-4;
/// A target is the nearest pixel's: so near to where two are equally near, rounding decides.
const UNDECIDED_PX: f64 = 1e-3;

/// Makes patches of a small sample by every kind of change and compares them, a case each.
///
/// # Errors
/// Where the device lacks memory, or was lost. A kernel that its driver refuses is a failure.
pub fn examine_patches(gpu: &Gpu) -> Result<Examined> {
    let mut entry = Examined::new("patches".into(), None, Element::F32);
    let (words, weights) = (sample(), warp::gaussian(SIGMA));
    // Where no patch of a training is ever displaced, another kernel makes them.
    let still = cases().into_iter().filter(|(_, _, patch)| patch.displacement == 0.0).collect();
    for (cases, weights) in [(cases().to_vec(), Some(&weights[..])), (still, None)] {
        match make(gpu, &cases, &words, weights) {
            Ok(made) => compare(&mut entry, &cases, made, &words),
            Err(Error::Refused(why)) => {
                entry.failures.push(why.lines().next().unwrap_or_default().to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(entry)
}

/// What is done to the sample, how much a channel may round, and the patch.
type PatchCase = (&'static str, f64, Patch);

fn compare(entry: &mut Examined, cases: &[PatchCase], made: Vec<(Vec<f32>, Vec<f32>)>, words: &[u32]) {
    let weights = warp::gaussian(SIGMA);
    for ((label, allowed, patch), (x, y)) in cases.iter().zip(made) {
        let wanted = warp::reference(patch, words, &weights, SIDE);
        let error = channel_error(&x, &wanted);
        let targets = wrong_targets(&y, &wanted);
        entry.forward = entry.forward.max(error);
        match error <= *allowed && targets == 0 {
            true => entry.passed += 1,
            false => entry.failures.push(format!(
                "{label}: channels {error:.1e}, allowed {allowed:.0e}; {targets} pixels of the target are others"
            )),
        }
    }
}

/// A sample of 50 x 41 px: planes, then intensity.
fn sample() -> Vec<u32> {
    let pixels = HEIGHT * WIDTH;
    let byte = |at: u32| (warp::pcg4d([at, 1, 2, 3])[0] & 7) as u8;
    let planes = (0..pixels.div_ceil(4)).map(|w| u32::from_le_bytes([0, 1, 2, 3].map(|b| byte(4 * w + b))));
    planes.chain((0..pixels).map(|at| (at as f32 / pixels as f32).to_bits())).collect()
}

fn cases() -> [PatchCase; 6] {
    let whole = Patch {
        chunk: 0,
        planes: 0,
        intensity: (HEIGHT * WIDTH).div_ceil(4),
        height: HEIGHT,
        width: WIDTH,
        mirror: 0,
        seed: [5, 6],
        map: [[0.0; 3]; 2],
        displacement: 0.0,
        gain: 1.0,
        gamma: 1.0,
        noise: 0.0,
        blur: 0.0,
        holes: [[0; 4]; warp::HOLES],
    };
    let plain = whole.plain(3, 7, SIDE);
    let turned = Patch { map: [[0.0, -1.0, 25.5], [1.0, 0.0, 20.5]], ..plain };
    let tilted = Patch { map: [[0.9, 0.2, 22.3], [-0.2, 1.1, 19.7]], mirror: 1, ..plain };
    let holes = [[2, 3, 9, 20], [0; 4], [30, 30, 32, 32], [0; 4], [0; 4]];
    [
        ("cut", EXACT, plain),
        ("beyond the sample", EXACT, whole.plain(40, 30, SIDE)),
        ("turned", EXACT, turned),
        ("displaced", ROUNDED, Patch { displacement: 9.0, ..tilted }),
        ("exposed", ROUNDED, Patch { gain: 1.2, gamma: 0.8, noise: 0.05, blur: 0.9, ..tilted }),
        ("blanked", ROUNDED, Patch { holes, intensity: NONE, ..tilted }),
    ]
}

/// Records the making of so many patches.
fn record(
    limits: Limits,
    count: usize,
    chunk_words: usize,
    weights: Option<&[f32]>,
) -> (Program, RecordedPatches) {
    let mut tape = Tape::new(limits, Mode::Evaluate);
    let source = PatchSource { chunks: 1, chunk_words, radius: weights.map(|weights| weights.len() - 1) };
    let made = warp::record(&mut tape, &source, count, SIDE);
    [made.x, made.y].into_iter().for_each(|id| tape.keep(id));
    (tape.finish(), made)
}

/// Channels [P, P, 4] and target [P, P] of each patch.
fn make(
    gpu: &Gpu,
    cases: &[PatchCase],
    words: &[u32],
    weights: Option<&[f32]>,
) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
    let patches: Vec<Patch> = cases.iter().map(|(_, _, patch)| *patch).collect();
    let (program, made) = record(gpu.limits(), patches.len(), words.len(), weights);
    let buffer = gpu.buffer("samples", 4 * words.len() as u64)?;
    gpu.write(&buffer, 0, bytemuck::cast_slice(words));
    let (stores, mut pool) = (Stores::from([(Store::Samples(0), buffer)]), SlotPool::default());
    let loaded = Loaded::new(gpu, program, &stores, &mut pool)?;
    pool.poison(gpu);
    loaded.write(gpu, made.patches, bytemuck::cast_slice(&patches));
    if let (Some(id), Some(weights)) = (made.weights, weights) {
        loaded.write(gpu, id, weights);
    }
    gpu.run(&loaded.executable);
    let (x, y) = (loaded.read(gpu, made.x)?, loaded.read(gpu, made.y)?);
    let pixels = SIDE * SIDE;
    Ok(x.chunks(4 * pixels).zip(y.chunks(pixels)).map(|(x, y)| (x.to_vec(), y.to_vec())).collect())
}

/// What that runs.
#[cfg(test)]
pub(super) fn kernels(limits: Limits) -> Vec<crate::gpu::Kernel> {
    let weights = warp::gaussian(SIGMA);
    let of = |weights| record(limits, 1, 64, weights).0.into_kernels().collect::<Vec<_>>();
    [Some(&weights[..]), None].into_iter().flat_map(of).collect()
}

fn channel_error(x: &[f32], wanted: &Reference) -> f64 {
    let errors = x.iter().zip(&wanted.x).map(|(found, wanted)| (f64::from(*found) - wanted).abs());
    errors.fold(0.0, |most, error| if error.is_nan() { f64::INFINITY } else { most.max(error) })
}

/// Pixels whose target is another one, where rounding does not decide.
fn wrong_targets(y: &[f32], wanted: &Reference) -> usize {
    let is_undecided = |at: f64| (at - at.floor() - 0.5).abs() < UNDECIDED_PX;
    let all = y.iter().zip(&wanted.y).zip(&wanted.at);
    all.filter(|((found, wanted), at)| {
        f64::from(**found) != **wanted && !at.iter().copied().any(is_undecided)
    })
    .count()
}
