//! What a device can do at best: multiply-adds in registers and on matrix units, and copying memory. Kernels are compared
//! with these.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::device::{Gpu, MatrixUnits};
use super::executor::{Binding, Command};
use super::kernel::Kernel;
use super::shader::{ShaderSource, Variant};
use crate::error::Result;

const SHADER: ShaderSource =
    ShaderSource { name: "ceiling", text: include_str!("../../shaders/ceiling.wgsl") };
const MATRIX_EIGHT: ShaderSource = ShaderSource {
    name: "ceiling_matrix8",
    text: concat!("#import matrix8\n", include_str!("../../shaders/ceiling_matrix.wgsl")),
};
const MATRIX_SIXTEEN: ShaderSource = ShaderSource {
    name: "ceiling_matrix16",
    text: concat!("#import matrix16\n", include_str!("../../shaders/ceiling_matrix.wgsl")),
};
/// Runs of each kernel at least; the fastest counts.
const FEWEST_RUNS: usize = 5;
/// There are as many more of them as fit this time: on a processor that others use too, five may all be slow.
const RUNS_FOR: Duration = Duration::from_millis(200);

crate::params! {
    struct CeilingParams { len: u32, rounds: u32 }
}

/// The ceilings of a device.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ceilings {
    /// f32 multiply-adds, counted as two operations.
    pub gflops: f64,
    /// The same in f16, where shaders have it.
    pub gflops_f16: Option<f64>,
    /// The same on matrix units, f16 added up in f32, where shaders can use them.
    pub gflops_matrix: Option<f64>,
    /// Copying, read and written bytes both counted.
    pub gigabytes_per_s: f64,
}

impl Ceilings {
    /// The most arithmetic that a kernel can do: on matrix units where it uses them.
    pub fn gflops_of(&self, on_matrix_units: bool) -> f64 {
        self.gflops_matrix.filter(|_| on_matrix_units).unwrap_or(self.gflops)
    }
}

/// The kernels that measure ceilings on any device, for tests.
pub fn ceiling_kernels() -> Vec<Kernel> {
    let half = Variant::new().with("V", "vec4<f16>");
    vec![
        Kernel::new(SHADER, "multiply_add", Variant::new()),
        Kernel::new(SHADER, "multiply_add", half),
        Kernel::new(SHADER, "copy", Variant::new()),
        Kernel::new(MATRIX_EIGHT, "matrix_multiply_add", Variant::new()),
        Kernel::new(MATRIX_SIXTEEN, "matrix_multiply_add", Variant::new()),
    ]
}

impl Gpu {
    /// Measures the device's ceilings, in a second or less.
    ///
    /// # Errors
    /// Where the adapter has no timestamps, lacks memory, or was lost.
    pub fn ceilings(&self) -> Result<Ceilings> {
        let [add, add_f16, copy, eight, sixteen] =
            ceiling_kernels().try_into().expect("as many as are listed");
        // Enough work to fill the device, and on a processor little enough not to bore.
        let (invocations, rounds, copied_bytes) =
            if self.limits().software { (4096, 32, 32 << 20) } else { (1 << 20, 16, 256 << 20) };
        let copied_bytes = self.limits().storage_binding_bytes.min(copied_bytes);
        let len = (copied_bytes / 16) as u32;
        let arithmetic = |kernel: Kernel, operations_a_round: f64| -> Result<f64> {
            let ms = self.best_ms(kernel, CeilingParams { len, rounds }, invocations, copied_bytes)?;
            Ok(f64::from(invocations) * f64::from(rounds) * operations_a_round / ms / 1e6)
        };
        let vector = 128.0 * 3.0 * 4.0 * 2.0;
        // Operations of a subgroup's eight chains, shared among its lanes.
        let lanes = f64::from(self.limits().subgroup_lanes.max(1));
        let matrix = |side: f64| 16.0 * 8.0 * 2.0 * side.powi(3) / lanes;
        let gflops_matrix = match self.limits().matrix {
            MatrixUnits::Eight => Some(arithmetic(eight, matrix(8.0))?),
            MatrixUnits::Sixteen => Some(arithmetic(sixteen, matrix(16.0))?),
            _ => None,
        };
        let copy_ms = self.best_ms(copy, CeilingParams { len, rounds: 0 }, len, copied_bytes)?;
        Ok(Ceilings {
            gflops: arithmetic(add, vector)?,
            gflops_f16: if self.limits().f16 { Some(arithmetic(add_f16, vector)?) } else { None },
            gflops_matrix,
            gigabytes_per_s: 2.0 * copied_bytes as f64 / copy_ms / 1e6,
        })
    }

    fn best_ms(&self, kernel: Kernel, params: CeilingParams, invocations: u32, bytes: u64) -> Result<f64> {
        let buffers = [self.buffer("ceiling x", bytes)?, self.buffer("ceiling y", bytes)?];
        let bind = |buffer| Binding { buffer, offset_bytes: 0, size_bytes: bytes };
        let groups = invocations.div_ceil(kernel.reflection().workgroup_size);
        let params = bytemuck::bytes_of(&params).to_vec();
        let command = Command { kernel, bindings: vec![bind(0), bind(1)], params, groups, operations: 0 };
        let executable = self.load(&[command], &buffers)?;
        let started = Instant::now();
        let (mut best_ms, mut runs) = (f64::INFINITY, 0);
        while runs < FEWEST_RUNS || started.elapsed() < RUNS_FOR {
            best_ms = best_ms.min(self.run_profiled(&executable)?[0]);
            runs += 1;
        }
        Ok(best_ms)
    }
}
