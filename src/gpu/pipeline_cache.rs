//! Compiled pipelines, kept from one process to the next where the backend can give them out (Vulkan).

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::files;

/// Bytes of the checksum before the driver's data.
const CHECKSUM: usize = 32;

/// The driver's compiled pipelines with the file that they come from and go to.
pub(super) struct PipelineCache {
    inner: wgpu::PipelineCache,
    path: PathBuf,
    found: Vec<u8>,
}

impl PipelineCache {
    /// The cache of an adapter; none where the backend has no such thing, or the system no place for it. A file that is
    /// damaged, or another driver's, is as good as none.
    pub(super) fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let key = wgpu::util::pipeline_cache_key(adapter)?;
        let path = files::cache_dir()?.join(format!("{key}.bin"));
        let found = std::fs::read(&path).ok().and_then(|bytes| checked(&bytes)).unwrap_or_default();
        let data = (!found.is_empty()).then_some(found.as_slice());
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("rosette"), data, fallback: true };
        // SAFETY: the data is what the same function of this driver gave out: wgpu compares the driver's key, and the
        // checksum is of the whole.
        #[allow(unsafe_code)]
        let inner = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { inner, path, found })
    }

    /// What pipelines are made with.
    pub(super) fn inner(&self) -> &wgpu::PipelineCache {
        &self.inner
    }
}

impl Drop for PipelineCache {
    /// Keeps what is new. A disk that takes no more costs the next process some seconds, and nobody anything else.
    fn drop(&mut self) {
        let Some(data) = self.inner.get_data().filter(|data| *data != self.found) else { return };
        let bytes = [Sha256::digest(&data).as_slice(), &data].concat();
        let _ = files::write_atomic(&self.path, &bytes);
    }
}

/// The data of a file, where its checksum is right.
fn checked(bytes: &[u8]) -> Option<Vec<u8>> {
    let (checksum, data) = bytes.split_at_checked(CHECKSUM)?;
    (Sha256::digest(data).as_slice() == checksum).then(|| data.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_are_given_to_the_driver() {
        let data = b"what a driver gave out".to_vec();
        let mut file = [Sha256::digest(&data).as_slice(), &data].concat();
        assert_eq!(checked(&file), Some(data));
        *file.last_mut().expect("a byte") ^= 1;
        assert_eq!(checked(&file), None);
        assert_eq!(checked(&file[..CHECKSUM + 4]), None);
        assert_eq!(checked(b"short"), None);
    }
}
