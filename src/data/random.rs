//! Random numbers that depend on what they are for, not on what was drawn before: any patch of any epoch can be drawn
//! again on its own, which is what an exact resume needs.

use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;

/// What a generator is for. Different purposes never share numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Where a training patch is cut.
    Patch = 1,
    /// The order of an epoch's patches.
    Shuffle = 2,
    /// Synthetic tissue.
    Tissue = 3,
    /// How a training patch is warped.
    Augmentation = 4,
}

/// The generator of `purpose` for a seed and three further numbers. They are the cipher's key, so that no two
/// combinations can collide.
pub fn generator(purpose: Purpose, seed: u64, numbers: [u64; 3]) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, value) in key.chunks_exact_mut(8).zip([seed, numbers[0], numbers[1], numbers[2]]) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(purpose as u64);
    rng
}
