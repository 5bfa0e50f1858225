//! Patches made on the device, against the f64 reference.

mod common;

use rosette::ops::warp::{self, NONE, Patch, PatchSource};
use rosette::tape::{Loaded, Mode, SlotPool, Store, Stores, Tape};

const SIDE: usize = 32;
const HEIGHT: u32 = 50;
const WIDTH: u32 = 41;

/// A sample of 50 x 41 px: planes, then intensity.
fn sample() -> Vec<u32> {
    let pixels = HEIGHT * WIDTH;
    let byte = |at: u32| (warp::pcg4d([at, 1, 2, 3])[0] & 7) as u8;
    let planes = (0..pixels.div_ceil(4)).map(|w| u32::from_le_bytes([0, 1, 2, 3].map(|b| byte(4 * w + b))));
    planes.chain((0..pixels).map(|at| (at as f32 / pixels as f32).to_bits())).collect()
}

fn plain(top: f32, left: f32) -> Patch {
    let middle = SIDE as f32 / 2.0 - 0.5;
    Patch {
        chunk: 0,
        planes: 0,
        intensity: (HEIGHT * WIDTH).div_ceil(4),
        height: HEIGHT,
        width: WIDTH,
        mirror: 0,
        seed: [5, 6],
        map: [[1.0, 0.0, top + middle], [0.0, 1.0, left + middle]],
        displacement: 0.0,
        gain: 1.0,
        gamma: 1.0,
        noise: 0.0,
        blur: 0.0,
        holes: [[0; 4]; warp::HOLES],
    }
}

#[test]
fn patches_agree_with_their_reference() {
    let Some(gpu) = common::device() else { return };
    let turned = Patch { map: [[0.0, -1.0, 25.5], [1.0, 0.0, 20.5]], ..plain(0.0, 0.0) };
    let tilted = Patch { map: [[0.9, 0.2, 22.3], [-0.2, 1.1, 19.7]], mirror: 1, ..plain(0.0, 0.0) };
    let patches = [
        plain(3.0, 7.0),
        plain(40.0, 30.0),
        turned,
        Patch { displacement: 9.0, ..tilted },
        Patch { gain: 1.2, gamma: 0.8, noise: 0.05, blur: 0.9, ..tilted },
        Patch { holes: [[2, 3, 9, 20], [0; 4], [30, 30, 32, 32], [0; 4], [0; 4]], intensity: NONE, ..tilted },
    ];
    let (words, weights) = (sample(), warp::gaussian(1.5));
    let mut tape = Tape::new(gpu.limits(), Mode::Evaluate);
    let source = PatchSource { chunks: 1, chunk_words: words.len(), radius: Some(weights.len() - 1) };
    let made = warp::record(&mut tape, &source, patches.len(), SIDE);
    [made.x, made.y].into_iter().for_each(|id| tape.keep(id));
    let buffer = gpu.buffer("samples", 4 * words.len() as u64).unwrap();
    gpu.write(&buffer, 0, bytemuck::cast_slice(&words));
    let (stores, mut pool) = (Stores::from([(Store::Samples(0), buffer)]), SlotPool::default());
    let loaded = Loaded::new(&gpu, tape.finish(), &stores, &mut pool).unwrap();
    pool.poison(&gpu);
    loaded.write(&gpu, made.patches, bytemuck::cast_slice(&patches));
    loaded.write(&gpu, made.weights.unwrap(), &weights);
    gpu.run(&loaded.executable);
    let (x, y) = (loaded.read(&gpu, made.x).unwrap(), loaded.read(&gpu, made.y).unwrap());
    for (place, patch) in patches.iter().enumerate() {
        let wanted = warp::reference(patch, &words, &weights, SIDE);
        for at in 0..SIDE * SIDE {
            for c in 0..4 {
                let (found, wanted) = (x[(place * SIDE * SIDE + at) * 4 + c], wanted.x[4 * at + c]);
                let most = if place < 3 { 0.0 } else { 2e-4 };
                assert!((f64::from(found) - wanted).abs() <= most, "{place} {at} {c}: {found} {wanted}");
            }
            let near_edge = |v: f64| (v - v.floor() - 0.5).abs() < 1e-3;
            if place < 3 || !wanted.at[at].into_iter().any(near_edge) {
                assert_eq!(f64::from(y[place * SIDE * SIDE + at]), wanted.y[at], "{place} {at}");
            }
        }
    }
}
