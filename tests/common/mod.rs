//! What the tests that need a device share.

use rosette::gpu::{Gpu, Watched};

/// A device that finds accesses beyond the end of storage, and races too with `WATCH_RACES=1`; or `None` with a line that says so,
/// fatal where `REQUIRE_GPU=1`.
pub fn device() -> Option<Gpu> {
    let races = std::env::var("WATCH_RACES").is_ok_and(|v| v == "1");
    watched(if races { Watched::BoundsAndRaces } else { Watched::Bounds })
}

/// The same, which always finds races in a workgroup's memory: kernels that have such take a software adapter three times as long.
#[allow(dead_code, reason = "not every test that shares this needs it")]
pub fn device_for_races() -> Option<Gpu> {
    watched(Watched::BoundsAndRaces)
}

fn watched(what: Watched) -> Option<Gpu> {
    let adapter = std::env::var("ROSETTE_ADAPTER").ok();
    match Gpu::open_watched(adapter.as_deref(), what) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var("REQUIRE_GPU").is_ok_and(|v| v == "1") => {
            panic!("REQUIRE_GPU=1: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}
