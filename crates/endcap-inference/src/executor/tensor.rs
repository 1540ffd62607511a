//! The rows of a run.

use endcap_types::DType;

/// Numbers of one input.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// One input of a run: `[rows, width]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub width: usize,
    pub data: TensorData,
}

impl TensorData {
    pub fn zeros(dtype: DType, cells: usize) -> Self {
        match dtype {
            DType::F32 => Self::F32(vec![0.0; cells]),
            DType::I64 => Self::I64(vec![0; cells]),
        }
    }

    /// Numbers from little-endian bytes, such as gRPC messages carry, in one copy: they may lie anywhere, numbers must
    /// be aligned. Nothing if the bytes are not whole numbers.
    pub fn from_le_bytes(dtype: DType, bytes: &[u8]) -> Option<Self> {
        match dtype {
            DType::F32 => {
                let (numbers, rest) = bytes.as_chunks::<4>();
                rest.is_empty().then(|| Self::F32(numbers.iter().map(|n| f32::from_le_bytes(*n)).collect()))
            }
            DType::I64 => {
                let (numbers, rest) = bytes.as_chunks::<8>();
                rest.is_empty().then(|| Self::I64(numbers.iter().map(|n| i64::from_le_bytes(*n)).collect()))
            }
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => values.len() * size_of::<f32>(),
            Self::I64(values) => values.len() * size_of::<i64>(),
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Self::F32(values) => values.clear(),
            Self::I64(values) => values.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_numbers_wherever_they_lie() {
        let mut bytes = vec![0_u8];
        bytes.extend([1.5_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()));
        let floats = TensorData::from_le_bytes(DType::F32, &bytes[1..]);
        assert_eq!(floats, Some(TensorData::F32(vec![1.5, -2.0])));
        assert_eq!(TensorData::from_le_bytes(DType::F32, &bytes), None);
        let ints = TensorData::from_le_bytes(DType::I64, &(-7_i64).to_le_bytes());
        assert_eq!(ints, Some(TensorData::I64(vec![-7])));
    }
}
