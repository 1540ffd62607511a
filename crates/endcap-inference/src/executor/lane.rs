//! A session and the buffers that it reads from.

use std::{borrow::Cow, fmt::Display};

use ort::{
    session::{Session, SessionInputValue},
    value::TensorRef,
};

use super::{ExecutorOptions, TensorData, queue::Job};
use crate::InferError;

/// One session; whoever holds it may run it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) id: usize,
    session: Session,
    /// Where the rows of several jobs are put one below the other; per input, and reused.
    joined: Vec<TensorData>,
}

/// What one run gave each job of its batch.
pub(super) struct Outputs {
    pub(super) each: Vec<Vec<f32>>,
    pub(super) width: usize,
}

impl Lane {
    pub(super) fn new(id: usize, session: Session, inputs: usize) -> Self {
        Self { id, session, joined: vec![TensorData::F32(Vec::new()); inputs] }
    }

    /// Runs all jobs, which have one shape, at once. One job's rows are read where they are; those of several are
    /// copied once.
    pub(super) fn run(&mut self, options: &ExecutorOptions, jobs: &[Job]) -> Result<Outputs, InferError> {
        let rows = jobs.iter().map(|job| job.rows).sum();
        if let [_, _, ..] = jobs {
            for (i, joined) in self.joined.iter_mut().enumerate() {
                join(joined, jobs.iter().map(|job| &job.inputs[i].data));
            }
        }
        let mut inputs = Vec::with_capacity(options.inputs.len());
        for (i, name) in options.inputs.iter().enumerate() {
            let input = &jobs[0].inputs[i];
            let data = if jobs.len() == 1 { &input.data } else { &self.joined[i] };
            let view = view(data, [rows, input.width]).map_err(failed)?;
            inputs.push((Cow::Borrowed(name.as_str()), view));
        }
        let outputs = self.session.run(inputs).map_err(|error| InferError::of_run(&error))?;
        let output = outputs.get(&options.output).ok_or_else(|| failed("the output is missing"))?;
        let (shape, data) = output.try_extract_tensor::<f32>().map_err(failed)?;
        if rows == 0 || data.len() % rows != 0 || shape.first() != Some(&i64::try_from(rows).unwrap_or(-1)) {
            return Err(failed(format!("{rows} rows gave an output of shape {shape:?}")));
        }
        let width = data.len() / rows;
        let mut rest = data;
        let each = jobs.iter().map(|job| {
            let (mine, others) = rest.split_at(job.rows * width);
            rest = others;
            mine.to_vec()
        });
        Ok(Outputs { each: each.collect(), width })
    }
}

fn failed(error: impl Display) -> InferError {
    InferError::Failed { detail: error.to_string() }
}

fn join<'a>(joined: &mut TensorData, parts: impl Iterator<Item = &'a TensorData>) {
    joined.clear();
    for part in parts {
        match (&mut *joined, part) {
            (TensorData::F32(all), TensorData::F32(part)) => all.extend_from_slice(part),
            (TensorData::I64(all), TensorData::I64(part)) => all.extend_from_slice(part),
            // The buffer's first use for an input of the other type.
            (joined, part) => *joined = part.clone(),
        }
    }
}

fn view(data: &TensorData, shape: [usize; 2]) -> ort::Result<SessionInputValue<'_>> {
    Ok(match data {
        TensorData::F32(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),
        TensorData::I64(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),
    })
}
