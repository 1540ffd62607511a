//! Queries to replay: a recorded log in its order, or every query equally often in an order by seed.

use std::{fs::File, io::ErrorKind, path::Path};

use arrow::array::{Array, AsArray as _, StringArray};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::BenchError;

const COLUMN: &str = "query";

/// Queries by request number. The same file and seed give the same queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queries(Vec<String>);

impl Queries {
    /// A seed shuffles; without one the order is kept. Empty lines must be gone.
    pub fn new(mut queries: Vec<String>, seed: Option<u64>) -> Self {
        if let Some(seed) = seed {
            queries.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        Self(queries)
    }

    /// The query of a request; after the last the first comes again.
    pub fn get(&self, index: u64) -> &str {
        let count = self.0.len().max(1) as u64;
        self.0.get((index % count) as usize).map_or("", String::as_str)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads a query a line, or the column `query` of a Parquet file.
pub fn read_queries(path: &Path) -> Result<Vec<String>, BenchError> {
    let is_parquet = path.extension().is_some_and(|extension| extension == "parquet");
    let mut queries = if is_parquet { read_parquet(path)? } else { read_text(path)? };
    queries.retain(|query| !query.trim().is_empty());
    if queries.is_empty() {
        return Err(BenchError::NoQueries { path: path.to_owned() });
    }
    Ok(queries)
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> BenchError {
    move |source| BenchError::ReadQueries { path: path.to_owned(), source }
}

fn read_text(path: &Path) -> Result<Vec<String>, BenchError> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => column(path)("it is no UTF-8 text"),
        _ => io(path)(error),
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn column<E: ToString>(path: &Path) -> impl Fn(E) -> BenchError {
    move |reason| BenchError::QueryColumn { path: path.to_owned(), reason: reason.to_string() }
}

fn read_parquet(path: &Path) -> Result<Vec<String>, BenchError> {
    let file = File::open(path).map_err(io(path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(column(path))?;
    let only = ProjectionMask::columns(builder.parquet_schema(), [COLUMN]);
    let mut queries = Vec::new();
    for batch in builder.with_projection(only).build().map_err(column(path))? {
        let batch = batch.map_err(column(path))?;
        let texts = batch.column_by_name(COLUMN).ok_or_else(|| column(path)("it has no such column"))?;
        let texts: &StringArray =
            texts.as_string_opt().ok_or_else(|| column(path)("the column holds no strings"))?;
        queries.extend((0..texts.len()).filter(|i| texts.is_valid(*i)).map(|i| texts.value(i).to_owned()));
    }
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_orders_queries_and_the_log_comes_again_after_its_end() {
        let log: Vec<String> = (0..50).map(|i| i.to_string()).collect();
        let of = |seed| Queries::new(log.clone(), seed);
        assert_eq!(of(Some(3)), of(Some(3)));
        assert_ne!(of(Some(3)), of(Some(4)));
        assert_eq!((of(None).get(49), of(None).get(50)), ("49", "0"));
    }

    #[test]
    fn files_are_read_and_their_faults_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        std::fs::write(&path, "red kettle\n\n  \nblue mug\n").unwrap();
        assert_eq!(read_queries(&path).unwrap(), ["red kettle", "blue mug"]);
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(read_queries(&path), Err(BenchError::NoQueries { .. })));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read_queries(&path), Err(BenchError::QueryColumn { .. })));
        let missing = folder.path().join("none.txt");
        assert!(matches!(read_queries(&missing), Err(BenchError::ReadQueries { .. })));
    }
}
