//! The LZF filter that h5py offers as `compression="lzf"` (registered as HDF5 filter 32000).
//!
//! The stream is a sequence of runs. A control byte below 32 starts `control + 1` literal bytes. Any other holds a
//! length in its upper three bits (7 means: add the next byte) and the upper five bits of a distance, whose lower
//! eight follow: copy `length + 2` bytes from `distance + 1` bytes back, overlapping itself where it must.

use hdf5_reader::error::Error;
use hdf5_reader::messages::filter_pipeline::FilterDescription;

/// The number under which the HDF Group registered the filter.
pub(super) const FILTER_ID: u16 = 32000;
/// Where the filter's parameters hold the chunk's size in bytes.
const CHUNK_BYTES_PARAMETER: usize = 2;
/// A copy makes at most 264 bytes out of three.
const MAX_EXPANSION: usize = 88;

/// Decodes one chunk, bounded by the chunk size that the file declares.
pub(super) fn filter(description: &FilterDescription, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let bound = bytes.len().saturating_mul(MAX_EXPANSION);
    let declared = description.client_data.get(CHUNK_BYTES_PARAMETER).map_or(bound, |&n| n as usize);
    decode(bytes, declared.min(bound))
        .ok_or_else(|| Error::DecompressionError("LZF stream is damaged".to_string()))
}

/// Decodes `input` into at most `limit` bytes; `None` where the stream is damaged or longer than that.
fn decode(mut input: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(limit);
    while let Some((&control, rest)) = input.split_first() {
        input = if control < 32 {
            let (run, rest) = rest.split_at_checked(usize::from(control) + 1)?;
            out.extend_from_slice(run);
            rest
        } else {
            copy_back(control, rest, &mut out)?
        };
        if out.len() > limit {
            return None;
        }
    }
    Some(out)
}

/// Appends one copy to `out` and returns what follows it in the stream.
fn copy_back<'a>(control: u8, mut input: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut next = || {
        let (&byte, rest) = input.split_first()?;
        input = rest;
        Some(usize::from(byte))
    };
    let mut length = usize::from(control >> 5);
    if length == 7 {
        length += next()?;
    }
    let distance = (usize::from(control & 31) << 8) + next()? + 1;
    let start = out.len().checked_sub(distance)?;
    for at in start..start + length + 2 {
        out.push(out[at]);
    }
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn literals_and_overlapping_copies() {
        // "abc", then nine bytes from three back.
        assert_eq!(decode(&[2, b'a', b'b', b'c', 0xe0, 0, 2], 64).unwrap(), b"abcabcabcabc");
        assert_eq!(decode(&[2, b'a', b'b', b'c', 0x20, 2], 64).unwrap(), b"abcabc");
        assert_eq!(decode(&[], 0).unwrap(), b"");
    }

    #[test]
    fn damaged_streams_are_refused() {
        assert_eq!(decode(&[5, 1, 2], 64), None, "literal run beyond the end");
        assert_eq!(decode(&[0, 1, 0x20, 1], 64), None, "copy from before the start");
        assert_eq!(decode(&[0, 1, 0xe0], 64), None, "length byte missing");
        assert_eq!(decode(&[0, 1, 0x20], 64), None, "distance byte missing");
        assert_eq!(decode(&[0, 1, 0xe0, 255, 0], 64), None, "longer than the chunk");
    }
}
