//! The Open Inference Protocol: raw calls of the models that this worker holds, through the same queues as rankings.
//!
//! `request.rs` turns a request into rows, `index.rs` says what is held, this file joins them.

mod index;
mod refused;
mod request;

use std::{sync::Arc, time::Duration};

use endcap_inference::{InputSignature, Part, Signature, VersionModel, Width};
use endcap_proto::{
    columns,
    inference::{
        self as wire, grpc_inference_service_server::GrpcInferenceService,
        model_infer_response::InferOutputTensor, model_metadata_response::TensorMetadata,
    },
};
use endcap_service::{Deadline, Readiness, RequestId, status::to_status};
use endcap_types::{DType, Version, Violations};
use tonic::{Request, Response, Status};

use crate::{error::WorkError, holdings::Holdings, progress::Progress};

/// For callers who bring no deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(1);
/// Follows a model's name where its encoder is meant. No model's own name holds a dot.
const ENCODER: &str = ".encoder";
const PLATFORM: &str = "onnxruntime_onnx";
const EXTENSIONS: [&str; 2] = ["model_repository(index)", "statistics"];
/// Characters of a caller's text in an error.
const SHOWN: usize = 80;

#[derive(Debug)]
pub(crate) struct OpenInference {
    pub(crate) holdings: Holdings,
    pub(crate) progress: Progress,
    pub(crate) readiness: Readiness,
}

/// A model that a request names.
struct Found {
    version: Version,
    model: Arc<VersionModel>,
    part: Part,
}

impl OpenInference {
    /// `field` is where the request names the version.
    fn find(&self, name: &str, version: &str, field: &str) -> Result<Found, WorkError> {
        let asked = number(version, field)?;
        let (model, part) = named(name);
        let fits = |version: Version| asked.is_none_or(|asked| asked == version);
        let newest = self.holdings.newest(|pin, held| {
            pin.model.as_str() == model && fits(pin.version) && held.signature(part).is_some()
        });
        match newest {
            Some((version, model)) => Ok(Found { version, model, part }),
            None => Err(self.unknown(name, asked)),
        }
    }

    async fn infer(
        &self,
        mut request: wire::ModelInferRequest,
        deadline: Deadline,
    ) -> Result<wire::ModelInferResponse, WorkError> {
        let Found { version, model, part } =
            self.find(&request.model_name, &request.model_version, "model_version")?;
        let Some(signature) = model.signature(part) else {
            return Err(self.unknown(&request.model_name, Some(version)));
        };
        let (inputs, rows) = request::rows(&request, signature)?;
        let ran = model.infer(part, inputs, rows, deadline.instant()).await;
        let ran = ran.map_err(|error| refused::explained(error, &request, signature))?;
        let mut shape = signature.output_shape.clone();
        shape[0] = i64::try_from(rows).unwrap_or(i64::MAX);
        Ok(wire::ModelInferResponse {
            model_name: std::mem::take(&mut request.model_name),
            model_version: version.to_string(),
            id: std::mem::take(&mut request.id),
            outputs: vec![InferOutputTensor {
                name: signature.output.clone(),
                datatype: datatype(DType::F32).to_owned(),
                shape,
            }],
            raw_output_contents: vec![columns::encode_f32(&ran.output)],
        })
    }

    fn metadata(
        &self,
        request: wire::ModelMetadataRequest,
    ) -> Result<wire::ModelMetadataResponse, WorkError> {
        let found = self.find(&request.name, &request.version, "version")?;
        let Some(signature) = found.model.signature(found.part) else {
            return Err(self.unknown(&request.name, Some(found.version)));
        };
        let inputs = signature.inputs.iter().map(|input| TensorMetadata {
            name: input.name.clone(),
            datatype: datatype(input.dtype).to_owned(),
            shape: vec![-1, width(input)],
        });
        Ok(wire::ModelMetadataResponse {
            versions: self.versions(&request.name).iter().map(ToString::to_string).collect(),
            name: request.name,
            platform: PLATFORM.to_owned(),
            inputs: inputs.collect(),
            outputs: vec![output(signature)],
        })
    }
}

fn output(signature: &Signature) -> TensorMetadata {
    TensorMetadata {
        name: signature.output.clone(),
        datatype: datatype(DType::F32).to_owned(),
        shape: signature.output_shape.clone(),
    }
}

/// A model's name, and which of its models is meant.
fn named(name: &str) -> (&str, Part) {
    match name.strip_suffix(ENCODER) {
        Some(model) => (model, Part::Encoder),
        None => (name, Part::Ranker),
    }
}

/// The version asked for; nothing for the highest.
fn number(text: &str, field: &str) -> Result<Option<Version>, Violations> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: endcap_types::IdError| {
        let mut violations = Violations::default();
        violations.push(field, format!("{error}; \"\" is the highest that is held"));
        violations
    })
}

fn datatype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "FP32",
        DType::I64 => "INT64",
    }
}

/// As much of a caller's text as an error should repeat.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Numbers per row as metadata say it: -1 where the caller chooses.
fn width(input: &InputSignature) -> i64 {
    match input.width {
        Width::Fixed(width) => i64::try_from(width).unwrap_or(i64::MAX),
        Width::UpTo(_) => -1,
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for OpenInference {
    async fn server_live(
        &self,
        _: Request<wire::ServerLiveRequest>,
    ) -> Result<Response<wire::ServerLiveResponse>, Status> {
        Ok(Response::new(wire::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<wire::ServerReadyRequest>,
    ) -> Result<Response<wire::ServerReadyResponse>, Status> {
        Ok(Response::new(wire::ServerReadyResponse { ready: self.readiness.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<wire::ModelReadyRequest>,
    ) -> Result<Response<wire::ModelReadyResponse>, Status> {
        let (id, request) = (RequestId::of(&request), request.into_inner());
        // What is held has passed its golden requests: nothing is held before.
        match self.find(&request.name, &request.version, "version") {
            Ok(_) => Ok(Response::new(wire::ModelReadyResponse { ready: true })),
            Err(error) if error.is_absence() => Ok(Response::new(wire::ModelReadyResponse { ready: false })),
            Err(error) => Err(to_status(&error, &id)),
        }
    }

    async fn server_metadata(
        &self,
        _: Request<wire::ServerMetadataRequest>,
    ) -> Result<Response<wire::ServerMetadataResponse>, Status> {
        Ok(Response::new(wire::ServerMetadataResponse {
            name: "endcap".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Result<Response<wire::ModelMetadataResponse>, Status> {
        let id = RequestId::of(&request);
        self.metadata(request.into_inner()).map(Response::new).map_err(|error| to_status(&error, &id))
    }

    async fn model_infer(
        &self,
        request: Request<wire::ModelInferRequest>,
    ) -> Result<Response<wire::ModelInferResponse>, Status> {
        let (id, deadline) = (RequestId::of(&request), Deadline::of(&request, DEFAULT_DEADLINE));
        let inferred = self.infer(request.into_inner(), deadline).await;
        inferred.map(Response::new).map_err(|error| to_status(&error, &id))
    }

    async fn model_statistics(
        &self,
        request: Request<wire::ModelStatisticsRequest>,
    ) -> Result<Response<wire::ModelStatisticsResponse>, Status> {
        let id = RequestId::of(&request);
        self.statistics(&request.into_inner()).map(Response::new).map_err(|error| to_status(&error, &id))
    }

    async fn repository_index(
        &self,
        request: Request<wire::RepositoryIndexRequest>,
    ) -> Result<Response<wire::RepositoryIndexResponse>, Status> {
        let id = RequestId::of(&request);
        self.index(&request.into_inner()).map(Response::new).map_err(|error| to_status(&error, &id))
    }
}
