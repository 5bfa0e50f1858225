//! What the tests that need a device share.

use rosette::gpu::Gpu;

/// A device that finds accesses beyond the end of storage, or `None` with a line that says so; fatal where `REQUIRE_GPU=1`.
pub fn device() -> Option<Gpu> {
    let adapter = std::env::var("ROSETTE_ADAPTER").ok();
    match Gpu::open_checked(adapter.as_deref()) {
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
