//! Runs what the tape recorded: pipelines and bind groups are made once, then a step is one replay of commands.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::{Gpu, device_lost};
use super::kernel::Kernel;
use super::read_back::PendingRead;
use super::submissions::cut;
use super::watch::{Watch, watched};
use super::wide::widen;
use crate::error::{Error, Result};

/// Offsets of uniform bindings are multiples of this on every device.
const PARAMS_ALIGNMENT: usize = 256;
/// Most workgroups along one dimension; longer grids are folded (see `shared/grid.wgsl`).
const MAX_GROUPS: u32 = 65_535;
/// Workgroups of a row where there are several: what `shared/grid.wgsl` says.
const ROW: u32 = 1024;

/// A range of one of the buffers that a recording is loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Which buffer.
    pub buffer: usize,
    /// Start of the range.
    pub offset_bytes: u64,
    /// Length of the range.
    pub size_bytes: u64,
}

/// One dispatch, as the executor wants it.
#[derive(Debug, Clone)]
pub struct Command {
    /// What runs.
    pub kernel: Kernel,
    /// On what: one for each of the kernel's tensor bindings, in order.
    pub bindings: Vec<Binding>,
    /// The parameter block's bytes, empty where the kernel takes none.
    pub params: Vec<u8>,
    /// Workgroups.
    pub groups: u32,
    /// About how many floating-point operations its time is worth.
    pub operations: u64,
}

/// A device buffer, shared by the programs that use it.
#[derive(Debug, Clone)]
pub struct SharedBuffer(pub(super) wgpu::Buffer);

impl SharedBuffer {
    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.0.size()
    }
}

/// A recording with its pipelines, bind groups and parameters on the device: ready to be replayed.
pub struct Executable {
    steps: Vec<LoadedCommand>,
    /// What of it is submitted together.
    submissions: Vec<Range<usize>>,
}

struct LoadedCommand {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    watch: Option<wgpu::BindGroup>,
    grid: [u32; 2],
}

impl Gpu {
    /// A zeroed buffer for storage and uniform bindings, of at least 4 bytes.
    ///
    /// # Errors
    /// A user error where the adapter makes no buffer so large; a failure where the device has no memory for it.
    pub fn buffer(&self, label: &str, size_bytes: u64) -> Result<SharedBuffer> {
        let size = size_bytes.max(4).next_multiple_of(4);
        let (most_mib, size_mib) = (self.limits().buffer_bytes >> 20, size as f64 / f64::from(1 << 20));
        if size > self.limits().buffer_bytes {
            let expected = format!("buffers of at most {most_mib} MiB on this adapter");
            let remedy = "reduce batch_size, patch_size or base_channels, and see `rosette train --plan`";
            return Err(Error::user(label, expected, format!("{size_mib:.1} MiB"), remedy));
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::UNIFORM
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(SharedBuffer(buffer)),
            Some(error) => Err(Error::OutOfMemory(format!(
                "the device has no memory for {label} ({size_mib:.1} MiB): {error}; \
                 reduce batch_size, patch_size or base_channels, and see `rosette train --plan`"
            ))),
        }
    }

    /// Uploads bytes (a multiple of 4) into a buffer, before whatever is submitted next.
    pub fn write(&self, buffer: &SharedBuffer, offset_bytes: u64, bytes: &[u8]) {
        self.queue.write_buffer(&buffer.0, offset_bytes, bytes);
    }

    /// Fills a buffer with one 32-bit pattern; tests poison transient memory so that nothing reads what nothing wrote.
    pub fn fill(&self, buffer: &SharedBuffer, pattern: u32) {
        const CHUNK: usize = 1 << 22;
        let bytes: Vec<u8> = pattern.to_le_bytes().repeat(CHUNK.min(buffer.0.size() as usize) / 4);
        let mut offset = 0;
        while offset < buffer.0.size() {
            let len = (buffer.0.size() - offset).min(bytes.len() as u64);
            self.queue.write_buffer(&buffer.0, offset, &bytes[..len as usize]);
            offset += len;
        }
    }

    /// Zeroes a buffer, after everything submitted so far.
    pub fn clear(&self, buffer: &SharedBuffer) {
        self.clear_range(buffer, 0..buffer.0.size());
    }

    /// The same of a range.
    pub fn clear_range(&self, buffer: &SharedBuffer, range: Range<u64>) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.clear_buffer(&buffer.0, range.start, Some(range.end - range.start));
        self.queue.submit([encoder.finish()]);
    }

    /// Makes the pipelines and bind groups of a recording, on several threads where it helps.
    ///
    /// # Errors
    /// Where the driver refuses a kernel, or has no memory.
    ///
    /// # Panics
    /// Where a command does not fit its kernel: the recording is wrong.
    pub fn load(&self, commands: &[Command], buffers: &[SharedBuffer]) -> Result<Executable> {
        let pipelines = self.pipelines(commands)?;
        let params = self.upload_params(commands)?;
        let mut offset = 0;
        let mut steps = Vec::with_capacity(commands.len());
        for command in commands {
            let pipeline = pipelines[&command.kernel].clone();
            let bind_group = self.bind_group(command, &pipeline, buffers, &params, offset);
            offset += command.params.len().next_multiple_of(PARAMS_ALIGNMENT) as u64;
            let watch = self.watch.as_ref();
            let watch = watch.map(|watch| watch.bind_group(&self.device, &command.kernel, &pipeline));
            steps.push(LoadedCommand { pipeline, bind_group, watch, grid: fold(command.groups) });
        }
        let operations: Vec<u64> = commands.iter().map(|command| command.operations).collect();
        Ok(Executable { steps, submissions: cut(&operations, self.limits()) })
    }

    fn pipelines(&self, commands: &[Command]) -> Result<HashMap<Kernel, wgpu::ComputePipeline>> {
        let distinct: HashSet<Kernel> = commands.iter().map(|command| command.kernel.clone()).collect();
        self.compile_missing(&distinct)?;
        let made = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(distinct.into_iter().map(|kernel| (kernel.clone(), made[&kernel].clone())).collect())
    }

    /// Makes pipelines before they are loaded, many side by side. What the driver refuses is told when it is loaded.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn compile_ahead(&self, kernels: impl IntoIterator<Item = Kernel>) -> Result<()> {
        match self.compile_missing(&kernels.into_iter().collect()) {
            Err(Error::Refused(_)) => Ok(()),
            other => other,
        }
    }

    /// The kernels whose pipelines there are.
    pub fn compiled(&self) -> Vec<Kernel> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Makes the pipelines that no recording has needed so far, side by side.
    fn compile_missing(&self, kernels: &HashSet<Kernel>) -> Result<()> {
        let made = || self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<&Kernel> = {
            let made = made();
            kernels.iter().filter(|kernel| !made.contains_key(*kernel)).collect()
        };
        let next = AtomicUsize::new(0);
        // Some take a hundred times as long as others: who has done with one takes the next.
        let work = || -> Result<()> {
            let mut outcome = Ok(());
            while let Some(kernel) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.pipeline(kernel) {
                    Ok(pipeline) => drop(made().insert((*kernel).clone(), pipeline)),
                    Err(refused @ Error::Refused(_)) => outcome = Err(refused),
                    Err(error) => return Err(error),
                }
            }
            outcome
        };
        /// A compilation may take hundreds of megabytes.
        const MOST_THREADS: usize = 16;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = processors.min(MOST_THREADS).min(missing.len());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let outcomes = workers.into_iter().map(|worker| worker.join().expect("a compiler that returns"));
            let errors: Vec<Error> = outcomes.filter_map(Result::err).collect();
            // What loses the device counts for more than a refusal.
            errors.into_iter().max_by_key(|error| !matches!(error, Error::Refused(_))).map_or(Ok(()), Err)
        })
    }

    fn pipeline(&self, kernel: &Kernel) -> Result<wgpu::ComputePipeline> {
        // Scopes are of this thread alone. What none of them takes would end the process.
        let filters =
            [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let pipeline = self.compile(kernel);
        // A failure that loses the device is told nobody; the pipeline has no layout then.
        let probe = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        pipeline.get_bind_group_layout(0);
        let is_broken = pollster::block_on(probe.pop()).is_some();
        let errors: Vec<wgpu::Error> =
            scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).collect();
        match errors.into_iter().next() {
            None if !is_broken => Ok(pipeline),
            // Without memory for a pipeline wgpu gives the device up as well.
            None | Some(wgpu::Error::OutOfMemory { .. }) => Err(device_lost(format!(
                "{} could not make the kernel {kernel}\n  help: update the driver; deterministic: true does without kernels that \
                 have to be measured, precision: f32 without matrix units",
                self.summary()
            ))),
            Some(error) => {
                // One line, as it goes into tables too.
                let said = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
                let summary = self.summary();
                Err(Error::Refused(format!(
                    "{summary} refuses the kernel {kernel}: {said}\n  help: `rosette doctor` finds what a driver refuses, and \
                     trainings do without it from then on; else update the driver"
                )))
            }
        }
    }

    fn compile(&self, kernel: &Kernel) -> wgpu::ComputePipeline {
        let label = kernel.to_string();
        let mut text = Cow::from(kernel.text());
        if self.widens() {
            text = widen(&text).into();
        }
        if let Some(watch) = &self.watch {
            text = watched(&text, watch.what).into();
        }
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(text) };
        // SAFETY: the shaders are this program's own. The tests run every one of them in the form that finds accesses beyond
        // the end of storage; no loop in them runs without an end.
        #[allow(unsafe_code)]
        let module = unsafe {
            self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        };
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: None,
            module: &module,
            entry_point: Some(kernel.entry()),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: self.watch.as_ref().is_some_and(Watch::needs_zeros),
                ..Default::default()
            },
            cache: self.pipeline_cache(),
        })
    }

    /// All parameter blocks in one buffer, each on its own 256-byte boundary.
    fn upload_params(&self, commands: &[Command]) -> Result<SharedBuffer> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend_from_slice(&command.params);
            bytes.resize(bytes.len().next_multiple_of(PARAMS_ALIGNMENT), 0);
        }
        let buffer = self.buffer("params", bytes.len() as u64)?;
        self.write(&buffer, 0, &bytes);
        Ok(buffer)
    }

    fn bind_group(
        &self,
        command: &Command,
        pipeline: &wgpu::ComputePipeline,
        buffers: &[SharedBuffer],
        params: &SharedBuffer,
        params_offset: u64,
    ) -> wgpu::BindGroup {
        let mut tensors = command.bindings.iter();
        let entries: Vec<wgpu::BindGroupEntry> = command
            .kernel
            .reflection()
            .bindings
            .iter()
            .map(|info| {
                let (buffer, offset, size) = if info.name == "params" {
                    (&params.0, params_offset, command.params.len() as u64)
                } else {
                    let b = tensors.next().expect("one binding for each of the kernel's tensors");
                    (&buffers[b.buffer].0, b.offset_bytes, b.size_bytes)
                };
                let size = NonZeroU64::new(size);
                let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
                wgpu::BindGroupEntry { binding: info.index, resource }
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        })
    }

    /// Replays an executable: one submission or a few, no wait.
    pub fn run(&self, executable: &Executable) {
        self.replay(executable, |_| ());
    }

    /// The same, and starts copying a range back that the executable writes.
    pub fn run_and_read(
        &self,
        executable: &Executable,
        buffer: &SharedBuffer,
        range: Range<u64>,
    ) -> PendingRead {
        let (staging, submission) =
            self.replay(executable, |encoder| self.copy_back(encoder, buffer, range.clone()));
        PendingRead::of(staging, submission)
    }

    /// Replays an executable, and what `last` encodes after it.
    fn replay<T>(
        &self,
        executable: &Executable,
        last: impl FnOnce(&mut wgpu::CommandEncoder) -> T,
    ) -> (T, wgpu::SubmissionIndex) {
        let encode = |range: Range<usize>| {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            executable.steps[range].iter().for_each(|step| step.encode(&mut pass));
            drop(pass);
            encoder
        };
        let (tail, before) = executable
            .submissions
            .split_last()
            .map_or((0..0, &[][..]), |(tail, before)| (tail.clone(), before));
        for range in before {
            self.queue.submit([encode(range.clone()).finish()]);
        }
        let mut encoder = encode(tail);
        let outcome = last(&mut encoder);
        (outcome, self.queue.submit([encoder.finish()]))
    }

    /// Replays an executable with a timestamp around every dispatch: milliseconds each, in order.
    ///
    /// # Errors
    /// Where the adapter has no timestamps, or was lost.
    pub fn run_profiled(&self, executable: &Executable) -> Result<Vec<f64>> {
        if !self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES) {
            return Err(Error::failure(format!("{} has no timestamps inside a pass", self.summary())));
        }
        let mut times_ms = Vec::with_capacity(executable.steps.len());
        let submissions = executable.submissions.iter().map(|range| &executable.steps[range.clone()]);
        for steps in submissions.flat_map(|steps| steps.chunks(wgpu::QUERY_SET_MAX_QUERIES as usize - 1)) {
            times_ms.extend(self.profile(steps)?);
        }
        Ok(times_ms)
    }

    fn profile(&self, steps: &[LoadedCommand]) -> Result<Vec<f64>> {
        let count = steps.len() as u32 + 1;
        let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let resolved = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: u64::from(count) * 8,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for (place, step) in steps.iter().enumerate() {
            pass.write_timestamp(&queries, place as u32);
            step.encode(&mut pass);
        }
        pass.write_timestamp(&queries, count - 1);
        drop(pass);
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        self.queue.submit([encoder.finish()]);
        let bytes = self.read(&SharedBuffer(resolved), 0..u64::from(count) * 8)?;
        let ticks: Vec<u64> = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let period_ms = f64::from(self.queue.get_timestamp_period()) * 1e-6;
        Ok(ticks.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period_ms).collect())
    }
}

impl LoadedCommand {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        if let Some(watch) = &self.watch {
            pass.set_bind_group(1, watch, &[]);
        }
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}

/// A row of workgroups as one, or as rows of [`ROW`] where it exceeds the limit; kernels ignore the few beyond the end.
fn fold(groups: u32) -> [u32; 2] {
    if groups <= MAX_GROUPS {
        return [groups, 1];
    }
    let rows = groups.div_ceil(ROW);
    assert!(rows <= MAX_GROUPS, "{groups} workgroups are more than a grid has");
    [ROW, rows]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_grids_cover_every_group_and_keep_the_limit() {
        let shader = include_str!("../../shaders/shared/grid.wgsl");
        assert!(shader.contains(&format!("const ROW = {ROW}u;")), "as the shaders count them");
        for groups in [1, 64, 65_535, 65_536, 1_000_003, MAX_GROUPS * ROW] {
            let [x, y] = fold(groups);
            assert!(x <= MAX_GROUPS && y <= MAX_GROUPS, "{groups}: {x} x {y}");
            assert!((groups..groups + ROW).contains(&(x * y)), "{groups}: {x} x {y}");
            assert!(y == 1 || x == ROW, "{groups}: {x} x {y}");
        }
    }
}
