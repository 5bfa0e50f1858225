//! What a device can do at best: multiply-adds in registers, and copying memory. Kernels are compared with these.

use serde::Serialize;

use super::device::Gpu;
use super::executor::{Binding, Command};
use super::kernel::Kernel;
use super::shader::{ShaderSource, Variant};
use crate::error::Result;

const SHADER: ShaderSource =
    ShaderSource { name: "ceiling", text: include_str!("../../shaders/ceiling.wgsl") };
/// Runs of each kernel; the fastest counts.
const RUNS: usize = 5;

crate::params! {
    struct CeilingParams { len: u32, rounds: u32 }
}

/// The ceilings of a device.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// f32 multiply-adds, counted as two operations.
    pub gflops: f64,
    /// Copying, read and written bytes both counted.
    pub gigabytes_per_s: f64,
}

impl Gpu {
    /// Measures the device's ceilings, in a second or less.
    ///
    /// # Errors
    /// Where the adapter has no timestamps, lacks memory, or was lost.
    pub fn ceilings(&self) -> Result<Ceilings> {
        // Enough work to fill the device, and on a processor little enough not to bore.
        let (invocations, rounds, copied_bytes) =
            if self.limits().software { (4096, 8, 32 << 20) } else { (1 << 20, 16, 256 << 20) };
        let copied_bytes = self.limits().storage_binding_bytes.min(copied_bytes);
        let len = (copied_bytes / 16) as u32;
        let add_ms =
            self.best_ms("multiply_add", CeilingParams { len, rounds }, invocations, copied_bytes)?;
        let copy_ms = self.best_ms("copy", CeilingParams { len, rounds: 0 }, len, copied_bytes)?;
        let operations = f64::from(invocations) * f64::from(rounds) * 64.0 * 8.0 * 4.0 * 2.0;
        Ok(Ceilings {
            gflops: operations / add_ms / 1e6,
            gigabytes_per_s: 2.0 * copied_bytes as f64 / copy_ms / 1e6,
        })
    }

    fn best_ms(
        &self,
        entry: &'static str,
        params: CeilingParams,
        invocations: u32,
        bytes: u64,
    ) -> Result<f64> {
        let kernel = Kernel::new(SHADER, entry, Variant::new());
        let buffers = [self.buffer("ceiling x", bytes)?, self.buffer("ceiling y", bytes)?];
        let bind = |buffer| Binding { buffer, offset_bytes: 0, size_bytes: bytes };
        let groups = invocations.div_ceil(kernel.reflection().workgroup_size);
        let params = bytemuck::bytes_of(&params).to_vec();
        let command = Command { kernel, bindings: vec![bind(0), bind(1)], params, groups };
        let executable = self.load(&[command], &buffers)?;
        let mut best_ms = f64::INFINITY;
        for _ in 0..RUNS {
            best_ms = best_ms.min(self.run_profiled(&executable)?[0]);
        }
        Ok(best_ms)
    }
}
