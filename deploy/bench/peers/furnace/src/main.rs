//! `furnace-peer MODEL.onnx NAME GRPC_PORT HTTP_PORT`: furnace-server with batching, around one ONNX Runtime session.

use std::{error::Error, sync::Mutex};

use furnace::{DataType, HostTensor, IoSpec, Model, ModelError, Server, TensorModel, Values};
use ort::{
    session::{Session, SessionInputValue},
    value::Tensor,
};

const DENSE: usize = 64;
const TABLES: usize = 8;

#[derive(Debug)]
struct Ranker {
    name: String,
    session: Mutex<Session>,
}

impl TensorModel for Ranker {
    fn name(&self) -> &str {
        &self.name
    }

    fn backend(&self) -> &str {
        "cpu"
    }

    fn inputs(&self) -> Vec<IoSpec> {
        vec![IoSpec::fp32("dense", &[DENSE]), IoSpec::new("ids", DataType::Int64, &[Some(TABLES)])]
    }

    fn outputs(&self) -> Vec<IoSpec> {
        vec![IoSpec::fp32("score", &[1])]
    }

    fn run(&self, inputs: Vec<HostTensor>) -> furnace::Result<Vec<HostTensor>> {
        let rows = inputs[0].batch();
        let values = score(&self.session, inputs).map_err(|e| ModelError::InferenceFailed(e.to_string()))?;
        Ok(vec![HostTensor { shape: vec![rows, 1], values: Values::F32(values) }])
    }
}

fn score(session: &Mutex<Session>, inputs: Vec<HostTensor>) -> Result<Vec<f32>, Box<dyn Error>> {
    let mut given: Vec<(&str, SessionInputValue<'_>)> = Vec::new();
    for (name, tensor) in ["dense", "ids"].into_iter().zip(inputs) {
        let value = match tensor.values {
            Values::F32(values) => Tensor::from_array((tensor.shape, values))?.into(),
            Values::I64(values) => Tensor::from_array((tensor.shape, values))?.into(),
        };
        given.push((name, value));
    }
    let mut session = session.lock().map_err(|_| "another request panicked")?;
    let outputs = session.run(given)?;
    Ok(outputs["score"].try_extract_tensor::<f32>()?.1.to_vec())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, name, grpc, http] = arguments.as_slice() else {
        return Err("usage: furnace-peer MODEL.onnx NAME GRPC_PORT HTTP_PORT".into());
    };
    let environment = ort::init_from(std::env::var("ORT_DYLIB_PATH")?)?.with_telemetry(false).build()?;
    let session = Session::builder(&environment)?.with_intra_threads(1)?.commit_from_file(path)?;
    let (grpc, http) = (grpc.parse()?, http.parse()?);
    let model = Model::custom(Ranker { name: name.clone(), session: Mutex::new(session) });
    let server = Server::new().port(http).max_batch_size(64).model(model);
    server.configure(|config| config.grpc_port = Some(grpc)).serve().await?;
    Ok(())
}
