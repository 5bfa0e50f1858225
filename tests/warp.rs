//! Patches made on the device, against the f64 reference.

mod common;

use rosette::ops::warp;
use rosette::train::examine_patches;

#[test]
fn patches_agree_with_their_reference() {
    let Some(gpu) = common::device() else { return };
    let found = examine_patches(&gpu).expect("it runs");
    assert_eq!(found.failures, [""; 0]);
    // All six, and again those five that are not displaced, by the kernel for trainings without.
    assert_eq!(found.passed, 6 + 5);
    let compiled = gpu.compiled();
    for kernel in warp::kernels() {
        assert!(compiled.contains(&kernel), "{kernel} was not examined");
    }
}
