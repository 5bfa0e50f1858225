//! What the host reads back from the device: copies to buffers that it can see, which land while it does something else.

use std::ops::Range;
use std::sync::mpsc;

use super::device::{Gpu, device_lost};
use super::executor::SharedBuffer;
use crate::error::{Error, Result};

/// A copy from the device that is under way.
pub struct PendingRead {
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    ready: mpsc::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

impl PendingRead {
    /// Of a buffer that the submission copies to.
    pub(super) fn of(staging: wgpu::Buffer, submission: wgpu::SubmissionIndex) -> Self {
        let (sender, ready) = mpsc::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |outcome| {
            // The receiver is gone only where nobody waits any more.
            let _ = sender.send(outcome);
        });
        Self { staging, submission, ready }
    }
}

impl Gpu {
    /// Starts copying a range back; it lands after everything submitted so far.
    pub fn start_read(&self, buffer: &SharedBuffer, range: Range<u64>) -> PendingRead {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let staging = self.copy_back(&mut encoder, buffer, range);
        let submission = self.queue.submit([encoder.finish()]);
        PendingRead::of(staging, submission)
    }

    /// Encodes a copy to the buffer that it gives, for [`PendingRead::of`] once that is submitted.
    pub(super) fn copy_back(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        buffer: &SharedBuffer,
        range: Range<u64>,
    ) -> wgpu::Buffer {
        let size = range.end - range.start;
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(&buffer.0, range.start, &staging, 0, size);
        staging
    }

    /// Waits for a copy that [`Gpu::start_read`] or [`Gpu::run_and_read`] began.
    ///
    /// # Errors
    /// Where the device was lost.
    ///
    /// # Panics
    /// Where kernels are watched ([`Gpu::open_watched`]) and one did what it must not.
    pub fn finish_read(&self, pending: PendingRead) -> Result<Vec<u8>> {
        self.finish_read_as(pending)
    }

    /// The same as values, of which the range holds whole ones.
    ///
    /// # Errors
    /// As [`Gpu::finish_read`].
    pub fn finish_read_as<T: bytemuck::Pod>(&self, pending: PendingRead) -> Result<Vec<T>> {
        if let Some((watch, counts)) = self.watch.as_ref().and_then(|watch| Some((watch, watch.counts()?))) {
            let counts = self.start_read(&SharedBuffer(counts.0), 0..counts.1);
            watch.check(&self.finish_copy::<u8>(counts)?);
        }
        self.finish_copy(pending)
    }

    fn finish_copy<T: bytemuck::Pod>(&self, pending: PendingRead) -> Result<Vec<T>> {
        self.wait_for(pending.submission.clone())?;
        match pending.ready.recv() {
            Ok(Ok(())) => {}
            outcome => {
                return Err(Error::failure(format!("reading back from the device failed: {outcome:?}")));
            }
        }
        let view = pending
            .staging
            .slice(..)
            .get_mapped_range()
            .map_err(|e| Error::failure(format!("reading back from the device failed: {e}")))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }

    /// Copies a range of a buffer to the host.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn read(&self, buffer: &SharedBuffer, range: Range<u64>) -> Result<Vec<u8>> {
        let pending = self.start_read(buffer, range);
        self.finish_read(pending)
    }

    fn wait_for(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.device
            .poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
            .map(|_| ())
            .map_err(device_lost)
    }
}
