//! `ModelInfer` of the Open Inference Protocol as a target: Endcap's workers, and any other server that speaks it.

use std::time::Duration;

use async_trait::async_trait;
use endcap_proto::{
    columns,
    inference::{
        ModelInferRequest, ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::InferInputTensor,
    },
};
use prost::bytes::Bytes;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tonic::transport::Channel;

use crate::{
    Answer, BenchError, Target,
    recommend::channels,
    target::{distinct, until_deadline},
};

const MAX_MESSAGE: usize = 64 << 20;

/// What to ask of an inference server.
#[derive(Debug, Clone)]
pub struct InferConfig {
    pub url: String,
    pub connections: usize,
    pub model: String,
    /// Empty: the server's choice.
    pub version: String,
    pub rows: usize,
    /// Ids are drawn below this, which every table of the model must have.
    pub ids_below: i64,
    pub seed: u64,
}

/// Asks an inference server with random rows in raw tensors, the form that costs least.
#[derive(Debug)]
pub struct InferTarget {
    clients: Vec<GrpcInferenceServiceClient<Channel>>,
    requests: Vec<ModelInferRequest>,
}

impl InferTarget {
    /// Asks the server what the model's inputs are, and draws rows for them.
    pub async fn new(config: &InferConfig) -> Result<Self, BenchError> {
        let clients: Vec<_> = channels(&config.url, config.connections)?
            .into_iter()
            .map(|channel| GrpcInferenceServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
            .collect();
        let mut request = tonic::Request::new(ModelMetadataRequest {
            name: config.model.clone(),
            version: config.version.clone(),
        });
        request.set_timeout(Duration::from_secs(5));
        let metadata = clients[0].clone().model_metadata(request).await.map_err(|status| {
            BenchError::Remote { what: "ask for the model's inputs", status: Box::new(status) }
        })?;
        let mut random = ChaCha8Rng::seed_from_u64(config.seed);
        let mut requests = Vec::new();
        for _ in 0..distinct(config.rows) {
            let mut request = ModelInferRequest {
                model_name: config.model.clone(),
                model_version: config.version.clone(),
                ..Default::default()
            };
            for input in &metadata.get_ref().inputs {
                let shape = shape(&input.name, &input.shape, config.rows)?;
                let count = shape.iter().product::<i64>().unsigned_abs() as usize;
                let numbers = numbers(&input.datatype, count, config.ids_below, &mut random)
                    .ok_or_else(|| unfit(&input.name, &format!("its type is {}", input.datatype)))?;
                request.raw_input_contents.push(numbers);
                request.inputs.push(InferInputTensor {
                    name: input.name.clone(),
                    datatype: input.datatype.clone(),
                    shape,
                    ..Default::default()
                });
            }
            requests.push(request);
        }
        Ok(Self { clients, requests })
    }
}

#[async_trait]
impl Target for InferTarget {
    async fn ask(&self, index: u64, deadline: Duration) -> Answer {
        let message = self.requests[index as usize % self.requests.len()].clone();
        let mut request = tonic::Request::new(message);
        request.set_timeout(deadline);
        let mut client = self.clients[index as usize % self.clients.len()].clone();
        match until_deadline(deadline, client.model_infer(request)).await {
            Ok(_scores) => Answer::Good { rung: None },
            Err(failed) => failed,
        }
    }
}

/// The first dimension is the rows; the others must be known.
fn shape(name: &str, declared: &[i64], rows: usize) -> Result<Vec<i64>, BenchError> {
    let mut shape = declared.to_vec();
    match shape.first_mut() {
        Some(first) if *first < 0 => *first = i64::try_from(rows).unwrap_or(i64::MAX),
        _ => return Err(unfit(name, &format!("its shape is {declared:?}"))),
    }
    if shape[1..].iter().any(|dimension| *dimension <= 0) {
        return Err(unfit(name, &format!("its shape is {declared:?}")));
    }
    Ok(shape)
}

fn unfit(input: &str, found: &str) -> BenchError {
    BenchError::Input { input: input.to_owned(), found: found.to_owned() }
}

fn numbers(datatype: &str, count: usize, ids_below: i64, random: &mut ChaCha8Rng) -> Option<Bytes> {
    match datatype {
        "FP32" => {
            let floats: Vec<f32> = (0..count).map(|_| random.random_range(-1.0..1.0)).collect();
            Some(columns::encode_f32(&floats))
        }
        "INT64" => {
            let ids: Vec<i64> = (0..count).map(|_| random.random_range(0..ids_below.max(1))).collect();
            Some(columns::encode_i64(&ids))
        }
        _ => None,
    }
}
